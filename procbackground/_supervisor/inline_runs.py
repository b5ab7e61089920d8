"""The tasks of an inline manager: each is run to its end, with its retries, by the thread that gives it."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from typing import Any

from procbackground._figures import Figures
from procbackground._state.job import SETTLED, Job
from procbackground._supervisor.clock import WallClock
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.inline_context import InlineContext, InlineSlots, as_current, with_shared_values
from procbackground._supervisor.inline_logs import records_from
from procbackground._supervisor.inline_progress import InlineProgress
from procbackground._supervisor.judge import ask_policy
from procbackground._supervisor.unseen import UnseenFailures
from procbackground._sync import SafeCondition
from procbackground.report import Outcome, Progress, Stats


class InlineRuns:
    """The tasks that run, and the figures of those that have ended."""

    def __init__(self, observers: Iterable[Any], slots: Mapping[str, int]) -> None:
        self.wall = WallClock()
        self.figures = Figures()
        self.events = Events(observers, f"procbackground-{id(self):x}")
        self.unseen = UnseenFailures(lambda act: None)  # it reports at the close: a finalizer must not log
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        self.changed = SafeCondition(threading.RLock())  # guards the rest
        self._slots = InlineSlots(slots, self.changed)
        self.running: set[Job] = set()
        self.loops: set[Job] = set()
        self._progress: dict[Job, InlineProgress] = {}  # of tasks that have reported
        self.holds = 0  # maps that are about to give more tasks
        self.refuses_loops = False
        self.stops_all = False
        self.counts = dict.fromkeys(("succeeded", "failed", "cancelled", "retried"), 0)

    # -- what all of them do -------------------------------------------------------------------------------

    @property
    def finished(self) -> int:
        """How many tasks have succeeded or failed."""
        return self.counts["succeeded"] + self.counts["failed"]

    def stats(self) -> Stats:
        with self.changed:
            running = len(self.running) + len(self.loops)
            added = self.finished + self.counts["cancelled"] + running  # in this way, as an interrupt may come anywhere
            return Stats(added=added, **self.counts, respawned=0, queued=0, running=running)

    def wait_for(self, is_so: Callable[[], bool], timeout_s: float | None) -> bool:
        with self.changed:
            return self.changed.wait_for(is_so, timeout_s)

    def end_loops(self, *, stops_all: bool = False) -> None:
        """Ask loops to end, and with `stops_all` everything that runs."""
        with self.changed:
            self.refuses_loops = True
            self.stops_all = self.stops_all or stops_all
            self.changed.notify_all()

    # -- one of them ---------------------------------------------------------------------------------------

    def take_in(self, job: Job) -> None:
        """Number and count the job."""
        with self.changed:
            job.number = next(self._numbers)
            (self.loops if job.recipe.is_loop else self.running).add(job)
        self.events.task("on_task_added", job)

    def abandon(self, job: Job) -> None:
        """An exception has interrupted the thread that runs the job: end it as cancelled, if it has not ended."""
        if self.settle(job, CANCELLED_AND_NOTIFIED) or job.handle.done():
            return
        if job.handle._settle(CANCELLED_AND_NOTIFIED, None, None):  # it was interrupted as it settled
            job.handle._invoke_callbacks()

    def run_to_end(self, job: Job) -> None:
        """Run a one-off, attempt after attempt."""
        while True:
            value, error = self._attempt(job)
            if not self.ends_attempt(job, value, error):
                return

    def _attempt(self, job: Job) -> tuple[Any, BaseException | None]:
        """Call the function once; return its value, or what it raised. Ctrl-C ends the task, and is raised."""
        task = job.handle.task
        job.started_s = time.monotonic()
        self.events.task("on_task_started", job, pid=self._pid)
        try:
            fn, args, kwargs = with_shared_values(job, task)
            origin = records_from(job.recipe.name, job.number, job.attempt)
            with self._slots.held(job) as slots, as_current(InlineContext(self, job, slots)), origin:
                return fn(*args, **kwargs), None
        except KeyboardInterrupt:
            self.settle(job, CANCELLED_AND_NOTIFIED)
            raise
        except BaseException as error:
            return None, error

    def report(self, job: Job, progress: Progress) -> None:
        """Take what the task reports by `current().progress(...)`."""
        reports = self._progress.get(job)
        if reports is None:
            with self.changed:
                if job.has_settled:
                    return  # it was cancelled, and still runs
                reports = self._progress.setdefault(job, InlineProgress(self.events, job))
        reports.report(progress)

    def _flush_progress(self, job: Job) -> None:
        reports = self._progress.get(job)
        if reports is not None:
            reports.flush()  # events of one task stay in order

    def ends_attempt(self, job: Job, value: Any, error: BaseException | None) -> bool:
        """Record the attempt; settle the job, or pause and return True: there is another attempt."""
        if job.has_settled:
            return False  # it was cancelled meanwhile
        now_s = time.monotonic()
        outcome = Outcome.SUCCEEDED if error is None else Outcome.RAISED
        job.record(outcome, now_s, self.wall, pid=self._pid, error=error)
        with self.changed:
            self.figures.attempt(self._pid, job.recipe.name, outcome, job.started_s, now_s)
        delay_s = None
        if job.recipe.retry is not None:
            try:
                delay_s = ask_policy(job, value, error, now_s)
            except Exception as broken:
                broken.__context__ = error
                value, error = None, broken
        if delay_s is None or self.asks_to_stop(job):
            self.settle(job, FINISHED, value, error)
            return False
        with self.changed:
            self.counts["retried"] += 1
            self.figures.of(job.recipe.name).retried += 1
        self._flush_progress(job)
        self.events.task("on_task_retrying", job, error=error, delay=delay_s)
        self.pause(job, delay_s)
        job.with_history().idle_for_s += delay_s
        job.attempt += 1
        return not job.has_settled

    def run_loop(self, job: Job) -> None:
        """Run a loop until it is to stop."""
        while not self.asks_to_stop(job):
            _, error = self._attempt_of_loop(job)
            if error is not None and not job.has_settled:
                self._end_failed_iteration(job, error)
            elif error is None:
                job.attempt = 1
            if job.recipe.interval_s:
                self.pause(job, job.recipe.interval_s)
        self.settle(job, CANCELLED_AND_NOTIFIED)

    def _attempt_of_loop(self, job: Job) -> tuple[Any, BaseException | None]:
        try:
            return self._attempt(job)
        except KeyboardInterrupt as error:  # raised by the function: signals reach the main thread only
            return None, error

    def _end_failed_iteration(self, job: Job, error: BaseException) -> None:
        self._flush_progress(job)
        now_s = time.monotonic()
        job.record(Outcome.RAISED, now_s, self.wall, pid=self._pid, error=error)
        delay_s = None
        if job.recipe.retry is not None:
            try:
                delay_s = ask_policy(job, None, error, now_s)
            except Exception as broken:
                error = broken
        if delay_s is None:
            self.events.task("on_task_failed", job, error=error)
            job.attempt = 1
            saved, job.history = job.with_history().checkpoint, None
            job.with_history().checkpoint = saved
            return
        self.events.task("on_task_retrying", job, error=error, delay=delay_s)
        self.pause(job, delay_s)
        job.attempt += 1

    def pause(self, job: Job, seconds: float) -> None:
        """Sleep, or until the job is to stop."""
        with self.changed:
            self.changed.wait_for(lambda: self.asks_to_stop(job), max(0.0, seconds))

    def asks_to_stop(self, job: Job) -> bool:
        """Whether the job was cancelled, or the manager stops what runs."""
        return job.has_settled or self.stops_all or (job.recipe.is_loop and self.refuses_loops)

    def settle(self, job: Job, state: str, value: Any = None, error: BaseException | None = None) -> bool:
        """Settle the job's handle, in this `state` of a future; return False where it had ended already."""
        with self.changed:
            if job.has_settled:
                return False
            self.running.discard(job)
            self.loops.discard(job)
            job.state = SETTLED
            how = "cancelled" if state != FINISHED else "succeeded" if error is None else "failed"
            self.counts[how] += 1
            self.figures.end(job.recipe.name, how, None if error is None else type(error).__name__)
            reports = self._progress.pop(job, None)
            self.changed.notify_all()
        if reports is not None:
            reports.end()
        handle = job.handle
        handle._history = tuple(job.history.attempts) if job.history is not None else ()
        handle._guard = None if error is None or self.events.has_failed else self.unseen.guard(job.recipe.name, error)
        has_callbacks = handle._settle(state, value, error)
        facts: dict[str, Any] = {"succeeded": {"result": value}, "failed": {"error": error}}.get(how, {})
        self.events.task(f"on_task_{how}", job, **facts)
        if has_callbacks:
            handle._invoke_callbacks()
        return True
