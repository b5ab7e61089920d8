"""Adaptor of `concurrent.futures.ProcessPoolExecutor`; with forkserver it is the baseline of every ratio."""

import multiprocessing
from concurrent.futures.process import ProcessPoolExecutor

from benchmarks.contenders.protocol import ExecutorContender


class StandardExecutor(ExecutorContender):
    """The standard library's executor under one start method."""

    def __init__(self, workers: int, *, fresh: bool = False, start_method: str) -> None:
        super().__init__(
            ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context(start_method),
                max_tasks_per_child=1 if fresh else None,
            )
        )
