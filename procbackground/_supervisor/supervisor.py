"""The methods that managers and handles call, from any thread: post a request to the loop, and wait for an answer.

An engine on other machines would offer the same few methods. None of them changes the scheduler, so an exception at
any point of a call (Ctrl-C, `MemoryError`) leaves it whole: the request is made, or it is not.
"""

from __future__ import annotations

import _thread
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, TypeVar

from procbackground import _headstart
from procbackground._log import logger
from procbackground._state import commands as c
from procbackground._state import stops
from procbackground._state.job import Job
from procbackground._supervisor import ending, exiting
from procbackground._supervisor.acceptance import AFTER_EXIT
from procbackground._supervisor.forks import forget_parents_helpers
from procbackground._supervisor.inbox import CROWDED
from procbackground._supervisor.loop import Loop
from procbackground._supervisor.obstacles import check_main_is_imported
from procbackground._supervisor.options import Options
from procbackground._supervisor.questions import Questions
from procbackground._sync import acquire_within, this_life
from procbackground.errors import ManagerClosedError
from procbackground.handle import TaskHandle
from procbackground.report import CloseReport
from procbackground.task import NO_LIMIT

if TYPE_CHECKING:
    from procbackground._submit.puller import Puller
    from procbackground._wire.shares import SharedFile

T = TypeVar("T")


_living: weakref.WeakSet[Supervisor] = weakref.WeakSet()
_is_exiting = False  # the interpreter is exiting: a manager that started now would never be closed
_has_left = False  # and all have closed, or are not waited for


class Supervisor(Questions):
    """All that a manager does, behind its public methods. Handles know it as their owner."""

    is_inline = False  # see `inline.InlineSupervisor`
    make_loop: type[Loop] = Loop

    def __init__(self, **options: Any) -> None:
        self._loop = self.make_loop(self, Options(**options))
        self.is_left: bool = False  # its end was waited for, until that was interrupted for the third time
        self._inbox = self._loop.inbox
        self._acceptance = self._loop.acceptance
        self.tells_tasks: bool = any(name.startswith("on_task") for name in self._loop.events.wanted)
        # By a name of its own: a manager may be dropped when the interpreter has cleared the modules.
        self._drop_head_start = _headstart.drop
        _living.add(self)

    # -- giving work ---------------------------------------------------------------------------------------

    def accept(self, job: Job, is_patient: bool = False) -> None:
        """Have a job taken in; while the queue is full, block or raise, as the manager was told, or block `is_patient`.

        Raises: `ManagerClosedError`, `InitializerError`, `QueueFullError`; `OSError`, `RuntimeError` where the manager
        cannot start.
        """
        loop, acceptance, inbox = self._loop, self._acceptance, self._inbox
        if acceptance.is_refusing or not loop.is_ready:
            self._open()
        if job.recipe.deadline_s != NO_LIMIT:
            job.started_s = time.monotonic()  # the deadline counts from here, with the wait for room
        if loop.gate is not None and not job.recipe.is_loop and not acceptance.is_insider:
            loop.gate.submit(job, is_patient)
        else:
            inbox.put(job)
            if len(inbox.requests) > CROWDED and not self._is_own_thread():
                inbox.wait_for_reading()
        if inbox.is_over or acceptance.is_foreign:
            self._check_taken(job)

    accept_loop = accept

    def _check_taken(self, job: Job) -> None:
        """The manager closed, or the process was forked, while the job was being given: raise if it was refused."""
        self._acceptance.check_fork()
        if job.has_settled and job.handle.cancelled():
            self._acceptance.check()
            raise self._acceptance.closed_error()

    def reject(self, job: Job, error: BaseException) -> None:
        """Fail a job that could not be pickled: at its handle and to observers, as any other failure."""
        self._open()
        self._inbox.put(lambda: self._loop.intake.take_in_failed(job, error))

    def adopt(self, job: Job, failure: bytes | BaseException) -> None:
        """Take in a row of a chunk that failed, as a job of its own after its first attempt."""
        kind = c.FAILURE if isinstance(failure, bytes) else c.FAILED_IN_MAP
        if self._inbox.is_over or self._loop.scheduler.is_draining:
            self._acceptance.check()
            raise ManagerClosedError("the manager was closed before this could be tried again")
        self._inbox.put(lambda: self._loop.intake.take_in_row(job, kind, failure))

    def note_rows(self, name: str, count: int, took_s: float) -> None:
        """Add rows of a map that succeeded to the figures of the run."""
        self._do(lambda: self._loop.figures.rows(name, count, took_s))

    def announce(self, handles: Sequence[TaskHandle[Any]]) -> None:
        """Tell observers, from the caller's thread, that these rows of a map were added. Raises: as `accept`."""
        self._open()
        for handle in handles:
            self._loop.events.of_row("on_task_added", handle)

    def tell(self, name: str, handle: TaskHandle[Any], when: float | None = None, **facts: Any) -> None:
        """Tell observers of a row that is in no job of its own."""
        self._loop.events.of_row(name, handle, when, **facts)

    def preload(self, module: str) -> None:
        """Let workers that start later have `module`."""
        loop = self._loop
        if not loop.is_ready:
            loop.preload += (module,)  # for the zygote's start
        elif not self._inbox.is_over:
            self._inbox.put(lambda: loop.launcher.preload(module))

    def share(self, value: Any) -> SharedFile:
        """Lay a value down in shared memory, until this manager has closed.

        Raises: `ManagerClosedError`, `InitializerError`; `SerializationError`; `OSError` where there is no room for it.
        """
        self._acceptance.check()
        try:
            return self._loop.shares.make(value)
        except OSError:
            self._acceptance.check_fork()  # a signal handler has forked
            raise

    def _open(self) -> None:
        """Raise if no work is taken, or no worker can be started here; make the manager ready if it is not."""
        self._acceptance.check()
        if not self._loop.is_ready:
            if _is_exiting:
                raise ManagerClosedError(AFTER_EXIT)
            check_main_is_imported(self._loop.options.context.get_start_method())
            self.run_aside(self._loop.start_once)
            self._acceptance.check()

    def attach(self, puller: Puller) -> None:
        """End `puller` when the manager has closed. Raises: `ManagerClosedError`, `InitializerError`."""
        self._acceptance.check()
        self._loop.pullers.add(puller)

    def detach(self, puller: Puller) -> None:
        """It has ended."""
        self._loop.pullers.discard(puller)

    # -- one task ------------------------------------------------------------------------------------------

    def cancel_job(self, handle: TaskHandle[Any]) -> bool:
        """End the job of a handle, queued or running; False when it has ended by itself."""
        if self._acceptance.is_foreign or handle.done():
            return False
        return self.ask(lambda: self._loop.intake.cancel(handle))  # type: ignore[no-any-return]

    def is_running(self, job: Job) -> bool:
        """Whether an attempt of the job is in a process now."""
        worker = job.worker
        try:
            return worker is not None and (worker.loop is job or worker.pipeline.jobs[0] is job)
        except IndexError:
            return False

    def hold(self) -> None:
        """Have a close wait until `let_go`, as for one more task."""
        self._do(self._hold)

    def let_go(self) -> None:
        """End one `hold`. By the inbox from the supervisor thread, too: behind what was given while it was held."""
        self._inbox.put(self._let_go)

    def _hold(self) -> None:
        self._loop.scheduler.holds += 1

    def _let_go(self) -> None:
        scheduler = self._loop.scheduler
        scheduler.holds -= 1
        if scheduler.is_settled:
            self._loop.settler.note_all_settled()

    def accepting_more(self) -> AbstractContextManager[None]:
        """Within it this thread may give work to a manager that closes: what follows from work accepted before."""
        return self._acceptance.accepting_more()

    def do_soon(self, act: Callable[[], None]) -> None:
        """Have `act` run in a thread for user code; takes no lock, so that finalizers may call it."""
        if self._loop.is_ready and not self._acceptance.is_foreign and not self._inbox.is_over:
            self._inbox.put(lambda: self._loop.user_code.put(act))

    def check_usable(self) -> None:
        """Raise `ManagerClosedError` in a fork of the manager's process."""
        self._acceptance.check_fork()

    def _do(self, act: Callable[[], None]) -> None:
        if self._is_own_thread():
            act()
        else:
            self._inbox.put(act)

    # -- asking and waiting --------------------------------------------------------------------------------

    def wait(self, timeout_s: float | None) -> bool:
        """Block until no one-off is queued, running or waiting for its retry."""
        scheduler, acceptance = self._loop.scheduler, self._acceptance
        return self._wait_for(lambda: scheduler.is_settled or acceptance.failure is not None, timeout_s)

    def end_loops(self, timeout_s: float | None) -> bool:
        """Loops end after their running iteration, and none is run later; return whether all ended in time."""
        scheduler, acceptance = self._loop.scheduler, self._acceptance
        self.ask(lambda: scheduler.end_loops(time.monotonic()))
        return self._wait_for(lambda: not scheduler.unsettled_loops or acceptance.failure is not None, timeout_s)

    def _wait_for(self, is_so: Callable[[], bool], timeout_s: float | None) -> bool:
        settler = self._loop.settler
        lock = _thread.allocate_lock()
        lock.acquire()
        life = this_life()  # before the question, which a fork from here on refuses
        self.ask(lambda: settler.add_waiter(is_so, lock))
        try:
            if acquire_within(lock, timeout_s, life):
                return True
        except BaseException:
            self._do(lambda: settler.remove_waiter(lock))
            raise
        self._do(lambda: settler.remove_waiter(lock))
        return is_so()

    # -- closing -------------------------------------------------------------------------------------------

    def ask_to_close(self, timeout_s: float | None) -> None:
        """Begin to close; takes no lock, so that signal handlers and finalizers may call it."""
        acceptance = self._acceptance
        if acceptance.is_foreign:
            return
        acceptance.is_refusing = True
        if timeout_s is not None:
            self._loop.is_hurried = True
        if not self._loop.is_ready:
            self._drop_head_start()
        if not self._inbox.is_over:
            now_s = time.monotonic()
            self._inbox.put(lambda: self._loop.intake.begin_close(timeout_s, now_s))

    def close(self, timeout_s: float | None) -> CloseReport:
        """Close, and wait until nothing is left; see `Manager.close`."""
        loop = self._loop
        self._acceptance.check_fork()
        self._acceptance.is_refusing = True
        if not loop.is_ready and not loop.has_closed.is_set:
            self._drop_head_start()
            self.close_unused()
        if not loop.has_closed.is_set:
            self.ask_to_close(timeout_s)
            thread = threading.current_thread()
            is_ours = thread is loop.thread or any(
                each.owns(thread) for each in (loop.events, loop.user_code, loop.log_records, loop.starter)
            )
            bound_s = None
            if timeout_s is not None:
                bound_s = timeout_s + loop.options.grace_s + stops.LEAVE_S + 4 * ending.MOMENT_S
            # One of our own threads would wait for its own end.
            if not (loop.has_drained if is_ours else loop.has_closed).wait(bound_s):
                return self._unfinished_report()
        self._acceptance.check_fork()
        if self._acceptance.failure is not None:
            raise self._acceptance.failure_error()
        return loop.report

    def close_unused(self) -> None:
        """Close a manager that was never used, unless it is started meanwhile."""
        try:
            self.run_aside(self._loop.close_unused)
        except RuntimeError:
            self._loop.close_unused()  # no thread can be started, for example while the interpreter exits
        if ending.AN_OBSERVER in self._loop.report.left:
            ending.warn_of_observer()

    def _unfinished_report(self) -> CloseReport:
        """Return the report of a close that has not ended in its time."""
        scheduler = self._loop.scheduler
        pids = tuple(sorted(worker.pid for worker in list(scheduler.workers) if worker.pid))
        left = ["the close has not ended in its time, and continues"]
        tasks = scheduler.unsettled + scheduler.unsettled_loops
        if tasks:
            left.append(f"{tasks} tasks that have not settled")
        return ending.make_report(self._loop, leftovers=pids, left=tuple(left))

    def kill_all(self) -> None:
        """During a close: end what still runs at once. Takes no lock, as `ask_to_close`."""
        if not self._acceptance.is_foreign and not self._inbox.is_over:
            self._inbox.put(lambda: self._loop.scheduler.kill_all(time.monotonic()))

    def leave(self) -> None:
        """During a close: let the interpreter exit though it has not ended."""
        self.is_left = True

    @property
    def has_closed(self) -> bool:
        """Whether nothing is left of it here: a close is over, or this is a fork of its process."""
        return self._loop.has_closed.is_set or self._acceptance.is_foreign

    def cancel_queued(self) -> None:
        """Cancel all one-offs that are in no worker."""
        self.ask(self._loop.intake.cancel_queued)

    @property
    def is_refusing(self) -> bool:
        """Whether no more work is taken: it is closing or closed, or cannot start workers."""
        return self._acceptance.is_refusing

    @property
    def is_foreign(self) -> bool:
        """Whether this is a fork of the manager's process."""
        return self._acceptance.is_foreign

    # -- for `_compat` -------------------------------------------------------------------------------------

    @property
    def loop(self) -> Loop:
        return self._loop

    @property
    def thread(self) -> threading.Thread | None:
        return self._loop.thread

    @property
    def context(self) -> BaseContext:
        return self._loop.options.context


def _abandon_all_in_fork() -> None:
    global _is_exiting, _has_left
    _is_exiting = _has_left = False  # the fork may be a worker's, that the last tasks of an exiting parent wait for
    forget_parents_helpers()
    for supervisor in list(_living):
        ending.abandon_in_fork(supervisor._loop)


def close_all_at_exit() -> None:
    """The interpreter exits: no manager starts any more, and what was not closed finishes and closes."""
    global _is_exiting, _has_left
    if _has_left:
        return
    _is_exiting = True  # first: a manager that starts meanwhile is in the list, or is refused
    try:
        exiting.finish_all(list(_living))
    except BaseException:
        logger.exception("managers could not be closed at exit")
    _has_left = True


os.register_at_fork(after_in_child=_abandon_all_in_fork)
