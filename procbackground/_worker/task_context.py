"""What `procbackground.current()` returns inside a task; a worker makes it only where a task asks for it."""

from __future__ import annotations

import pickle
import time

from procbackground._wire import frames as wire
from procbackground._wire.page import SIGN_NS, STOP
from procbackground._wire.pickling import dump_state
from procbackground.context import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from procbackground._worker.execute import Executor


class Saved:
    """The state that a task saved last, pickled. A loop's iterations share one."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | None) -> None:
        self.data: bytes | None = data


class TaskContext(Context):
    """The object that `current()` returns inside a task; made at the first `current()` of a call or row."""

    __slots__ = ("_executor", "_saved", "_sequence", "row")

    def __init__(self, executor: Executor, name: str, attempt: int, sequence: int, saved: Saved, row: int = 0) -> None:
        super().__init__(name, attempt)
        self._executor = executor
        self._sequence = sequence
        self._saved = saved
        self.row = row  # of a chunk

    @property
    def stopping(self) -> bool:
        executor = self._executor
        executor.is_cooperative = True
        return executor.words[executor.base + STOP] != 0

    @property
    def slots(self) -> dict[str, tuple[int, ...]]:
        return dict(self._executor.slots)

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

    def save(self, state: Any) -> None:
        channel = self._executor.channel
        if channel.is_own:
            data = dump_state(state)
            channel.send(wire.CHECKPOINT, self._sequence, wire.CHECKPOINT_HEAD.pack(self.row) + data)
            self._saved.data = data

    @property
    def saved(self) -> Any:
        state = load_state(self._saved.data, self.name)
        if state is None:
            self._saved.data = None  # one warning is enough
        return state


def load_state(data: bytes | None, name: str) -> Any:
    """Return the state that a task saved; None, with a warning, where it cannot be loaded."""
    if data is None:
        return None
    try:
        return pickle.loads(data)
    except Exception as error:
        import logging  # imported here: most workers do not need it otherwise

        text = "the state that %r saved cannot be loaded, so it starts afresh: %r"
        logging.getLogger("procbackground").warning(text, name, error)
        return None
