"""Shows progress as plain lines: for pipes, files and CI, and where no library that draws bars is installed."""

from __future__ import annotations

import sys
import time
from typing import IO, TYPE_CHECKING

from procbackground._printable import printable
from procbackground.observers.runs import RunObserver, brief

if TYPE_CHECKING:
    from procbackground import events

EACH_S = 10.0  # between two lines; a log of an hour has some hundreds
FIRST_S = 2.0  # until the first: a run that is shorter gets only its summary
LISTED_FAILURES = 20  # failures that get a line of their own


class PlainProgressObserver(RunObserver):
    """Writes a line about the run now and then, one for each of the first failures, and one at the end.

    A line is written whole and contains no control characters.

    Args:
        stream: a text stream; standard error by default.
        each: seconds between two lines.
    """

    def __init__(self, stream: IO[str] | None = None, *, each: float = EACH_S) -> None:
        super().__init__()
        self._stream = stream
        self._each_s = each
        self._due_s = self._run.began_s + min(FIRST_S, each)

    def on_task_failed(self, event: events.TaskFailed) -> None:
        if self._run.failed < LISTED_FAILURES:
            self._write(f"task {event.task.name} failed: {brief(event.error)}")
        super().on_task_failed(event)

    def on_manager_closed(self, event: events.ManagerClosed) -> None:
        self._run.running.clear()
        self._write(self._run.summary())

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + self._each_s
            self._write(self._run.summary())

    def _write(self, text: str) -> None:
        """Write one line."""
        stream = sys.stderr if self._stream is None else self._stream
        if stream is not None:  # as under pythonw
            stream.write(f"procbackground: {printable(text)}\n")
            stream.flush()
