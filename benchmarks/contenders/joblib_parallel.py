"""Adaptor of joblib's `Parallel` with its default backend, a bundled loky."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from benchmarks.contenders.protocol import Contender, NotOfferedError


class JoblibParallel(Contender):
    """joblib cannot submit: a burst of tasks, or a single call, is one `Parallel` call here."""

    def __init__(self, workers: int, *, fresh: bool = False) -> None:
        if fresh:
            raise NotOfferedError("no limit of tasks per process")
        self.workers = workers

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        raise NotOfferedError("no submit")

    def run_each(self, fn: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return self._parallel((delayed(fn)(*each) for each in arguments), batch_size="auto")

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._parallel([delayed(fn)(*args)], batch_size=1)[0]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk_size: int | None) -> list[Any]:
        return self._parallel((delayed(fn)(item) for item in items), batch_size=chunk_size or "auto")

    def share(self, value: Any) -> Any:
        return value  # it maps large arrays by itself

    def _parallel(self, calls: Iterable[Any], batch_size: int | str) -> list[Any]:
        # joblib keeps one executor behind all calls with the same `n_jobs`, so the workers stay warm.
        return list(Parallel(n_jobs=self.workers, batch_size=batch_size)(calls))

    def close(self) -> None:
        get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)
