"""Adaptor of `concurrent.futures.ProcessPoolExecutor`; with forkserver it is the baseline of every ratio."""

import multiprocessing
from concurrent.futures.process import ProcessPoolExecutor
from typing import Any

from benchmarks import tasks
from benchmarks.contenders.protocol import ExecutorContender


class StandardExecutor(ExecutorContender):
    """The standard library's executor under one start method."""

    def __init__(self, workers: int, *, fresh: bool = False, start_method: str) -> None:
        self.workers = workers
        self.context = multiprocessing.get_context(start_method)
        super().__init__(
            ProcessPoolExecutor(
                workers,
                mp_context=self.context,
                max_tasks_per_child=1 if fresh else None,
            )
        )

    def share(self, value: Any) -> Any:
        """Start other workers, which have the value from their initializer."""
        self.executor.shutdown(wait=True)
        self.executor = ProcessPoolExecutor(self.workers, self.context, tasks.keep, (value,))
        self.submit = self.executor.submit
