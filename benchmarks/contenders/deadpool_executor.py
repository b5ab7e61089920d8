"""Adaptor of deadpool-executor's `Deadpool`."""

from deadpool import Deadpool

from benchmarks.contenders.protocol import ExecutorContender


class DeadpoolExecutor(ExecutorContender):
    """An executor whose queue is bounded unless told otherwise; here it may grow, like everybody's."""

    def __init__(self, workers: int, *, fresh: bool = False, start_method: str) -> None:
        super().__init__(
            Deadpool(
                max_workers=workers,
                max_tasks_per_child=1 if fresh else None,
                mp_context=start_method,
                max_backlog=0,
            )
        )
