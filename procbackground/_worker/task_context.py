"""What `procbackground.current()` returns inside a task; a worker makes it only where a task asks for it."""

from __future__ import annotations

import pickle
import time

from procbackground._wire import frames as wire
from procbackground._wire.page import SIGN_NS, STOP
from procbackground._wire.pickling import PROTOCOL
from procbackground.context import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
        self.heartbeat()
        channel = self._executor.channel
        if channel.is_own:
            facts = (_number(done), None if total is None else _number(total), _text(message))
            channel.send(wire.PROGRESS, self._sequence, pickle.dumps(facts, PROTOCOL))

    def heartbeat(self) -> None:
        executor = self._executor
        executor.words[executor.base + SIGN_NS] = time.monotonic_ns()

    def wait(self, seconds: float) -> bool:
        if not self.stopping:
            self._executor.sleep(seconds)
        return self.stopping


def _number(value: Any) -> float:
    """Return a plain number: the parent loads progress in a thread where the user's code must not run."""
    return value if type(value) in (int, float) else float(value)


def _text(message: Any) -> str | None:
    return None if message is None else str(message)
