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

from procbackground._load import load
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._supervisor.acceptance import Acceptance
from procbackground._supervisor.breakage import Breakage
from procbackground._supervisor.inline_context import enclosing_jobs, install_finder
from procbackground._supervisor.inline_logs import install_log_attributes
from procbackground._supervisor.inline_runs import InlineRuns
from procbackground._supervisor.judge import load_failure_safely
from procbackground._supervisor.shares import lay_down
from procbackground._wire.pickling import text_of
from procbackground._wire.shares import SharedFile
from procbackground.handle import TaskHandle
from procbackground.report import CloseReport, ProcessInfo, Stats

if TYPE_CHECKING:
    from procbackground._report.run import RunReport
    from procbackground._submit.puller import Puller

CLOSE_S = 1.0  # for observers to take their last events


_living: WeakSet[InlineSupervisor] = WeakSet()


class InlineSupervisor:
    """What `Manager` calls instead of a `Supervisor`. Each call is made by the thread that runs the task.

    It has all the methods that managers, maps and handles call; `inline_runs` has the tasks themselves.
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
        grace_s: float,
    ) -> None:
        self.context = context_
        self._grace_s = grace_s
        self._runs = InlineRuns(observers, slots)
        self._initializer = initializer
        self._is_initialized = initializer is None
        self._initializing = threading.RLock()  # held while the initializer runs, which may give tasks itself
        self._acceptance = Acceptance(initializer is not None)
        self._report: CloseReport | None = None
        self._shared: WeakSet[SharedFile] = WeakSet()
        _living.add(self)
        install_finder()
        install_log_attributes()

    # -- giving work ---------------------------------------------------------------------------------------

    def accept(self, job: Job, is_patient: bool = False) -> None:
        """Run the job, to its end, with its retries. Raises: `ManagerClosedError`, `InitializerError`."""
        self._open()
        self._take(job, lambda: self._runs.run_to_end(job))

    def accept_loop(self, job: Job) -> None:
        """Run the loop in a thread of its own. Raises: as `accept`."""
        self._open()

        def start() -> None:
            if self._runs.refuses_loops:
                self._runs.settle(job, CANCELLED_AND_NOTIFIED)
                return
            name = f"{job.recipe.name} (loop)"
            threading.Thread(target=self._runs.run_loop, args=(job,), name=name, daemon=True).start()

        self._take(job, start)

    def _take(self, job: Job, run: Callable[[], object]) -> None:
        """Take the job in and `run` it. Whatever interrupts that ends the job, else a `wait` would not end."""
        try:
            self._runs.take_in(job)
            run()
        except BaseException:
            self._runs.abandon(job)
            raise

    def reject(self, job: Job, error: BaseException) -> None:
        """Fail a job that could not be pickled, as it would fail with processes."""
        self._open()
        self._take(job, lambda: self._runs.settle(job, FINISHED, None, error))

    def adopt(self, job: Job, failure: bytes | BaseException) -> None:
        """Go on with a row of a map after its first attempt, which failed."""
        error = load_failure_safely(failure)[0] if isinstance(failure, bytes) else failure

        def go_on() -> None:
            job.started_s = time.monotonic()
            if self._runs.ends_attempt(job, None, error):
                self._runs.run_to_end(job)

        self._take(job, go_on)

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
        with self._runs.changed:
            self._runs.events.start()
        if not self._is_initialized:
            with self._initializing:  # other threads wait for it
                initializer, self._initializer = self._initializer, None
                if initializer is not None:
                    self._initialize(*initializer)
                    self._is_initialized = True
            self._acceptance.check()

    def _initialize(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            fn(*args)
        except Exception as error:
            message = f"the initializer failed: {type(error).__name__}: {text_of(error)}"
            self._acceptance.breakage = Breakage(message, True, os.getpid(), error)
            self.broken_text = message

    # -- what handles call ---------------------------------------------------------------------------------

    def cancel_job(self, handle: TaskHandle[Any]) -> bool:
        """Settle the job as cancelled: what runs goes on to its end, unless it looks at `current().stopping`."""
        job = handle._job
        return job is not None and not self.is_foreign and self._runs.settle(job, CANCELLED_AND_NOTIFIED)

    def is_running(self, job: Job) -> bool:
        return job in self._runs.running or job in self._runs.loops

    def stack_of(self, job: Job) -> str | None:
        """None: the debugger of this process shows it."""
        return None

    def stacks(self, job: Job | None = None) -> list[Any]:
        self.check_usable()
        return []

    def hold(self) -> None:
        with self._runs.changed:
            self._runs.holds += 1

    def let_go(self) -> None:
        with self._runs.changed:
            self._runs.holds -= 1
            self._runs.changed.notify_all()

    def do_soon(self, act: Callable[[], None]) -> None:
        act()

    def accepting_more(self) -> AbstractContextManager[None]:
        return self._acceptance.accepting_more()

    def check_usable(self) -> None:
        """Raise `ManagerClosedError` in a fork, as with processes: it lacks the threads of observers and loops."""
        self._acceptance.check_fork()

    # -- asking and waiting --------------------------------------------------------------------------------

    def wait(self, timeout_s: float | None) -> bool:
        self.check_usable()
        mine = enclosing_jobs()
        return self._runs.wait_for(lambda: self._runs.running <= mine, timeout_s)

    def end_loops(self, timeout_s: float | None) -> bool:
        self.check_usable()
        self._runs.end_loops()
        mine = enclosing_jobs()
        return self._runs.wait_for(lambda: self._runs.loops <= mine, timeout_s)

    def stats(self) -> Stats:
        self.check_usable()
        return self._runs.stats()

    def count(self, *, loops: bool) -> int:
        self.check_usable()
        return len(self._runs.loops) if loops else len(self._runs.running)

    def report(self) -> RunReport:
        self.check_usable()
        make: type[RunReport] = load("procbackground._report.run").RunReport
        with self._runs.changed:
            return make(self._runs.figures.copy(), 1, self._runs.wall(0.0))

    def processes(self) -> list[ProcessInfo]:
        self.check_usable()
        return []

    def living_workers(self) -> list[Worker]:
        return []

    def __str__(self) -> str:
        if self.is_foreign:
            return "inline, of another process"
        state = "closed" if self._report is not None else "closing" if self.is_refusing else "open"
        stats = self._runs.stats()
        return f"inline, {state}: {stats.running} running, {stats.succeeded + stats.failed + stats.cancelled} done"

    # -- closing -------------------------------------------------------------------------------------------

    @property
    def is_refusing(self) -> bool:
        return self._acceptance.is_refusing

    @property
    def is_foreign(self) -> bool:
        return self._acceptance.is_foreign

    def cancel_queued(self) -> None:
        """Nothing is ever queued."""

    def ask_to_close(self, timeout_s: float | None) -> None:
        if self.is_foreign:
            return
        self._acceptance.is_refusing = True
        self._runs.end_loops(stops_all=timeout_s == 0)

    def kill_all(self) -> None:
        """There is no process to kill."""

    def leave(self) -> None:
        """The exit of the interpreter waits for no inline manager."""

    def close(self, timeout_s: float | None) -> CloseReport:
        """Wait for what other threads run here. Past `timeout_s` it is asked to stop, and has `grace` to do so."""
        self.check_usable()
        runs = self._runs
        began_s = time.monotonic()
        finished = runs.finished
        self.ask_to_close(timeout_s)
        mine = enclosing_jobs()  # a task may close its manager

        def is_over() -> bool:
            return (runs.running | runs.loops) <= mine and not runs.holds

        if not runs.wait_for(is_over, timeout_s):
            runs.end_loops(stops_all=True)
            runs.wait_for(is_over, self._grace_s)
        with runs.changed:
            left = tuple(f"{job.recipe.name!r}, which runs in this process" for job in (*runs.running, *runs.loops))
            if self._report is not None:
                return self._report
            seconds = time.monotonic() - began_s
            report = self._report = CloseReport(finished=runs.finished - finished, left=left, seconds=seconds)
        for share in list(self._shared):
            share.free()
        runs.unseen.report_all()
        runs.events.manager("on_manager_closed", report=report)
        runs.events.stop(CLOSE_S, lambda: timeout_s is not None)
        return report


def _leave_to_parent() -> None:
    for supervisor in list(_living):
        supervisor._acceptance.is_foreign = supervisor._acceptance.is_refusing = True


os.register_at_fork(after_in_child=_leave_to_parent)
