"""The supervisor's loop: the one thread that owns the scheduler and every worker's pipes.

Third stop of a task: a request, a pipe, the end of a process or a deadline brings a fact, `_state.scheduler` answers
with commands, and this loop has them carried out by `workers` (towards processes), `settle` (towards handles) and
`events_out` (towards observers). See the package's docstring for who owns what.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, assert_never

from procbackground import _platform
from procbackground._load import load
from procbackground._state import commands as c
from procbackground._state.fleet import Worker
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor import ending
from procbackground._supervisor.acceptance import Acceptance
from procbackground._supervisor.answers import Answers
from procbackground._supervisor.breakage import first_words
from procbackground._supervisor.chores import Chores
from procbackground._supervisor.clock import WallClock
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.exits import Exits
from procbackground._supervisor.inbox import Inbox
from procbackground._supervisor.intake import Intake
from procbackground._supervisor.kinds import able_to_start_kinds
from procbackground._supervisor.launching import make_launchers
from procbackground._supervisor.obstacles import patience_s
from procbackground._supervisor.options import Options
from procbackground._supervisor.page import Page
from procbackground._supervisor.process import Launcher, WorkerProcess
from procbackground._supervisor.relay import RecordRelay
from procbackground._supervisor.sampling import Sampler
from procbackground._supervisor.settle import Settler
from procbackground._supervisor.shares import Shares
from procbackground._supervisor.stacks import StackDumps
from procbackground._supervisor.starter import Starter
from procbackground._supervisor.unseen import UnseenFailures
from procbackground._supervisor.usercode import UserCodeRunner
from procbackground._supervisor.warden import Warden
from procbackground._supervisor.watches import Watches
from procbackground._supervisor.workers import Workers
from procbackground._sync import Latch
from procbackground._wire.page import LINES, PAGE_SIZE
from procbackground._worker.initializer import Initializer
from procbackground.report import CloseReport

if TYPE_CHECKING:
    from procbackground._submit.puller import Puller
    from procbackground._supervisor.keyed import KeyedJobs
    from procbackground._supervisor.submit_gate import SubmitQueueGate


CHECKS = bool(os.environ.get("PROCBACKGROUND_CHECK"))  # the scheduler's invariants, in tests


class Loop:
    """The thread and all that it owns. `owner` is what handles know as their owner."""

    # Parts that the supervisors of engines and nodes have others for.
    make_scheduler: type[Scheduler] = Scheduler
    make_events: type[Events] = Events
    make_settler: type[Settler] = Settler
    make_answers: type[Answers] = Answers
    make_launchers: ClassVar[Callable[[Any], tuple[Launcher, Callable[[], Launcher]]]] = make_launchers

    # Made by `_make_ready`.
    watches: Watches
    wakeup: _platform.Wakeup
    page: Page
    life_read_fd: int
    life_write_fd: int = -1
    warden: Warden
    launcher: Launcher
    workers: Workers
    answers: Answers
    exits: Exits

    def __init__(self, owner: Any, options: Options) -> None:
        self.owner = owner
        self.options = options
        self.name = f"procbackground-{id(owner):x}"
        self.wall = WallClock()
        self.inbox = Inbox()
        self.starter = Starter(self.name, self.inbox)
        self.acceptance = Acceptance(options.initializer is not None)
        self.scheduler = self.make_scheduler(
            max_workers=options.max_workers,
            wall=self.wall,
            max_tasks_per_child=options.max_tasks_per_child,
            grace_s=options.grace_s,
            lines=LINES,
            keeps_spare=options.keeps_spare,
            start_timeout_s=options.start_timeout_s,
            min_free_bytes=options.min_free_bytes,
            memory_patience_s=patience_s(options.min_free_bytes, options.start_timeout_s),
            slots=options.slots,
        )
        self.figures = self.scheduler.figures
        self.initializer = None if options.initializer is None else Initializer(*options.initializer)
        self.events = self.make_events(options.observers, self.name)
        self.user_code = UserCodeRunner(self.name, self._wake)
        # Apart, with one thread only: it keeps the records in order, and a handler that blocks delays no task.
        self.log_records = RecordRelay(f"{self.name}-records", self._wake, self.inbox.put)
        self.unseen = UnseenFailures(owner.do_soon)
        self.settler = self.make_settler(
            self.scheduler, self.events, self.user_code, self.acceptance, self.figures, self.inbox, self.unseen,
            self.log_records,
        )  # fmt: skip
        self.keyed: KeyedJobs | None = None
        if options.journal is not None:
            self.keyed = load("procbackground._supervisor.keyed").KeyedJobs(
                options.journal, self.scheduler, self.settler, self.events, self.user_code, self.inbox.put, self.name
            )
        self.stacks = StackDumps()
        self.gate: SubmitQueueGate | None = None  # where callers wait; None while they need not
        self.shares = Shares(self.inbox, lambda number: self.workers.release_share(number))
        self.sampler = Sampler(
            self.name, self.scheduler, self.inbox, self.wall, self.events, self.settler.fail,
            options.min_free_bytes or 0,
        )  # fmt: skip
        self.monitor = self.sampler.monitor
        self.intake = Intake(
            self.scheduler, self.inbox, self.events, self.settler, self.acceptance,
            lambda worker, jobs: self.workers.send(worker, jobs), options.max_pending, options.max_pending_bytes,
            options.refuses_when_full, self.keyed, lambda gate: setattr(self, "gate", gate),
        )  # fmt: skip
        self.pullers: set[Puller] = set()  # of streams and lazy maps
        self.preload: tuple[str, ...] = options.preload
        self.thread: threading.Thread | None = None
        self.ident: int = 0  # of the thread
        self.is_ready: bool = False
        self.report: CloseReport = CloseReport()
        self.has_drained: Latch = Latch()  # all workers are gone
        self.has_closed: Latch = Latch()
        self.is_hurried: bool = False  # a close has a timeout; set by its caller's thread
        self._unchecked_steps = 0
        self._start_lock = threading.Lock()  # taken in threads in which no signal handler runs

    # -- start ---------------------------------------------------------------------------------------------

    def start_once(self) -> None:
        """Make what a manager at work needs, and start the thread, unless that is done. Not for callers' threads.

        Raises: `OSError`, `RuntimeError` when the machine has no descriptor, memory or thread to give now; a later
        call tries again.
        """
        with self._start_lock:
            if not self.is_ready and not self.has_drained.is_set:
                self._make_ready()

    def close_unused(self) -> None:
        """Close a manager that was never used, unless it is started meanwhile. Not for callers' threads."""
        with self._start_lock:
            if self.is_ready or self.has_drained.is_set:
                return
            self.inbox.end(self.intake.refuse_late)
            self.has_drained.set()
        ending.finish(self)  # without the lock: observers get an event, and may call the manager

    def _make_ready(self) -> None:
        with contextlib.ExitStack() as undo:
            self.events.start()
            self.watches = Watches(_platform.Poller())
            undo.callback(self.watches.close)
            self.wakeup = _platform.Wakeup()
            undo.callback(self.wakeup.close)
            page_fd = _platform.make_memory_file("procbackground-page", PAGE_SIZE)
            undo.callback(os.close, page_fd)
            self.page = Page(page_fd)
            self.page.note_row = self.events.rows_started
            self.life_read_fd, self.life_write_fd = os.pipe()
            undo.callback(self.close_life_pipe)
            self._make_parts()
            if self.keyed is not None:
                self.keyed.start(self.page)
            self.watches.watch_wakeup(self.wakeup)
            self.inbox.open(self.wakeup)
            self._start_thread()
            undo.pop_all()

    def _start_thread(self) -> None:
        """Start the thread. Where `start` raises though it runs, such as `MemoryError` at the end, it has started."""
        passes = deque([None])  # which thread and starter both try to take: a thread that comes too late ends at once
        thread = threading.Thread(target=self._run, args=(passes,), name=f"{self.name}-supervisor", daemon=True)
        self.thread = thread
        try:
            thread.start()
        except BaseException:
            try:
                passes.pop()
            except IndexError:
                pass
            else:
                self.thread = None
                raise
        self.is_ready = True

    def close_life_pipe(self) -> None:
        fds = (self.life_read_fd, self.life_write_fd)
        self.life_write_fd = -1  # first: a fork in another thread closes the descriptors it finds here
        for fd in fds:
            os.close(fd)

    def _make_parts(self) -> None:
        self.workers = self._make_workers()
        self.answers = self.make_answers(
            self.scheduler, self.watches, self.page, self.events, self.settler, self.workers, self.log_records
        )
        self.exits = Exits(
            self.scheduler, self.watches, self.page, self.events, self.monitor, self.stacks, self.answers.read_last
        )
        self.chores = Chores(self)
        self.warden = Warden(self.page, self.life_write_fd)
        self.launcher, self._make_direct = self.make_launchers()

    def _make_workers(self) -> Workers:
        return Workers(
            self.scheduler, self.inbox, self.watches, self.page, self.events, self.monitor, self.stacks,
            self.settler.fail, self.shares, self.user_code.put,
        )  # fmt: skip

    def clocks_of(self, worker: Worker) -> c.Clocks:
        """Return the known times of a worker's attempt, iteration or row."""
        return self.page.clocks_of(worker)

    # -- the thread ----------------------------------------------------------------------------------------

    def _run(self, passes: deque[None]) -> None:
        try:
            passes.pop()
        except IndexError:
            return
        self.ident = _thread.get_ident()
        self.is_ready = True  # here too: a close that was asked for already may end the thread before `start` returns
        try:
            while not self.scheduler.has_finished:
                self._step()
            self.inbox.end(self.intake.refuse_late)
            self.has_drained.set()
            ending.finish(self)
        except BaseException as error:
            ending.crash(self, error)

    def _step(self) -> None:
        """Wait for facts, report them to the scheduler, and have its commands carried out."""
        inbox, scheduler, watches = self.inbox, self.scheduler, self.watches
        due_s, look_s = scheduler.next_due_s, self.chores.next_due_s()  # what this step brings is for the next one
        if self.settler.sleepers:
            self.settler.wake_callers()
        ready = inbox.sleep(watches.poll, 0.0 if scheduler.commands else min(due_s, look_s))
        # First, before times are read that go by it: the machine may have been suspended meanwhile.
        self.wall.note(time.monotonic())
        if inbox.requests:  # first: a worker that has answered is then given what was asked for before
            self.intake.process()
        for fd, _ in ready:
            act = watches.actions.get(fd)
            if act is not None:
                act()
        while watches.deferred:
            watches.deferred.pop()()
        now_s = time.monotonic()
        if now_s >= due_s:
            scheduler.clock_advanced(now_s, self.clocks_of)
        if self.settler.batches:
            self.settler.settle_results()
        if now_s >= look_s:
            self.chores.do(now_s)
        while scheduler.commands:
            commands, scheduler.commands = scheduler.commands, []
            for command in commands:
                self._carry_out(command)
        if self.exits.unclosed:
            self.exits.close_ended()
        if self.gate is not None:
            self.gate.advance()  # there may be room now
        if CHECKS:
            self._check()

    def _check(self) -> None:
        """Check the scheduler's invariants: after every step, but the more rarely the more jobs it has to look at."""
        self._unchecked_steps += 1
        if self._unchecked_steps > self.scheduler.unsettled >> 3:
            self._unchecked_steps = 0
            self.scheduler.check()

    def _wake(self) -> None:
        if _thread.get_ident() != self.ident:
            self.inbox.wake()

    def note_launched(self, process: WorkerProcess) -> None:
        """A worker's process has started."""
        worker = process.worker
        worker.process = process
        worker.pid = process.pid
        self.answers.watch(worker)
        self.watches.watch(process.death_fd, lambda: self.exits.process_ended(worker))
        if worker.was_killed:
            process.signal_group(signal.SIGKILL)
        else:
            self.scheduler.process_came(worker, time.monotonic())

    # -- commands ------------------------------------------------------------------------------------------

    def _carry_out(self, command: c.Command) -> None:
        workers = self.workers
        match command:
            case c.Send(worker, jobs):
                workers.send(worker, jobs)
            case c.Judge():
                self.settler.judge(command)
            case c.Cancelled(jobs, ran_in):
                self.settler.drop(jobs, ran_in)
            case c.Broke(job):
                self.settler.fail_as_broken(job)
            case c.Refuse():
                self._refuse()
            case c.Launch(worker):
                self.exits.close_ended()  # first: there may be no other descriptors left for the new process
                self.page.clear(worker)
                if worker.kind is not None:
                    self.launcher = able_to_start_kinds(self.launcher, self._make_direct)
                self.launcher.launch(worker)
            case c.ContinueLoop(worker):
                workers.continue_loop(worker)
            case c.Terminate(worker, wants_stack):
                workers.terminate(worker, wants_stack)
            case c.Kill(worker):
                workers.kill(worker)
            case c.Dismiss(worker):
                workers.dismiss(worker)
            case c.EndLoop(worker):
                workers.end_loop(worker)
            case c.Revoke(worker, up_to):
                workers.revoke(worker, up_to)
            case c.ReadMark(worker, up_to):
                workers.read_mark(worker, up_to)
            case c.AskForLook(worker):
                workers.ask_for_look(worker)
            case c.Stalled() | c.SlowStart():
                workers.report_silence(command)
            case c.ProcessReady(worker):
                workers.note_ready(worker)
            case c.ProcessGone(worker):
                if self.keyed is not None:
                    self.keyed.note_gone(worker)
                self.events.process("on_process_exited", worker, exit_code=worker.death.exit_code)
            case c.WatchMemory() | c.Starved() | c.AdmissionHeld() | c.AdmissionResumed():
                self.sampler.obey(command)
            case _:
                assert_never(command)

    def _refuse(self) -> None:
        """No worker can be started: refuse callers from now on, and those who wait for room."""
        assert self.scheduler.broken_by is not None
        # The whole story takes the user's code, and may not be there at once.
        breakage = first_words(*self.scheduler.broken_by, self.acceptance.has_initializer)
        self.acceptance.breakage = self.acceptance.breakage or breakage
        self.acceptance.is_refusing = True
        self.user_code.put(self.settler.explain_break)
        self.intake.gate.refuse_line(breakage.error)
