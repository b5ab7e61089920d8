"""Adaptor of procbackground itself, with its semantics on: a timeout and a retry policy on every task."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks.contenders.protocol import ExecutorContender
from procbackground import Manager, Observer, Task, TaskType


class ProcbackgroundManager(ExecutorContender):
    """A manager; its view with `isolate=True` where every task is to have a process of its own."""

    retries_killed_tasks = True

    def __init__(self, workers: int, *, fresh: bool = False, observer: Observer | None = None) -> None:
        self.manager = Manager(max_workers=workers, retry=3, timeout=30, observer=observer)
        super().__init__(self.manager.options(isolate=True) if fresh else self.manager)

    def stream(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for handle in self.manager.stream(Task(fn, args=(item,)) for item in items):
            yield handle.result()

    def run_loop(self, fn: Callable[..., Any], *args: Any) -> None:
        self.manager.run_task(Task(fn, args=args, type=TaskType.LOOP))

    def share(self, value: Any) -> Any:
        return self.manager.share(value)

    def close(self) -> None:
        self.manager.close()
