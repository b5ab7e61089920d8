"""Adaptor of loky's `ProcessPoolExecutor`."""

from loky import ProcessPoolExecutor

from benchmarks.contenders.protocol import ExecutorContender, NotOfferedError


class LokyExecutor(ExecutorContender):
    """An executor over freshly started interpreters (loky's own start method)."""

    def __init__(self, workers: int, *, fresh: bool = False) -> None:
        if fresh:
            raise NotOfferedError("no limit of tasks per process")
        super().__init__(ProcessPoolExecutor(max_workers=workers))
