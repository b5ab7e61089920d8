"""Adaptor of pebble's `ProcessPool`."""

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

from pebble import ProcessPool

from benchmarks.contenders.protocol import Contender


class PebblePool(Contender):
    """pebble schedules with a tuple of arguments and maps into one future."""

    def __init__(self, workers: int, *, fresh: bool = False, start_method: str) -> None:
        context = multiprocessing.get_context(start_method)
        self.pool = ProcessPool(max_workers=workers, max_tasks=1 if fresh else 0, context=context)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.pool.schedule(fn, args)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk_size: int | None) -> list[Any]:
        return list(self.pool.map(fn, items, chunksize=chunk_size or 1).result())

    def close(self) -> None:
        self.pool.stop()
        self.pool.join()
