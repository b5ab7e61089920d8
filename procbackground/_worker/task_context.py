"""What `procbackground.current()` returns inside a task; a worker makes it only where a task asks for it."""

from __future__ import annotations

import time

from procbackground._wire.page import SIGN_NS, STOP
from procbackground.context import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procbackground._worker.execute import Executor


class TaskContext(Context):
    """The object that `current()` returns inside a task; made at the first `current()` of a call."""

    __slots__ = ("_executor", "_sequence")

    def __init__(self, executor: Executor, name: str, attempt: int, sequence: int) -> None:
        super().__init__(name, attempt)
        self._executor = executor
        self._sequence = sequence

    @property
    def stopping(self) -> bool:
        executor = self._executor
        executor.is_cooperative = True
        return executor.words[executor.base + STOP] != 0

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        executor = self._executor
        if self._sequence == executor.sequence:  # else this thread has outlived its task
            executor.reporter.report(self._sequence, done, total, message)

    def heartbeat(self) -> None:
        executor = self._executor
        executor.words[executor.base + SIGN_NS] = time.monotonic_ns()

    def wait(self, seconds: float) -> bool:
        if not self.stopping:
            self._executor.sleep(seconds)
        return self.stopping
