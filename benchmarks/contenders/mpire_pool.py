"""Adaptor of mpire's `WorkerPool`."""

from collections.abc import Callable, Sequence
from typing import Any

from mpire import WorkerPool

from benchmarks.contenders.protocol import Contender


class MpirePool(Contender):
    """mpire can limit a worker's tasks only in its maps, so tasks in fresh processes go through one."""

    def __init__(self, workers: int, *, fresh: bool = False, start_method: str) -> None:
        self.is_fresh = fresh
        # By default mpire gives a task, when it is submitted, to whoever answered last, so two long ones may
        # queue behind one worker while the other idles; strict turns keep both workers busy.
        self.pool = WorkerPool(n_jobs=workers, start_method=start_method, order_tasks=True)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.pool.apply_async(fn, args)

    def result_of(self, handle: Any, timeout_s: float | None = None) -> Any:
        return handle.get(timeout_s)

    def run_each(self, fn: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self.is_fresh:
            return list(self.pool.map(fn, arguments, chunk_size=1, worker_lifespan=1))
        return super().run_each(fn, arguments)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk_size: int | None) -> list[Any]:
        return list(self.pool.map(fn, items, chunk_size=chunk_size))

    def close(self) -> None:
        self.pool.terminate()
