"""Adaptor of `multiprocessing.Pool`."""

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.contenders.protocol import Contender


class StandardPool(Contender):
    """The standard library's older pool; closed by `terminate`, as `join` may never end after a kill."""

    def __init__(self, workers: int, *, fresh: bool = False, start_method: str) -> None:
        context = multiprocessing.get_context(start_method)
        self.pool = context.Pool(workers, maxtasksperchild=1 if fresh else None)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.pool.apply_async(fn, args)

    def result_of(self, handle: Any, timeout_s: float | None = None) -> Any:
        return handle.get(timeout_s)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk_size: int | None) -> list[Any]:
        return self.pool.map(fn, items, chunk_size)

    def close(self) -> None:
        self.pool.terminate()
        self.pool.join()
