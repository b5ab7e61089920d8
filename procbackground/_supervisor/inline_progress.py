"""The progress events of a task that runs in its caller's process: as few of them as a worker's task makes."""

from __future__ import annotations

import threading
import time
from typing import Any

from procbackground._state.job import Job
from procbackground._supervisor.events_out import Events
from procbackground._wire.progress import EXACT, INTERVAL_S, TEXT_LIMIT
from procbackground._worker.progress import checked_number
from procbackground.report import Progress

CLOSE_S = 1.0  # for a timer that was cancelled to end: it has nothing left to do


class InlineProgress:
    """What one task reports. An event is sent at most each `INTERVAL_S`, and there is always one for the last report.

    A report that comes sooner is kept for a timer, which sends the latest one: the task may then compute for long.
    """

    def __init__(self, events: Events, job: Job) -> None:
        self._events = events
        self._job = job
        self._is_wanted = "on_task_progress" in events.wanted
        self._lock = threading.RLock()  # guards the rest; a signal handler in the task may report, too
        self._unsent: Progress | None = None
        self._sent_s = 0.0
        self._timer: threading.Timer | None = None
        self._has_ended = False

    def report(self, progress: Progress) -> None:
        """Take a report."""
        with self._lock:
            if self._has_ended:
                return  # the task was cancelled, and still runs
            self._job.handle._progress = progress
            if not self._is_wanted:
                return
            self._unsent = progress
            if self._timer is not None:
                return
            wait_s = self._sent_s + INTERVAL_S - time.monotonic()
            if wait_s > 0:
                timer = threading.Timer(wait_s, self._on_time)
                timer.daemon = True
                try:
                    timer.start()
                    self._timer = timer
                    return
                except RuntimeError:
                    pass  # no thread can be started
            self.flush()

    def _on_time(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():
                self._timer = None
                self.flush()

    def flush(self) -> None:
        """Send the last report now, unless it was sent."""
        with self._lock:
            latest, self._unsent = self._unsent, None
            if latest is not None:
                self._sent_s = time.monotonic()
                facts: dict[str, Any] = {"done": latest.done, "total": latest.total, "message": latest.message}
                self._events.task("on_task_progress", self._job, **facts)

    def end(self) -> None:
        """Send the last report, and take no more."""
        with self._lock:
            self._has_ended = True
            timer, self._timer = self._timer, None
            self.flush()
        if timer is not None:
            timer.cancel()
            timer.join(CLOSE_S)


def as_reported(done: Any, total: Any, message: Any) -> Progress:
    """Return a report as a worker's task would make it. Raises: `TypeError`."""
    text = None if message is None else str(message).encode("utf-8", "replace")[:TEXT_LIMIT].decode("utf-8", "ignore")
    return Progress(_number(done), None if total is None else _number(total), text)


def _number(value: Any) -> float:
    return value if type(value) is int and -EXACT <= value <= EXACT else checked_number(value)
