"""A manager without processes: `Manager(inline=True)` runs each task in the thread that gives it.

It stands in for `supervisor.Supervisor`, with the same handles, retries, events and counters, so that a debugger stops
in the task, and a test sees its coverage. Nothing can be enforced here: a task that blocks, blocks its caller.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from contextlib import AbstractContextManager
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from procbackground._figures import Figures
from procbackground._load import load
from procbackground._state.fleet import Worker
from procbackground._state.job import SETTLED, Job
from procbackground._supervisor.acceptance import Acceptance
from procbackground._supervisor.breakage import Breakage
from procbackground._supervisor.clock import WallClock
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.inline_context import (
    InlineContext,
    InlineSlots,
    as_current,
    current_context,
    install_finder,
    with_shared_values,
)
from procbackground._supervisor.judge import ask_policy, load_failure_safely
from procbackground._supervisor.shares import lay_down
from procbackground._supervisor.unseen import UnseenFailures
from procbackground._wire.shares import SharedFile
from procbackground.handle import TaskHandle
from procbackground.report import CloseReport, Outcome, ProcessInfo, Stats

if TYPE_CHECKING:
    from procbackground._report.run import RunReport
    from procbackground._submit.puller import Puller

CLOSE_S = 1.0  # for observers to take their last events


class InlineSupervisor:
    """What `Manager` calls instead of a `Supervisor`. Each call is made by the thread that runs the task.

    It has all the methods that managers, maps and handles call, and therefore many; most are a few lines.
    """

    is_inline = True  # each row of a map is a task
    tells_tasks = True
    thread: threading.Thread | None = None
    broken_text: str | None = None

    def __init__(
        self,
        context_: BaseContext,
        initializer: tuple[Callable[..., object], tuple[Any, ...]] | None,
        observers: Iterable[Any],
        slots: Mapping[str, int],
    ) -> None:
        self.context = context_
        self.wall = WallClock()
        self.figures = Figures()
        self.events = Events(observers, f"procbackground-{id(self):x}")
        self._unseen = UnseenFailures(lambda act: None)  # it reports at the close: a finalizer must not log
        self._initializer = initializer
        self._acceptance = Acceptance(initializer is not None)
        self._pid = os.getpid()
        self._changed = threading.Condition(threading.RLock())  # guards the rest
        self._slots = InlineSlots(slots, self._changed)
        self._running: set[Job] = set()
        self._loops: set[Job] = set()
        self._holds = 0
        self._refuses_loops = False
        self._stops_all = False
        self._counts = dict.fromkeys(("added", "succeeded", "failed", "cancelled", "retried"), 0)
        self._report: CloseReport | None = None
        self._shared: WeakSet[SharedFile] = WeakSet()
        install_finder()

    # -- giving work ---------------------------------------------------------------------------------------

    def accept(self, job: Job, is_patient: bool = False) -> None:
        """Run the job, to its end, with its retries. Raises: `ManagerClosedError`, `InitializerError`."""
        self._open()
        self._take_in(job)
        self._run_to_end(job)

    def accept_loop(self, job: Job) -> None:
        """Run the loop in a thread of its own. Raises: as `accept`."""
        self._open()
        self._take_in(job)
        if self._refuses_loops:
            self._settle(job, CANCELLED_AND_NOTIFIED)
            return
        thread = threading.Thread(target=self._run_loop, args=(job,), name=f"{job.recipe.name} (loop)", daemon=True)
        thread.start()

    def reject(self, job: Job, error: BaseException) -> None:
        """Fail a job that could not be pickled, as it would fail with processes."""
        self._open()
        self._take_in(job)
        self._settle(job, FINISHED, None, error)

    def adopt(self, job: Job, failure: bytes | BaseException) -> None:
        """Go on with a row of a map after its first attempt, which failed."""
        error = load_failure_safely(failure)[0] if isinstance(failure, bytes) else failure
        self._take_in(job)
        job.started_s = time.monotonic()
        if self._ends_attempt(job, None, error):
            self._run_to_end(job)

    def note_rows(self, name: str, count: int, took_s: float) -> None:
        """There are no chunks here."""

    def preload(self, module: str) -> None:
        """There are no workers that could load it."""

    def share(self, value: Any) -> SharedFile:
        """Lay a value down as for processes: tasks get it read-only. Raises: as `Supervisor.share`."""
        self._acceptance.check()
        share = lay_down(value)
        self._shared.add(share)
        return share

    def attach(self, puller: Puller) -> None:
        """Refuse it if the manager is closed; otherwise there is nothing to do. Raises: as `accept`."""
        self._acceptance.check()

    def detach(self, puller: Puller) -> None:
        """It has ended."""

    def run_aside(self, act: Callable[[], Any]) -> Any:
        return act()

    def _open(self) -> None:
        self._acceptance.check()
        with self._changed:
            initializer, self._initializer = self._initializer, None
            self.events.start()
        if initializer is None:
            return
        try:
            initializer[0](*initializer[1])
        except Exception as error:
            message = f"the initializer failed: {type(error).__name__}: {error}"
            self._acceptance.breakage = Breakage(message, True, self._pid, error)
            self.broken_text = message
            self._acceptance.check()

    def _take_in(self, job: Job) -> None:
        with self._changed:
            self._counts["added"] += 1
            job.number = self._counts["added"]
            (self._loops if job.recipe.is_loop else self._running).add(job)
        self.events.task("on_task_added", job)

    # -- running -------------------------------------------------------------------------------------------

    def _run_to_end(self, job: Job) -> None:
        while True:
            value, error = self._attempt(job)
            if not self._ends_attempt(job, value, error):
                return

    def _attempt(self, job: Job) -> tuple[Any, BaseException | None]:
        """Call the function once; return its value, or what it raised. Ctrl-C ends the task, and is raised."""
        task = job.handle.task
        job.started_s = time.monotonic()
        self.events.task("on_task_started", job, pid=self._pid)
        try:
            fn, args, kwargs = with_shared_values(job, task)
            with self._slots.held(job) as slots, as_current(InlineContext(self, job, slots)):
                return fn(*args, **kwargs), None
        except KeyboardInterrupt:
            self._settle(job, CANCELLED_AND_NOTIFIED)
            raise
        except BaseException as error:
            return None, error

    def _ends_attempt(self, job: Job, value: Any, error: BaseException | None) -> bool:
        """Record the attempt; settle the job, or pause and return True: there is another attempt."""
        if job.has_settled:
            return False  # it was cancelled meanwhile
        now_s = time.monotonic()
        outcome = Outcome.SUCCEEDED if error is None else Outcome.RAISED
        job.record(outcome, now_s, self.wall, pid=self._pid, error=error)
        with self._changed:
            self.figures.attempt(self._pid, job.recipe.name, outcome, job.started_s, now_s)
        delay_s = None
        if job.recipe.retry is not None:
            try:
                delay_s = ask_policy(job, value, error, now_s)
            except Exception as broken:
                broken.__context__ = error
                value, error = None, broken
        if delay_s is None or self.asks_to_stop(job):
            self._settle(job, FINISHED, value, error)
            return False
        with self._changed:
            self._counts["retried"] += 1
            self.figures.of(job.recipe.name).retried += 1
        self.events.task("on_task_retrying", job, error=error, delay=delay_s)
        self.pause(job, delay_s)
        job.with_history().idle_for_s += delay_s
        job.attempt += 1
        return not job.has_settled

    def _run_loop(self, job: Job) -> None:
        while not self.asks_to_stop(job):
            _, error = self._attempt_of_loop(job)
            if error is not None and not job.has_settled:
                self._end_failed_iteration(job, error)
            elif error is None:
                job.attempt = 1
            if job.recipe.interval_s:
                self.pause(job, job.recipe.interval_s)
        self._settle(job, CANCELLED_AND_NOTIFIED)

    def _attempt_of_loop(self, job: Job) -> tuple[Any, BaseException | None]:
        try:
            return self._attempt(job)
        except KeyboardInterrupt as error:  # raised by the function: signals reach the main thread only
            return None, error

    def _end_failed_iteration(self, job: Job, error: BaseException) -> None:
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
        with self._changed:
            self._changed.wait_for(lambda: self.asks_to_stop(job), max(0.0, seconds))

    def asks_to_stop(self, job: Job) -> bool:
        """Whether the job was cancelled, or the manager stops what runs."""
        return job.has_settled or self._stops_all or (job.recipe.is_loop and self._refuses_loops)

    def _settle(self, job: Job, state: str, value: Any = None, error: BaseException | None = None) -> bool:
        with self._changed:
            if job.has_settled:
                return False
            job.state = SETTLED
            self._running.discard(job)
            self._loops.discard(job)
            how = "cancelled" if state != FINISHED else "succeeded" if error is None else "failed"
            self._counts[how] += 1
            self.figures.end(job.recipe.name, how, None if error is None else type(error).__name__)
            self._changed.notify_all()
        handle = job.handle
        handle._history = tuple(job.history.attempts) if job.history is not None else ()
        handle._guard = None if error is None or self.events.has_failed else self._unseen.guard(job.recipe.name, error)
        has_callbacks = handle._settle(state, value, error)
        facts: dict[str, Any] = {"succeeded": {"result": value}, "failed": {"error": error}}.get(how, {})
        self.events.task(f"on_task_{how}", job, **facts)
        if has_callbacks:
            handle._invoke_callbacks()  # type: ignore[attr-defined]
        return True

    # -- what handles call ---------------------------------------------------------------------------------

    def cancel_job(self, handle: TaskHandle[Any]) -> bool:
        """Settle the job as cancelled: what runs goes on to its end, unless it looks at `current().stopping`."""
        job = handle._job
        return job is not None and self._settle(job, CANCELLED_AND_NOTIFIED)

    def is_running(self, job: Job) -> bool:
        return job in self._running or job in self._loops

    def stack_of(self, job: Job) -> str | None:
        """None: the debugger of this process shows it."""
        return None

    def stacks(self, job: Job | None = None) -> list[Any]:
        return []

    def hold(self) -> None:
        with self._changed:
            self._holds += 1

    def let_go(self) -> None:
        with self._changed:
            self._holds -= 1
            self._changed.notify_all()

    def do_soon(self, act: Callable[[], None]) -> None:
        act()

    def accepting_more(self) -> AbstractContextManager[None]:
        return self._acceptance.accepting_more()

    def check_usable(self) -> None:
        """There is nothing that a fork could not go on with."""

    # -- asking and waiting --------------------------------------------------------------------------------

    def _wait_for(self, is_so: Callable[[], bool], timeout_s: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(is_so, timeout_s)

    def wait(self, timeout_s: float | None) -> bool:
        return self._wait_for(lambda: not self._running, timeout_s)

    def end_loops(self, timeout_s: float | None) -> bool:
        with self._changed:
            self._refuses_loops = True
            self._changed.notify_all()
        return self._wait_for(lambda: not self._loops, timeout_s)

    def stats(self) -> Stats:
        with self._changed:
            return Stats(**self._counts, respawned=0, queued=0, running=len(self._running) + len(self._loops))

    def count(self, *, loops: bool) -> int:
        return len(self._loops) if loops else len(self._running)

    def report(self) -> RunReport:
        make: type[RunReport] = load("procbackground._report.run").RunReport
        with self._changed:
            return make(self.figures.copy(), 1, self.wall(0.0))

    def processes(self) -> list[ProcessInfo]:
        return []

    def living_workers(self) -> list[Worker]:
        return []

    def __str__(self) -> str:
        state = "closed" if self._report is not None else "closing" if self.is_refusing else "open"
        counts = self._counts
        done = counts["succeeded"] + counts["failed"] + counts["cancelled"]
        return f"inline, {state}: {len(self._running) + len(self._loops)} running, {done} done"

    # -- closing -------------------------------------------------------------------------------------------

    @property
    def is_refusing(self) -> bool:
        return self._acceptance.is_refusing

    @property
    def is_foreign(self) -> bool:
        return False

    def cancel_queued(self) -> None:
        """Nothing is ever queued."""

    def ask_to_close(self, timeout_s: float | None) -> None:
        self._acceptance.is_refusing = True
        with self._changed:
            self._refuses_loops = True
            self._stops_all = self._stops_all or timeout_s == 0
            self._changed.notify_all()

    def kill_all(self) -> None:
        """There is no process to kill."""

    def close(self, timeout_s: float | None) -> CloseReport:
        """Wait for what other threads run here, `timeout_s` at the most; it cannot be stopped."""
        began_s = time.monotonic()
        finished = self._counts["succeeded"] + self._counts["failed"]
        self.ask_to_close(timeout_s)
        mine = current_context.get()
        running = self._running if mine is None else self._running - {mine._job}  # a task may close its manager
        self._wait_for(lambda: not (running & self._running) and not self._loops and not self._holds, timeout_s)
        with self._changed:
            left = [f"{job.recipe.name!r}, which runs in this process" for job in (*self._running, *self._loops)]
            if self._report is not None:
                return self._report
            ended = self._counts["succeeded"] + self._counts["failed"] - finished
            seconds = time.monotonic() - began_s
            report = self._report = CloseReport(finished=ended, left=tuple(left), seconds=seconds)
        for share in list(self._shared):
            share.free()
        self._unseen.report_all()
        self.events.manager("on_manager_closed", report=report)
        self.events.stop(CLOSE_S)
        return report
