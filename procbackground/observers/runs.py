"""The state of a run as its events tell it: what is queued, what runs, and what has come of the rest."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from procbackground.observers.base import Observer

if TYPE_CHECKING:
    from procbackground import events


class Running:
    """A task whose attempt runs now."""

    __slots__ = ("attempt", "cpu_percent", "done", "message", "name", "pid", "rss", "since", "total")

    def __init__(self, name: str, attempt: int, pid: int, since: float) -> None:
        self.name: str = name
        self.attempt: int = attempt
        self.pid: int = pid
        self.since: float = since  # as `time.time()`
        self.done: float | None = None
        self.total: float | None = None
        self.message: str | None = None
        self.rss: int | None = None
        self.cpu_percent: float | None = None


class Run:
    """Takes events, in one thread; may be read in another. Loops are not counted among the tasks."""

    KEPT_FAILURES = 5
    WINDOW_S = 30.0  # over which the rate is taken

    def __init__(self) -> None:
        self.added: int = 0
        self.succeeded: int = 0
        self.failed: int = 0
        self.cancelled: int = 0
        self.retried: int = 0
        self.stalled: int = 0
        self.began_s: float = time.monotonic()
        self.running: dict[Any, Running] = {}  # by handle
        self.failures: deque[str] = deque(maxlen=self.KEPT_FAILURES)
        self._marks: deque[tuple[float, int]] = deque()  # (when, how many were done)

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled

    @property
    def done(self) -> int:
        """Tasks that came to their end. Thousands may be cancelled in a moment, which says nothing of the others."""
        return self.succeeded + self.failed

    def take_added(self, event: Any) -> None:
        if not is_loop(event):
            self.added += 1

    def take_started(self, event: Any) -> None:
        self.running[event.handle] = Running(event.task.name, event.attempt, event.pid, event.time)

    def take_progress(self, event: Any) -> None:
        running = self.running.get(event.handle)
        if running is not None:
            running.done, running.total, running.message = event.done, event.total, event.message

    def take_sample(self, event: Any) -> None:
        running = self.running.get(event.handle)
        if running is not None:
            running.rss, running.cpu_percent = event.sample.rss, event.sample.cpu_percent

    def take_retry(self, event: Any) -> None:
        self.retried += 1
        self.running.pop(event.handle, None)

    def take_end(self, event: Any, outcome: str) -> None:
        """Take an end; `outcome` is the counter that it belongs to."""
        if is_loop(event):
            if event.handle.done():
                self.running.pop(event.handle, None)
        else:
            self.running.pop(event.handle, None)
            setattr(self, outcome, getattr(self, outcome) + 1)
            now_s = time.monotonic()
            marks = self._marks
            if not marks or now_s - marks[-1][0] > 0.5:
                marks.append((now_s, self.done))
                while marks[0][0] < now_s - self.WINDOW_S and len(marks) > 1:
                    marks.popleft()
        if outcome == "failed":
            self.failures.append(f"{event.task.name}: {brief(event.error)}")

    def rate(self) -> float:
        """Return how many tasks are done a second: over the last half minute, or since the start."""
        now_s = time.monotonic()
        since_s, before = self.began_s, 0
        if self._marks and now_s - self._marks[0][0] > self.WINDOW_S / 2:
            since_s, before = self._marks[0]
        return (self.done - before) / max(1e-3, now_s - since_s)

    def seconds_left(self) -> float | None:
        """Return how long the tasks that have not ended will take at this rate; None while nothing says so."""
        rate = self.rate()
        return (self.added - self.ended) / rate if rate > 0 else None

    def summary(self) -> str:
        """Return one line that says how far the run is."""
        parts = [f"{self.ended}/{self.added} tasks"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.cancelled:
            parts.append(f"{self.cancelled} cancelled")
        if self.retried:
            parts.append(f"{self.retried} retried")
        if self.running:
            parts.append(f"{len(self.running)} running")
        parts.append(per_second(self.rate()))
        left_s = self.seconds_left()
        if left_s:
            parts.append(f"{duration(left_s)} left")
        else:
            parts.append(f"in {duration(time.monotonic() - self.began_s)}")
        return ", ".join(parts)


class RunObserver(Observer):
    """Follows a run. What shows it has a `_look` of its own, which is called after each change."""

    def __init__(self) -> None:
        self._run: Run = Run()

    def on_task_added(self, event: events.TaskAdded) -> None:
        self._run.take_added(event)
        self._look()

    def on_task_started(self, event: events.TaskStarted) -> None:
        self._run.take_started(event)
        self._look()

    def on_task_retrying(self, event: events.TaskRetrying) -> None:
        self._run.take_retry(event)
        self._look()

    def on_task_succeeded(self, event: events.TaskSucceeded) -> None:
        self._run.take_end(event, "succeeded")
        self._look()

    def on_task_failed(self, event: events.TaskFailed) -> None:
        self._run.take_end(event, "failed")
        self._look()

    def on_task_cancelled(self, event: events.TaskCancelled) -> None:
        self._run.take_end(event, "cancelled")
        self._look()

    def _look(self) -> None:
        raise NotImplementedError


def is_loop(event: Any) -> bool:
    return bool(event.task.type == "loop")


def brief(error: BaseException, limit: int = 200) -> str:
    """Return an error as one short line."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    name = type(error).__name__
    text = f"{name}: {text}" if text else name
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def number(value: float) -> str:
    """Return a number in full: 1234567, and 0.25, but not 1.23457e+06."""
    return f"{value:.15g}" if abs(value) < 1e15 else f"{value:g}"


def per_second(rate: float) -> str:
    """Return a rate in three digits, as "0.25/s" or "45,900/s"."""
    rounded = float(f"{rate:.3g}")
    return f"{rounded:,.0f}/s" if rounded >= 100 else f"{rounded:g}/s"


def duration(seconds: float) -> str:
    """Return seconds as "0:01:02"."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
