"""Supervisor loop: the one thread that owns the scheduler and every worker's pipes.

Third stop of a task: a pipe, a process's end, a wake-up or a deadline brings a fact, `_state.scheduler` answers with
commands, and this loop carries them out through `process` and `zygote` (to workers) and `delivery` (to handles and
observers).

The way of a task that simply succeeds is here, in `accept` (the caller's thread) and `_take` (this thread): one lock
each, a write each, and no object but the frames. Measured costs stand beside the shortcuts.
"""

from __future__ import annotations

import _thread
import contextlib
import gc
import logging
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from procbackground import _platform
from procbackground._wire import frames as wire
from procbackground._wire.page import (
    BEGAN_NS,
    ITERATIONS,
    LINES,
    LOOKED_ROW,
    LOOKS,
    PAGE_SIZE,
    PAUSED,
    PID,
    REVOKED,
    ROW,
    SIGN_NS,
    STARTED,
    STOP,
    WORDS_PER_LINE,
    map_page,
)
from procbackground._wire.parcel import Parcel, receive_parcel
from procbackground._wire.pickling import EXTENSION_CODES, STACK_GLOBAL, is_plain
from procbackground._state import fleet
from procbackground._state import scheduler as s
from procbackground._state.admission import AdmittingScheduler
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor import machine, monitor
from procbackground._supervisor.breakage import Breakage, explain
from procbackground._supervisor.delivery import Errands, Observers
from procbackground._supervisor.judge import Verdict, is_plain_end, pass_verdict
from procbackground._supervisor.process import Direct, Launcher, Stock, WorkerProcess, main_path
from procbackground._supervisor.relay import tell_parent
from procbackground._supervisor.room import Room
from procbackground._supervisor.warden import Warden
from procbackground._supervisor.zygote import ANSWER_S, Zygote
from procbackground._worker.initializer import Initializer
from procbackground._worker.main import Boot
from procbackground.errors import ManagerClosedError, ProcbackgroundError
from procbackground.handle import TaskHandle
from procbackground.report import Attempt, CloseReport, Outcome, ProcessInfo, Progress, Stats
from procbackground.task import NO_LIMIT

if TYPE_CHECKING:
    from procbackground._submit.setup import Setup

logger = logging.getLogger("procbackground")

MOMENT_S = 1.0  # for what must end and does not depend on tasks: observers, helpers
EXIT_CODE_S = 0.25  # between a process's end and the zygote's word on its exit code
STACK_POLL_S = 0.003
STACK_S = 0.05  # for a child to dump its stacks; one that is stopped or swapped out never does
PLAIN_LIMIT = 65536  # bytes of a value that are loaded on the spot; more would delay other tasks

# The first words are the standard library's, which callers have learnt to look for.
AFTER_CLOSE = "cannot schedule new futures after shutdown: the manager is closed"
AFTER_EXIT = "cannot schedule new futures after interpreter shutdown"

_living: weakref.WeakSet[Supervisor] = weakref.WeakSet()
_is_exiting = False  # the interpreter is, and what starts now would be closed by nobody


class _Returned(NamedTuple):
    """Values that came from a worker together."""

    worker: Worker
    jobs: list[Job]
    values: list[Any]  # bytes, or parcels
    cost: tuple[float | None, int | None] | None  # of the first of them
    since_s: float
    now_s: float


class Supervisor:
    """All that a manager does, behind its front door. Handles know it as their owner."""

    def __init__(
        self,
        *,
        context: BaseContext,
        max_workers: int,
        max_tasks_per_child: int | None,
        initializer: tuple[Callable[..., object], tuple[Any, ...]] | None,
        observers: Iterable[Any],
        keeps_spare: bool,
        max_pending: int | None,
        grace_s: float,
        start_timeout_s: float,
        min_free_bytes: int | None,
        preload: tuple[str, ...],
        setup: Setup | None = None,
    ) -> None:
        offset_s = time.time() - time.monotonic()
        self._wall: Callable[[float], float] = lambda monotonic_s: monotonic_s + offset_s
        self.lock: threading.Lock = threading.Lock()
        decisions: dict[str, Any] = {
            "max_workers": max_workers,
            "wall": self._wall,
            "max_tasks_per_child": max_tasks_per_child,
            "grace_s": grace_s,
            "lines": LINES,
            "keeps_spare": keeps_spare,
            "start_timeout_s": start_timeout_s,
        }
        self.scheduler: Scheduler = (
            Scheduler(**decisions)
            if min_free_bytes is None
            else AdmittingScheduler(min_free_bytes=min_free_bytes, **decisions)
        )
        self._name = f"procbackground-{id(self):x}"
        self._context = context
        self._initializer = None if initializer is None else Initializer(*initializer)
        self._setup = setup
        self._preload = preload
        self._max_pending = max_pending
        self._grace_s = grace_s
        self._start_timeout_s = start_timeout_s
        self._observers = Observers(observers, self._name)
        self._wants = self._observers.wanted
        self._errands = Errands(self._name, self._wake_up)
        # Apart, and never relieved: one thread keeps the records in order, and a handler that blocks delays no task.
        self._records = Errands(f"{self._name}-records", self._wake_up)
        is_sampled = "on_process_sampled" in self._wants
        self._is_sampled = is_sampled
        self._tells_starts = "on_task_started" in self._wants
        self.tells_tasks: bool = any(name.startswith("on_task") for name in self._wants)
        self._monitor = monitor.Monitor(
            self._name,
            self._limited_workers,
            self._over_memory,
            self._tell_samples if is_sampled else None,
            None if min_free_bytes is None else self._see_free_memory,
        )
        self._short_since_s: float | None = None  # since when no worker could be started, for want of something
        self._all_settled = threading.Condition(self.lock)
        self._room = Room(self.lock, self._is_full, self._check_open)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._is_refusing = False
        self._refusal = AFTER_CLOSE
        self._insiders: set[int] = set()  # threads in `accepting_more`
        self._breakage: Breakage | None = None  # once the scheduler is broken
        self._is_foreign = False  # this is a fork of the manager's process
        self._asked_to_close: list[float | None] = []  # timeouts, of callers that may not take the lock
        self._asked_to_do: deque[Callable[[], None]] = deque()  # by such callers, too
        self._returned: list[_Returned] = []  # values that came, and whose handles are not settled
        self._unfinished: list[Worker] = []  # whose pipe had no room for all that a caller wrote
        self._close_began_s: float | None = None
        self._settled_at_close = (0, 0)
        self._has_drained = threading.Event()
        self._has_closed = threading.Event()
        self._report = CloseReport()
        self._is_ready = False
        _living.add(self)

    # -- the caller's side ---------------------------------------------------------------------------------

    def accept(self, job: Job) -> None:
        """Take in a one-off: write it to an idle worker from here, or queue it.

        Saves a thread hop, 10 of 75 µs of a round trip. Only idle workers are written to from here, so that a
        worker has one writer at a time.
        """
        scheduler = self.scheduler
        worker: Worker | None = None
        is_told = False
        try:
            if "on_task_added" in self._wants:
                is_told = self._tell_added(job)
            with self.lock:
                if self._is_refusing or not self._is_ready:
                    self._check_open()
                    if not self._is_ready:
                        self._start()
                if self._max_pending is not None:
                    self._room.wait(self._staff_now)
                worker = scheduler.accept(job, time.monotonic())
                needs_waking = scheduler.needs_look
            if worker is not None:
                if self._tells_starts:
                    self._tell_started(job, worker)
                if job.flags & wire.PARCEL:
                    worker.process.send_parcel(job.payload)
                unsent = worker.process.write(_call_frame(job))
                if unsent is not None:
                    worker.process.unsent = unsent
                    self._unfinished.append(worker)
                    needs_waking = True
                # No call in between, where threads change: if it has answered already, another caller may have it.
                if worker.in_writing is job:
                    worker.in_writing = None
        except BaseException:
            self._give_up(job, worker or job.worker, is_told)
            raise
        if worker is not None:
            if worker.process.ends_tasks:
                self._unfinished.append(worker)
                needs_waking = True
            if job.recipe.memory_limit is not None or self._is_sampled:
                self._monitor.want()
        if needs_waking:
            self._wakeup.set()

    def _give_up(self, job: Job, worker: Worker | None, is_told: bool) -> None:
        """`accept` was left by an exception: Ctrl-C, say, or the manager closed. Have the books agree again."""
        if worker is not None and worker.in_writing is job:
            # What was written may be cut short, and nobody is to go on behind it. The job goes elsewhere.
            worker.process.signal_group(signal.SIGKILL)
            worker.in_writing = None
        if job.number or is_told:
            with self.lock:
                is_over = self.scheduler.accept_failed(job)
            if is_over:  # an observer may wait for its handle
                self._settle_cancelled(job, is_loop=job.recipe.is_loop)
        else:
            job.payload = b""  # nobody has it but the exception's traceback, which may live for long
        if self._is_ready:
            self._wakeup.set()

    def accept_loop(self, job: Job) -> None:
        """Take in a loop."""
        is_told = False
        try:
            if "on_task_added" in self._wants:
                is_told = self._tell_added(job)
            with self.lock:
                self._check_open()
                if not self._is_ready:
                    self._start()
                is_run = self.scheduler.accept_loop(job, time.monotonic())
        except BaseException:
            self._give_up(job, None, is_told)
            raise
        if is_run:
            self._wakeup.set()
        else:
            self._settle_cancelled(job, is_loop=True)

    def reject(self, job: Job, error: BaseException) -> None:
        """Fail a job that could not be pickled: at its handle and to observers, as any other failure."""
        with self.lock:
            self._check_open()
            if not self._is_ready:
                self._start()
            self.scheduler.take_in_failed(job)
        if "on_task_added" in self._wants:
            self._tell("on_task_added", job)  # it is counted, and so is to be settled though the manager closes now
        self._settle_failed(job, error, is_loop=job.recipe.is_loop)

    def adopt(self, job: Job, failure: bytes | BaseException) -> None:
        """Take in a row of a chunk that failed, as a job of its own after its first attempt."""
        kind = s.FAILURE if isinstance(failure, bytes) else s.GIVEN
        with self.lock:
            if self.scheduler.is_draining:
                self._check_open()
                raise ManagerClosedError("the manager was closed before this could be tried again")
            self.scheduler.adopt(job, kind, failure, time.monotonic())
        self._wakeup.set()

    def preload(self, module: str) -> None:
        """Let workers that start later have `module`."""
        with self.lock:
            if self._is_ready:
                self._launcher.preload(module)
            else:
                self._preload += (module,)

    def cancel_job(self, job: Job) -> bool:
        """End the job of a handle, queued or running; False when it has ended by itself."""
        if self._is_foreign:
            return False
        try:
            with self.lock:
                if job.has_settled:
                    return False
                worker = self.scheduler.being_cancelled[job] = job.worker
                if not self.scheduler.cancel(job, time.monotonic()):
                    del self.scheduler.being_cancelled[job]
                    return False
                if self._max_pending is not None:
                    self._room.tell_next()
                has_commands = bool(self.scheduler.commands)
            self._settle_cancelled(job, is_loop=job.recipe.is_loop, worker=worker)
        except BaseException:
            # Ctrl-C, say: another thread goes on with it.
            if job in self.scheduler.being_cancelled:
                self.do_soon(lambda: self._finish_cancelling(job))
            raise
        if has_commands or self._is_refusing:
            self._wakeup.set()
        return True

    def _finish_cancelling(self, job: Job) -> None:
        """Do what `cancel_job` was kept from by an exception."""
        with self.lock:
            if job not in self.scheduler.being_cancelled:
                return
            worker = self.scheduler.being_cancelled[job]
            if not job.has_settled:  # it had not begun
                del self.scheduler.being_cancelled[job]
                return
        if job.handle.done():
            self._account(job, cancelled=1, loops=int(job.recipe.is_loop))
        else:
            self._settle_cancelled(job, is_loop=job.recipe.is_loop, worker=worker)

    def hold(self) -> None:
        """Have a close wait until `let_go`, as for one more task."""
        with self.lock:
            self.scheduler.holds += 1

    def let_go(self) -> None:
        """End one `hold`."""
        with self.lock:
            self.scheduler.holds -= 1
            if self.scheduler.is_settled:
                self._note_all_settled()

    @contextmanager
    def accepting_more(self) -> Iterator[None]:
        """Within it this thread may give work to a manager that closes: what follows from work accepted before."""
        me = threading.get_ident()
        is_outermost = me not in self._insiders
        self._insiders.add(me)
        try:
            yield
        finally:
            if is_outermost:
                self._insiders.discard(me)

    def is_running(self, job: Job) -> bool:
        with self.lock:
            worker = job.worker
            return worker is not None and (
                worker.loop is job or (bool(worker.inflight) and worker.inflight[0] is job)
            )

    def wait(self, timeout_s: float | None) -> bool:
        """Block until no one-off is queued, running or waiting for its retry."""
        with self.lock:
            return self._all_settled.wait_for(
                lambda: self.scheduler.is_settled or self._failure is not None, timeout_s
            )

    def end_loops(self, timeout_s: float | None) -> bool:
        """Loops end after their running iteration, and none is run later; return whether all ended in time."""
        with self.lock:
            self.scheduler.end_loops(time.monotonic())
            if self._is_ready:
                self._wakeup.set()
            return self._all_settled.wait_for(
                lambda: not self.scheduler.unsettled_loops or self._failure is not None, timeout_s
            )

    def stats(self) -> Stats:
        with self.lock:
            scheduler = self.scheduler
            return Stats(
                added=scheduler.added,
                succeeded=scheduler.succeeded,
                failed=scheduler.failed,
                cancelled=scheduler.cancelled,
                retried=scheduler.retried,
                respawned=scheduler.respawned,
                queued=scheduler.count_queued(),
                running=scheduler.count_running(),
            )

    def count(self, *, loops: bool) -> int:
        """Tasks that have not ended."""
        with self.lock:
            return len(self.scheduler.loops) if loops else self.scheduler.unsettled

    def processes(self) -> list[ProcessInfo]:
        """A snapshot of the workers that are ready."""
        return [info for info, _ in self._sample()]

    def _sample(self) -> list[tuple[ProcessInfo, Job | None]]:
        with self.lock:
            rows = []
            for worker in self.scheduler.workers:
                if worker.pid and worker.state != fleet.STARTING:
                    job = worker.loop or (worker.inflight[0] if worker.inflight else None)
                    since_s = worker.since_s if job is None else worker.head_since_s
                    facts = (0, None) if job is None else (job.sequence, job.attempt)
                    rows.append((worker, job, *facts, since_s))
        figures = monitor.sample([worker.pid for worker, *_ in rows])
        samples = []
        for worker, job, sequence, attempt, since_s in rows:
            seen = figures.get(worker.pid)
            if seen is not None:
                if job is not None and self._is_sampled:
                    self._monitor.note(worker, sequence, seen)
                task = None if job is None else job.handle.task
                cpu_percent = 100 * seen.cpu_s / seen.age_s
                info = ProcessInfo(worker.pid, task, attempt, self._wall(since_s), seen.rss_bytes, cpu_percent)
                samples.append((info, job))
        return samples

    def _tell_samples(self) -> bool:
        """Tell observers the figures of all processes; return whether any of them runs a task."""
        samples = self._sample()
        for info, job in samples:
            event = _event_class("on_process_sampled")(
                task=info.task, handle=None if job is None else job.handle, attempt=info.attempt, time=time.time(),
                pid=info.pid, sample=info,
            )  # fmt: skip
            self._observers.put("on_process_sampled", event)
        return any(job is not None for _, job in samples)

    # -- closing -------------------------------------------------------------------------------------------

    def do_soon(self, errand: Callable[[], None]) -> None:
        """Have `errand` run in a thread of ours; takes no lock, so that finalizers may call it."""
        if self._is_ready and not self._is_foreign:
            self._asked_to_do.append(errand)
            self._wakeup.set()

    def ask_to_close(self, timeout_s: float | None) -> None:
        """Begin to close; takes no lock, so that signal handlers and finalizers may call it."""
        self._begin_close()
        if self._is_ready:
            self._asked_to_close.append(timeout_s)
            self._wakeup.set()

    def _begin_close(self) -> None:
        """Refuse work from now on, and count what ends from now on."""
        if self._close_began_s is None:
            self._close_began_s = time.monotonic()
            self._settled_at_close = (self.scheduler.succeeded, self.scheduler.failed)
        self._is_refusing = True

    def close(self, timeout_s: float | None) -> CloseReport:
        """Close, and wait until nothing is left; see `Manager.close`."""
        if self._is_foreign:
            return self._report
        with self.lock:
            self._begin_close()
            self._room.tell_all()
            if not self._is_ready and not self._has_closed.is_set():
                self._has_drained.set()
                self._finish()
        if not self._has_closed.is_set():
            self._asked_to_close.append(timeout_s)
            self._wakeup.set()
            thread = threading.current_thread()
            is_ours = thread is self._thread or any(
                each.owns(thread) for each in (self._observers, self._errands, self._records)
            )
            bound_s = None
            if timeout_s is not None:
                bound_s = timeout_s + self._grace_s + s.LEAVE_S + 4 * MOMENT_S
            # One of our own threads would wait for its own end.
            (self._has_drained if is_ours else self._has_closed).wait(bound_s)
        if self._failure is not None:
            raise self._failure_error()
        return self._report

    def close_at_exit(self) -> None:
        """Close because the interpreter exits, with `grace` seconds for what still runs."""
        if not self._is_refusing:
            self._refusal = AFTER_EXIT
        self.close(self._grace_s)

    def cancel_queued(self) -> None:
        """Cancel all one-offs that are in no worker."""
        with self.lock:
            self.scheduler.cancel_queued(time.monotonic())
            if self._is_ready:
                self._wakeup.set()

    @property
    def is_refusing(self) -> bool:
        """Whether no more work is taken: it is closing or closed, or cannot start workers."""
        return self._is_refusing

    # -- for `_compat` -------------------------------------------------------------------------------------

    @property
    def thread(self) -> threading.Thread | None:
        return self._thread

    @property
    def context(self) -> BaseContext:
        return self._context

    @property
    def broken_text(self) -> str | None:
        """Why no worker can be started any more, or None."""
        broken_by = self.scheduler.broken_by
        if self._failure is not None:
            return str(self._failure)
        if broken_by is None:
            return None
        return broken_by[0] if self._breakage is None else self._breakage.message

    def living_workers(self) -> list[Worker]:
        """Return the workers that take work, or will when they have started; asks for those that are wanted."""
        with self.lock:
            if self._is_ready and not self._has_closed.is_set():
                self._staff_now()
            return [worker for worker in self.scheduler.workers if worker.state not in (fleet.LEAVING, fleet.GONE)]

    def _check_open(self) -> None:
        if self._is_foreign:
            raise ManagerClosedError("this manager belongs to the process that this one was forked from")
        if self._failure is not None:
            raise self._failure_error()
        if self.scheduler.broken_by is not None:
            # Its whole story is told by an errand, which may not be done yet.
            raise (self._breakage or Breakage(self.scheduler.broken_by[0])).error()
        if self._is_refusing and (threading.get_ident() not in self._insiders or self.scheduler.cancels_queue):
            raise ManagerClosedError(self._refusal)
        if _is_exiting and not self._is_ready:
            raise ManagerClosedError(AFTER_EXIT)

    def _is_full(self) -> bool:
        limit = self._max_pending
        return limit is not None and self.scheduler.count_queued() >= limit and not self.scheduler.has_room

    def _staff_now(self) -> None:
        """Under the lock: have what is queued go to whom it can, without waiting for the next event."""
        self.scheduler.staff(time.monotonic())
        self._wakeup.set()

    # -- the thread ----------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Make what a manager at work needs; a manager that is never used needs nothing.

        Raises: `OSError`, `RuntimeError` when the machine has no descriptor, memory or thread to give now; a later
        call tries again.
        """
        with contextlib.ExitStack() as undo:
            self._observers.start()
            self._poller = _platform.Poller()
            undo.callback(self._poller.close)
            self._wakeup = _platform.Wakeup()
            undo.callback(self._wakeup.close)
            page_fd = _platform.make_memory_file("procbackground-page", PAGE_SIZE)
            undo.callback(os.close, page_fd)
            self._page_fd = page_fd
            self._words = map_page(page_fd)
            self._life_read_fd, self._life_write_fd = os.pipe()
            undo.callback(os.close, self._life_read_fd)
            undo.callback(os.close, self._life_write_fd)
            self._readers: dict[int, Worker] = {}  # result pipe -> worker
            self._others: dict[int, Callable[[], None]] = {}
            self._last: list[Callable[[], None]] = []  # see `_watch_last`
            self._dying: dict[Worker, float] = {}  # ended, exit code not known yet -> not waited for beyond
            self._killed_descendants: dict[int, float] = {}  # pid -> start time
            self._oom_kills = _platform.count_oom_kills()
            self._asking: list[tuple[float, float, Worker]] = []  # stack dumps: look at, give up at, of whom
            boot = Boot(self._initializer, _parent_log_level(), main_path(self._context), self._setup)
            self._warden = Warden(page_fd, self._life_write_fd)
            direct = Direct(
                self._context, boot, page_fd, self._life_read_fd, self._launched, self._launch_failed, self._warden
            )
            self._launcher: Launcher = direct
            self._zygote: Zygote | None = None
            if _platform.IS_LINUX and self._context.get_start_method() == "forkserver" and _platform.HAS_PIDFD:
                self._launcher = self._zygote = Zygote(
                    self._context, boot, page_fd, self._life_read_fd, self._preload,
                    self._watch_last, self._forget, self._launched, self._launch_failed, self._exited, direct,
                    self._start_timeout_s,
                )  # fmt: skip
            self._poller.watch(self._wakeup.fileno())
            thread = threading.Thread(target=self._run, name=f"{self._name}-supervisor", daemon=True)
            thread.start()
            self._thread = thread
            self._is_ready = True
            undo.pop_all()

    def _wake_up(self) -> None:
        """Have the supervisor look after the errands, as it does by itself before it sleeps."""
        if self._is_ready and threading.current_thread() is not self._thread:
            self._wakeup.set()

    def _run(self) -> None:
        try:
            while not self.scheduler.has_finished:
                self._step()
            self._has_drained.set()
            self._finish()
        except BaseException as error:
            self._crash(error)

    def _step(self) -> None:
        for fd, _ in self._poller.poll(self._seconds_to_wait()):
            worker = self._readers.get(fd)
            if worker is not None:
                self._read(worker)
            elif fd in self._others:
                self._others[fd]()
            elif fd == self._wakeup.fileno():
                self._wakeup.drain()
                self._hear_callers()
        while self._last:
            self._last.pop()()
        now_s = time.monotonic()
        if now_s >= self.scheduler.next_due_s:
            with self.lock:
                self.scheduler.clock_advanced(now_s, self._clocks_s)
        if self._asking or self._dying:
            self._follow_up(now_s)
        if self._zygote is not None and now_s >= self._zygote.look_s:
            self._zygote.look_after(now_s)
        if self._returned:
            self._settle_returned()
        if self._errands.has_backlog:
            self._errands.relieve()
        while self.scheduler.commands:
            with self.lock:
                commands, self.scheduler.commands = self.scheduler.commands, []
            for command in commands:
                self._carry_out(command)
        if self._room.has_line:
            with self.lock:
                self._room.tell_next()  # whatever happened may have made room

    def _seconds_to_wait(self) -> float | None:
        if self.scheduler.commands:
            return 0.0
        due_s = self.scheduler.next_due_s
        if self._asking:
            due_s = min(due_s, self._asking[0][0])
        if self._dying:
            due_s = min(due_s, *self._dying.values())
        if self._zygote is not None:
            due_s = min(due_s, self._zygote.look_s)
        now_s = time.monotonic()
        if self._errands.has_backlog:
            due_s = min(due_s, now_s + 0.05)
        return None if due_s == NO_LIMIT else max(0.0, due_s - now_s)

    def _hear_callers(self) -> None:
        now_s = time.monotonic()
        while self._unfinished:
            worker = self._unfinished.pop()
            if not worker.process.closed:
                self._finish_writing(worker)
        while self._asked_to_do:
            self._errands.put(self._asked_to_do.popleft())
        with self.lock:
            if self._asked_to_close:
                self._room.tell_all()
            while self._asked_to_close:
                timeout_s = self._asked_to_close.pop(0)
                self.scheduler.close(timeout_s, now_s)
            self.scheduler.staff(now_s)

    def _clocks_s(self, worker: Worker) -> s.Clocks:
        """When the worker began what it does, and when it last gave a sign of life; now while a loop pauses."""
        base = worker.line * WORDS_PER_LINE
        began_s = worker.head_since_s
        is_exact = True
        if worker.loop is not None:
            if self._words[base + PAUSED]:
                began_s = time.monotonic()
            else:
                began_s = self._words[base + BEGAN_NS] / 1e9 or began_s
        elif worker.inflight and worker.inflight[0].recipe.is_chunk:
            row, looked_row = self._words[base + ROW], self._words[base + LOOKED_ROW]
            looked_s = self._words[base + BEGAN_NS] / 1e9  # read last, as it is written first
            is_exact = row == looked_row and looked_s >= began_s
            began_s = max(began_s, looked_s)
        return s.Clocks(began_s, max(began_s, self._words[base + SIGN_NS] / 1e9), is_exact)

    # -- reading -------------------------------------------------------------------------------------------

    def _read(self, worker: Worker) -> None:
        process: WorkerProcess = worker.process
        try:
            data = os.read(process.result_fd, wire.READ_SIZE)
        except BlockingIOError:
            return
        if data:
            self._take(worker, process.reader.feed(data))
            if process.reader.error is None:
                return
        # The end of the pipe: the process has ended, or the task closed what is not its own, or wrote into it. Nothing
        # can be read any more either way.
        self._stop_reading(process)
        if not process.is_dying:
            process.signal_group(signal.SIGKILL)

    def _stop_reading(self, process: WorkerProcess) -> None:
        if process.result_fd >= 0:
            self._poller.forget(process.result_fd)
            del self._readers[process.result_fd]
            os.close(process.result_fd)
            process.result_fd = -1

    def _take(self, worker: Worker, frames: list[tuple[int, int, bytes]]) -> None:
        """Act on what a worker sent. What it returned is put aside for `_settle_returned`."""
        scheduler = self.scheduler
        values: list[Any] = []
        afterwards: list[tuple[int, int, bytes, Job | None]] = []
        last = 0
        wants_more = False
        now_s = time.monotonic()
        with self.lock:
            for kind, sequence, body in frames:
                if kind <= wire.SKIPPED:
                    wants_more = True
                    if kind <= wire.PARCEL_VALUE:
                        values.append(body if kind != wire.PARCEL_VALUE else self._receive_parcel(worker, body))
                        last = sequence
                        continue
                if values:
                    self._match(worker, values, last, now_s)
                    values = []
                if kind == wire.MEASURED:
                    worker.cost = wire.COST.unpack(body)
                elif kind == wire.FAILURE:
                    scheduler.failure_came(worker, body, now_s)
                    self._tell_head_started(worker)
                elif kind == wire.SKIPPED:
                    self._note_unbegun_head(worker, sequence)
                    scheduler.skipped(worker, sequence, now_s)
                    self._tell_head_started(worker)
                elif kind == wire.HELLO:
                    scheduler.said_hello(worker, now_s)
                elif kind == wire.BROKEN:
                    scheduler.initializer_failed(worker, body, now_s)
                elif kind == wire.ITERATION_FAILED:
                    iterations = self._words[worker.line * WORDS_PER_LINE + ITERATIONS]
                    scheduler.iteration_failed(worker, body, iterations, now_s)
                elif kind == wire.LOOP_ENDED:
                    scheduler.loop_ended(worker, now_s)
                else:
                    head = worker.loop or (worker.inflight[0] if worker.inflight else None)
                    afterwards.append((kind, sequence, body, head))
            if values:
                self._match(worker, values, last, now_s)
            # Only after an answer: before its first one, what is to be written first may still be a command.
            jobs = scheduler.refill(worker, now_s) if wants_more else []
        if jobs:
            self._send(worker, jobs)
        for kind, sequence, body, head in afterwards:
            self._take_message(worker, kind, sequence, body, head)

    def _receive_parcel(self, worker: Worker, label: bytes) -> Parcel | bytes:
        try:
            return receive_parcel(worker.process.side_fd, label)
        except (OSError, EOFError):
            return b"\x94" + STACK_GLOBAL  # no descriptor is left; this fails to load, which fails this task only

    def _match(self, worker: Worker, values: list[Any], last: int, now_s: float) -> None:
        since_s = worker.head_since_s
        jobs = self.scheduler.answers_came(worker, len(values), last, now_s)
        self._returned.append(_Returned(worker, jobs, values, worker.cost, since_s, now_s))
        worker.cost = None
        if self._tells_starts:
            for job in jobs:
                self._tell_started(job, worker)
            self._tell_head_started(worker)

    def _settle_returned(self) -> None:
        """Settle what all workers returned in this round, and then wake those who wait.

        The workers have their next tasks already, and whoever we wake finds us gone back to the poller instead of
        waiting for the GIL: 73 to 68 µs a round trip. One wake-up for all handles of a round, rather than one for
        each worker at its first handle, is worth another tenth of a burst.
        """
        sleepers: list[_thread.LockType] = []
        count = 0
        while self._returned:
            count += self._settle_values(self._returned[0], sleepers)
            del self._returned[0]
        if count:
            with self.lock:
                if self.scheduler.settled(succeeded=count):
                    self._note_all_settled()
        for lock in sleepers:
            lock.release()

    def _settle_values(self, returned: _Returned, sleepers: list[_thread.LockType]) -> int:
        """Settle the handles of plain values and return how many those are; others go to be judged."""
        worker, jobs, values, cost, since_s, now_s = returned
        tells = "on_task_succeeded" in self._wants
        may_extend = bool(EXTENSION_CODES)
        pid = worker.pid
        # They came together, and as far as we can tell began together.
        success = (self._wall(since_s), self._wall(now_s), pid, None, None)
        count = 0
        for job, body in zip(jobs, values, strict=True):
            if job.worker is not worker:
                continue  # it was cancelled
            if job.recipe.needs_judge or (
                body
                and (
                    may_extend
                    or type(body) is Parcel
                    or len(body) > PLAIN_LIMIT
                    or (STACK_GLOBAL in body and not is_plain(body))
                )
            ):
                with self.lock:
                    self.scheduler.value_wants_judging(job, body, worker, cost)
                cost = None
                continue
            handle = job.handle
            if job.history is not None and job.history.attempts:
                job.record(Outcome.SUCCEEDED, now_s, self._wall, pid=pid, cost=cost)
                handle._history = tuple(job.history.attempts)
            else:
                handle._success = success if cost is None else (*success[:3], *cost)
            cost = None
            value = pickle.loads(body) if body else None
            if handle._settle(FINISHED, value, None, sleepers):
                self._errands.put(handle._invoke_callbacks)  # type: ignore[attr-defined]
            if tells:
                self._tell("on_task_succeeded", job, result=value)
            count += 1
        return count

    def _note_all_settled(self) -> None:
        """Under the lock: tell those in `wait`, and a manager that closes can go on."""
        self._all_settled.notify_all()
        if self.scheduler.is_closing:
            self.scheduler.drain_if_done(time.monotonic())
            self._wakeup.set()

    def _take_message(self, worker: Worker, kind: int, sequence: int, body: bytes, head: Job | None) -> None:
        if kind == wire.PARTIAL:
            if head is not None and head.sequence == sequence:
                head.handle._take_part(body)
        elif kind == wire.PROGRESS:
            if head is None or head.sequence != sequence or head.has_settled:
                return  # of a thread that outlived its task
            done, total, message = pickle.loads(body)
            head.handle._progress = Progress(done, total, message)
            if "on_task_progress" in self._wants:
                self._tell(
                    "on_task_progress", head, done=done, total=total, message=message
                )
        elif kind == wire.LOG_RECORD:
            worker.process.note_record(0 if head is None else head.sequence, body)
            name = head.recipe.name if head is not None else None
            self._records.put(tell_parent, body, name, head.attempt if head is not None else None, worker.pid)

    # -- writing -------------------------------------------------------------------------------------------

    def _send(self, worker: Worker, jobs: list[Job]) -> None:
        if self._tells_starts:
            if worker.loop is not None:
                self._tell_loop_started(worker.loop, worker)
            else:
                self._tell_head_started(worker)
        if self._is_sampled or any(job.recipe.memory_limit is not None for job in jobs):
            self._monitor.want()
        for job in jobs:
            if job.flags & wire.PARCEL:
                worker.process.send_parcel(job.payload)
        data = _call_frame(jobs[0]) if len(jobs) == 1 else b"".join(map(_call_frame, jobs))
        process: WorkerProcess = worker.process
        if process.unsent is not None:
            process.unsent = memoryview(bytes(process.unsent) + data)
            return
        unsent = process.write(data)
        if unsent is not None:
            process.unsent = unsent
            self._finish_writing(worker)

    def _finish_writing(self, worker: Worker) -> None:
        """Write what the pipe had no room for, when it has."""
        process: WorkerProcess = worker.process
        if process.ends_tasks:
            self._close_tasks(worker)
        if process.unsent is None or process.task_fd < 0:
            return
        process.unsent = process.write(process.unsent)
        if process.unsent is None:
            self._forget(process.task_fd)
        elif process.task_fd not in self._others:
            self._others[process.task_fd] = lambda: self._finish_writing(worker)
            self._poller.watch(process.task_fd, writable=True)

    # -- commands ------------------------------------------------------------------------------------------

    def _carry_out(self, command: s.Command) -> None:
        match command:
            case s.Send(worker, jobs):
                if not worker.process.closed:
                    self._send(worker, jobs)
            case s.Judge():
                if is_plain_end(command):
                    self._judge(command)
                else:
                    self._errands.put(self._judge, command)
            case s.Cancelled(job, worker):
                self._settle_cancelled(job, is_loop=job.recipe.is_loop, worker=worker)
            case s.Broke(job):
                self._errands.put(self._settle_broken, job)
            case s.Refuse():
                self._refuse()
            case s.Launch(worker):
                base = worker.line * WORDS_PER_LINE
                for word in range(WORDS_PER_LINE):
                    self._words[base + word] = 0
                self._launcher.launch(worker)
                _load_what_failures_need()
            case s.GoOn(worker):
                worker.process.write(wire.frame(wire.GO_ON, 0))
            case s.Terminate(worker, wants_stack):
                self._terminate(worker, wants_stack)
            case s.Kill(worker):
                if worker.process is not None and not worker.process.closed:
                    if worker.silence is None and worker.notes is None:
                        worker.silence = _platform.why_not_running(worker.pid)  # before it stands still for ever
                    worker.process.kill_tree()
            case s.Dismiss(worker):
                self._close_tasks(worker)
            case s.EndLoop(worker):
                self._words[worker.line * WORDS_PER_LINE + STOP] = 1
                self._close_tasks(worker)
            case s.Revoke(worker, up_to):
                self._words[worker.line * WORDS_PER_LINE + REVOKED] = up_to
            case s.AskForLook(worker):
                word = worker.line * WORDS_PER_LINE + LOOKS
                asked_s = time.monotonic()
                self._words[word] = (self._words[word] + 1) % 256
                due_s = time.monotonic()
                with self.lock:
                    self.scheduler.look_was_asked(worker, asked_s, due_s)
            case s.LookAtMark(worker, up_to):
                started = self._words[worker.line * WORDS_PER_LINE + STARTED]
                with self.lock:
                    self.scheduler.mark_seen(worker, started, up_to, time.monotonic())
            case s.Stalled(job, worker, silent_for_s):
                self._tell_stalled(job, worker, silent_for_s)
            case s.ProcessReady(worker):
                self._end_shortage()
                self._tell_process("on_process_started", worker)
            case s.ProcessGone(worker):
                self._tell_process(
                    "on_process_exited", worker, exit_code=worker.exit_code
                )
            case s.LookAtMemory():
                if not self._monitor.want():
                    assert isinstance(self.scheduler, AdmittingScheduler)
                    with self.lock:
                        self.scheduler.memory_not_seen(time.monotonic())
            case s.AdmissionHeld(free_bytes):
                assert isinstance(self.scheduler, AdmittingScheduler)
                min_free = self.scheduler.min_free_bytes
                self._tell_manager("on_admission_held", reason="memory", free=free_bytes, min_free=min_free)
            case s.AdmissionResumed(free_bytes, held_for_s):
                self._tell_manager("on_admission_resumed", reason="memory", free=free_bytes, held_for=held_for_s)
            case _:
                assert_never(command)

    def _refuse(self) -> None:
        """No worker can be started: tell so to whoever submits from now on, or waits for room."""
        self._errands.put(self._explain_break)
        with self.lock:
            self._is_refusing = True
            self._room.tell_all()

    def _close_tasks(self, worker: Worker) -> None:
        process: WorkerProcess | None = worker.process
        if process is not None and not process.closed and process.task_fd >= 0:
            # Its number may be another file's by the time that a caller, who is at it now, comes to write.
            process.ends_tasks = True
            if worker.in_writing is not None:
                return  # that caller has it closed
            self._forget(process.task_fd)
            process.unsent = None
            process.close_tasks()

    def _terminate(self, worker: Worker, wants_stack: bool) -> None:
        process: WorkerProcess | None = worker.process
        if process is None or process.closed:
            return
        if wants_stack and process.ask_for_stack():
            now_s = time.monotonic()
            self._asking.append((now_s + STACK_POLL_S, now_s + STACK_S, worker))
            return
        # The word first: it tells the child's handler that this SIGTERM is ours.
        self._words[worker.line * WORDS_PER_LINE + STOP] = 1
        process.list_descendants()
        process.signal_group(signal.SIGTERM)
        process.signal_group(signal.SIGCONT)  # a stopped process gets no SIGTERM before it goes on
        self._close_tasks(worker)

    def _follow_up(self, now_s: float) -> None:
        """Look after stack dumps and exit codes that were asked for."""
        asking, self._asking = self._asking, []
        for look_s, until_s, worker in asking:
            if now_s < look_s:
                self._asking.append((look_s, until_s, worker))
                continue
            notes = None if worker.process.closed else worker.process.read_notes()
            is_complete = notes is not None and notes == worker.notes
            worker.notes = notes
            if is_complete or now_s >= until_s or worker.process.closed:
                if not is_complete and worker.silence is None:
                    worker.silence = _platform.why_not_running(worker.pid)
                self._terminate(worker, wants_stack=False)
            else:
                self._asking.append((now_s + STACK_POLL_S, until_s, worker))
        for worker, until_s in list(self._dying.items()):
            if now_s < until_s:
                continue
            process = worker.process
            if self._zygote is not None and self._zygote.expects_exit_code(process) and process.exit_code is None:
                if self._zygote.is_stopped:
                    self._zygote.replace()
                elif now_s < process.ended_s + ANSWER_S:
                    self._dying[worker] = now_s + EXIT_CODE_S  # it is at an import that takes long
                    continue
            self._bury(worker)

    # -- processes come and go -----------------------------------------------------------------------------

    def _watch(self, fd: int, act: Callable[[], None]) -> None:
        self._others[fd] = act
        self._poller.watch(fd)

    def _watch_last(self, fd: int, act: Callable[[], None]) -> None:
        """As `_watch`, for what closes and opens descriptors: it is done when all else that was ready is seen to.

        Else what is left of that would be taken for something of whoever got the number of a closed descriptor.
        """
        self._watch(fd, lambda: self._last.append(act))

    def _forget(self, fd: int) -> None:
        if self._others.pop(fd, None) is not None:
            self._poller.forget(fd)

    def _launched(self, worker: Worker, process: WorkerProcess) -> None:
        worker.process = process
        process.worker = worker
        worker.pid = process.pid
        self._readers[process.result_fd] = worker
        self._poller.watch(process.result_fd)
        self._watch(process.death_fd, lambda: self._died(worker))
        if worker.was_killed:
            process.signal_group(signal.SIGKILL)

    def _launch_failed(self, worker: Worker, error: Exception, may_pass: bool) -> None:
        if may_pass:
            self._begin_shortage(error)
        with self.lock:
            is_helper_lost = isinstance(error, ConnectionError)
            longest_pause_s = s.MAX_HELPER_RETRY_S if is_helper_lost else s.MAX_LAUNCH_RETRY_S
            self.scheduler.launch_failed(worker, time.monotonic(), None if may_pass else error, longest_pause_s)

    def _begin_shortage(self, error: Exception) -> None:
        """Say once that workers cannot be started, until one can."""
        if self._short_since_s is not None:
            return
        self._short_since_s = time.monotonic()
        logger.warning("a worker process could not be started (%s); trying again", error)
        # Without its frames, which hold the half-started process and its descriptors.
        self._tell_manager("on_admission_held", reason="processes", error=error.with_traceback(None))

    def _end_shortage(self) -> None:
        if self._short_since_s is None:
            return
        held_for_s, self._short_since_s = time.monotonic() - self._short_since_s, None
        self._tell_manager("on_admission_resumed", reason="processes", held_for=held_for_s)

    def _exited(self, process: WorkerProcess) -> None:
        """The zygote told an exit code, or will tell none any more."""
        if process.worker is not None:
            self._bury(process.worker)

    def _died(self, worker: Worker) -> None:
        """The process has ended. Its exit code may be a moment behind."""
        process: WorkerProcess = worker.process
        if process.is_dying:
            return
        process.is_dying = True
        process.ended_s = time.monotonic()
        self._forget(process.death_fd)
        with self.lock:
            self.scheduler.process_ended(worker)
        if process.launcher.exit_code_of(process) is None and process.launcher.expects_exit_code(process):
            self._dying[worker] = process.ended_s + EXIT_CODE_S
            self._take_stock(worker)  # 0.2 ms, in which the zygote finds out the exit code
        else:
            self._bury(worker)

    def _take_stock(self, worker: Worker) -> Stock:
        process: WorkerProcess = worker.process
        if process.stock is None:
            # Of use if it died at a task; most leave by themselves.
            is_at_work = worker.loop is not None or bool(worker.inflight)
            used_s = monitor.cpu_seconds(worker.pid) if is_at_work else None
            process.stock = Stock(used_s, _platform.count_oom_kills() if is_at_work and not worker.was_killed else None)
        return process.stock

    def _bury(self, worker: Worker) -> None:
        process: WorkerProcess = worker.process
        if process.closed:
            return
        process.is_dying = True
        self._forget(process.death_fd)
        if worker.in_writing is not None:
            # A caller is in the middle of a write to it; a closed descriptor's number may be in use again.
            self._dying[worker] = time.monotonic() + 0.001
            return
        self._dying.pop(worker, None)
        process.kill_tree()  # what it started goes with it; its own pid is still ours
        if process.descendants:
            self._killed_descendants = {**self._killed_descendants_alive(), **process.descendants}
        # Empty the pipe before believing the death: a worker that answers and then dies makes both ready in one
        # wait, and its answer counts.
        while process.result_fd >= 0:
            try:
                data = os.read(process.result_fd, wire.READ_SIZE)
            except BlockingIOError:
                break  # a process that it forked holds the other end
            if not data:
                break
            self._take(worker, process.reader.feed(data))
        with self.lock:
            if worker.in_writing is not None:  # its answer made it idle, and a caller took it
                self._dying[worker] = time.monotonic() + 0.001
                return
            self.scheduler.process_ended(worker)
        stock = self._take_stock(worker)  # before the exit code is asked for, which may reap the zombie
        head = worker.loop or (worker.inflight[0] if worker.inflight else None)
        cost: tuple[float | None, int | None] | None = None
        if head is not None:
            cost = self._monitor.cost_of_the_dead(worker, head.sequence, stock.used_s, process.peak_bytes)
        worker.exit_code = process.launcher.exit_code_of(process)
        if cost is not None:
            # A loop's process served many iterations, each with attempts of its own.
            cpu_s = cost[0] if worker.loop is None else None
            worker.cost = (cpu_s, max(cost[1] or 0, process.peak_bytes) or None)
            worker.peak_bytes = max(worker.peak_bytes, process.peak_bytes)
        worker.log_tail = process.log_tail(0 if head is None else head.sequence)
        if worker.exit_code == -signal.SIGKILL and not worker.was_killed:
            # Of an idle worker's, too: else the next one that is killed at a task would be charged with it.
            oom_kills = _platform.count_oom_kills() if stock.oom_kills is None else stock.oom_kills
            worker.was_oom = oom_kills > self._oom_kills
            self._oom_kills = max(self._oom_kills, oom_kills)
        if worker.notes is None:
            process.notes_seen = 0
            worker.notes = process.read_notes()
        self._stop_reading(process)
        self._forget(process.task_fd)
        process.unsent = None
        base = worker.line * WORDS_PER_LINE
        started = self._words[base + STARTED]
        self._words[base + PID] = 0  # which may be a stranger's soon
        if worker.inflight:
            worker.inflight[0].handle._ended_at_row = self._words[base + ROW]
        with self.lock:
            if worker.inflight and worker.inflight[0].sequence > started:
                self._note_unbegun_head(worker, worker.inflight[0].sequence)
            elif worker.loop is not None and not started and worker.told_up_to:
                worker.loop.with_history().told_attempt = worker.loop.attempt
            self.scheduler.worker_gone(worker, started, time.monotonic())
        process.close()

    # -- outcomes ------------------------------------------------------------------------------------------

    def _judge(self, command: s.Judge) -> None:
        """Find out what an outcome means. Runs in an errand if any of the user's code is involved: that may block."""
        job = command.job
        try:
            verdict = pass_verdict(command, self._wall, time.monotonic())
        except BaseException as bug:  # not the user's code, which is guarded one by one: still only this task fails
            logger.exception("the end of an attempt of %r could not be judged", job.recipe.name)
            verdict = Verdict(None, bug, None, True)
        now_s = time.monotonic()
        is_loop = job.recipe.is_loop
        attempt = job.attempt
        with self.lock:
            if is_loop and not verdict.ends_loop:
                waiting = command.worker if command.waits else None
                ruling = self.scheduler.loop_judged(job, waiting, verdict.delay_s, now_s)
            else:
                ruling = self.scheduler.judged(job, verdict.delay_s, now_s)
            if ruling == s.AGAIN and "on_task_retrying" in self._wants:
                # Under the lock, so that the next attempt's events come after it.
                self._tell(
                    "on_task_retrying", job, attempt,
                    error=verdict.error, delay=verdict.delay_s,
                )  # fmt: skip
            has_commands = bool(self.scheduler.commands)
        if (has_commands or ruling == s.AGAIN) and threading.current_thread() is not self._thread:
            self._wakeup.set()
        if ruling != s.OVER:
            return
        if is_loop and not verdict.ends_loop:
            assert verdict.error is not None
            if "on_task_failed" in self._wants:
                self._tell("on_task_failed", job, attempt, error=verdict.error)
        elif verdict.error is not None:
            self._settle_failed(job, verdict.error, is_loop=is_loop)
        else:
            self._settle_judged_value(job, verdict)

    def _settle_judged_value(self, job: Job, verdict: Verdict) -> None:
        handle = job.handle
        handle._history = tuple(job.with_history().attempts)
        has_callbacks = handle._settle(FINISHED, verdict.value, None)
        if "on_task_succeeded" in self._wants:
            self._tell("on_task_succeeded", job, result=verdict.value)
        self._account(job, succeeded=1)
        if has_callbacks:
            handle._invoke_callbacks()  # type: ignore[attr-defined]

    def _settle_failed(self, job: Job, error: BaseException, *, is_loop: bool) -> None:
        handle = job.handle
        handle._history = tuple(job.history.attempts) if job.history is not None else ()
        has_callbacks = handle._settle(FINISHED, None, error)
        if "on_task_failed" in self._wants:
            self._tell("on_task_failed", job, error=error)
        self._account(job, failed=1, loops=int(is_loop))
        if has_callbacks:
            self._errands.put(handle._invoke_callbacks)  # type: ignore[attr-defined]

    def _settle_cancelled(self, job: Job, *, is_loop: bool, worker: Worker | None = None) -> None:
        handle = job.handle
        attempts: list[Attempt] = list(job.history.attempts) if job.history is not None else []
        if worker is not None and worker.pid and not is_loop:
            attempts.append(
                Attempt(
                    job.attempt, worker.pid, self._wall(job.started_s), time.time(), Outcome.CANCELLED,
                    worker.exit_code, None, *(worker.cost or (None, None)),
                )
            )  # fmt: skip
        handle._history = tuple(attempts)
        has_callbacks = handle._settle(CANCELLED_AND_NOTIFIED, None, None)
        if "on_task_cancelled" in self._wants:
            self._tell("on_task_cancelled", job)
        self._account(job, cancelled=1, loops=int(is_loop))
        if has_callbacks:
            self._errands.put(handle._invoke_callbacks)  # type: ignore[attr-defined]

    def _account(self, job: Job, **settled: int) -> None:
        with self.lock:
            if self.scheduler.settled(job=job, **settled) or not self.scheduler.unsettled_loops:
                self._note_all_settled()

    def _settle_broken(self, job: Job) -> None:
        """Fail a job because no worker can be started. In an errand."""
        if self._breakage is None:
            self._explain_break()
        assert self._breakage is not None
        self._settle_failed(job, self._breakage.error(job), is_loop=job.recipe.is_loop)

    def _explain_break(self) -> None:
        assert self.scheduler.broken_by is not None
        self._breakage = explain(*self.scheduler.broken_by)

    # -- telling -------------------------------------------------------------------------------------------

    def _tell(self, name: str, job: Job, attempt: int | None = None, **facts: Any) -> None:
        handle = job.handle
        number = job.attempt if attempt is None else attempt
        make = _event_class(name)
        self._observers.put(name, make(task=handle.task, handle=handle, attempt=number, time=time.time(), **facts))

    def _tell_added(self, job: Job) -> bool:
        with self.lock:
            self._check_open()
            if not self._is_ready:
                self._start()
        self._tell("on_task_added", job)
        return True

    def _tell_started(self, job: Job, worker: Worker) -> None:
        """Tell observers that the worker has come to this job, unless they know, or it was cancelled meanwhile."""
        if job.worker is not worker or job.sequence <= worker.told_up_to:
            return
        worker.told_up_to = job.sequence
        if job.history is None or job.history.told_attempt != job.attempt:
            self._tell("on_task_started", job, pid=worker.pid)

    def _tell_loop_started(self, loop: Job, worker: Worker) -> None:
        """Tell observers that the loop has a process, unless they were told of one that died before it began."""
        history = loop.with_history()
        if history.told_attempt != loop.attempt:
            self._tell("on_task_started", loop, pid=worker.pid)
        worker.told_up_to = loop.sequence
        history.told_attempt = 0  # a later process of the same attempt is to be told of

    def _tell_head_started(self, worker: Worker) -> None:
        """What was sent ahead begins when it is its turn."""
        if self._tells_starts and worker.inflight:
            self._tell_started(worker.inflight[0], worker)

    def _note_unbegun_head(self, worker: Worker, sequence: int) -> None:
        """The worker has not begun request `sequence`: should that be told already, it is not to be told twice."""
        if self._tells_starts and worker.inflight and worker.inflight[0].sequence == sequence <= worker.told_up_to:
            job = worker.inflight[0]
            job.with_history().told_attempt = job.attempt

    def _tell_stalled(self, job: Job, worker: Worker, silent_for_s: float) -> None:
        if "on_task_stalled" in self._wants:
            self._tell(
                "on_task_stalled", job, silent_for=silent_for_s,
                stack=self._stack_now(worker),
            )  # fmt: skip

    def _stack_now(self, worker: Worker) -> str | None:
        process: WorkerProcess = worker.process
        if process.closed or not process.ask_for_stack():
            return None
        # A short look: the dump takes a fraction of a millisecond in a process that runs.
        until_s = time.monotonic() + STACK_S
        stack = None
        while time.monotonic() < until_s:
            time.sleep(0.001)
            seen, stack = stack, process.read_notes()
            if stack is not None and stack == seen:
                break
        return stack

    def _tell_process(self, name: str, worker: Worker, **facts: Any) -> None:
        if name in self._wants:
            make = _event_class(name)
            event = make(task=None, handle=None, attempt=None, time=time.time(), pid=worker.pid, **facts)
            self._observers.put(name, event)

    def _tell_manager(self, name: str, **facts: Any) -> None:
        if name in self._wants:
            event = _event_class(name)(task=None, handle=None, attempt=None, time=time.time(), **facts)
            self._observers.put(name, event)

    # -- memory --------------------------------------------------------------------------------------------

    def _limited_workers(self) -> list[monitor.Watched]:
        with self.lock:
            limited = []
            for worker in self.scheduler.workers:
                job = worker.loop or (worker.inflight[0] if worker.inflight else None)
                if job is not None and job.recipe.memory_limit is not None:
                    limited.append(monitor.Watched(worker, job.sequence, job.recipe.memory_limit))
            return limited

    def _over_memory(self, watched: monitor.Watched, rss_bytes: int) -> None:
        worker = watched.worker
        with self.lock:
            job = worker.loop or (worker.inflight[0] if worker.inflight else None)
            if job is None or job.sequence != watched.sequence:
                return  # answered meanwhile
            worker.peak_bytes = max(worker.peak_bytes, rss_bytes)
            self.scheduler.over_memory(worker, time.monotonic())
        self._wakeup.set()

    def _see_free_memory(self) -> bool:
        """Look at the free memory; return whether to look again."""
        assert isinstance(self.scheduler, AdmittingScheduler)
        free_bytes = machine.free_memory_bytes()
        with self.lock:
            goes_on = self.scheduler.memory_seen(free_bytes, time.monotonic())
            has_commands = bool(self.scheduler.commands)
        if has_commands:
            self._wakeup.set()
        return goes_on

    # -- the end -------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """All workers are gone: let go of everything else, in the order in which it depends on each other."""
        if self._is_ready:
            self._launcher.close()
            self._warden.close()
        if self._initializer is not None:
            self._initializer.let_go()
        self._monitor.stop(MOMENT_S)
        self._errands.stop(MOMENT_S)
        self._records.stop(MOMENT_S)
        now_s = time.monotonic()
        scheduler = self.scheduler
        began_s = now_s if self._close_began_s is None else self._close_began_s
        succeeded, failed = self._settled_at_close
        self._report = CloseReport(
            finished=scheduler.succeeded - succeeded + scheduler.failed - failed,
            cancelled=scheduler.cancelled_by_close,
            stopped=scheduler.stopped,
            killed=scheduler.killed,
            leftovers=self._leftovers(),
            seconds=now_s - began_s,
        )
        self._tell_manager("on_manager_closed", report=self._report)
        if not self._observers.stop(MOMENT_S):
            logger.warning("an observer has not taken its events %s s after the manager closed", MOMENT_S)
        self._close_fds()
        self._has_closed.set()
        _living.discard(self)

    def _leftovers(self) -> tuple[int, ...]:
        """What the workers had started and SIGKILL has not ended, a moment later."""
        if not self._is_ready:
            return ()
        until_s = time.monotonic() + MOMENT_S
        while True:
            alive = self._killed_descendants_alive()
            if not alive or time.monotonic() >= until_s:
                return tuple(alive)
            time.sleep(0.01)  # a signal to a running process takes effect at once; this is for slow exits

    def _killed_descendants_alive(self) -> dict[int, float]:
        killed = self._killed_descendants.items()
        return {pid: start for pid, start in killed if _platform.start_time(pid) == start}

    def _close_fds(self) -> None:
        if not self._is_ready:
            return
        self._words = memoryview(b"")
        self._poller.close()
        fds = (self._page_fd, self._life_read_fd, self._life_write_fd)
        self._life_write_fd = -1  # first: a fork in another thread closes what it finds there
        for fd in fds:
            os.close(fd)
        self._wakeup.close()

    def _crash(self, error: BaseException) -> None:
        """A bug ended the supervisor: whoever waits is told at once, and no process is left."""
        logger.critical("the supervisor failed; its tasks fail with it", exc_info=error)
        with self.lock:
            self._failure = error
            self._is_refusing = True
            workers = list(self.scheduler.workers)
            self._all_settled.notify_all()
            self._room.tell_all()
        for worker in workers:
            if worker.process is not None and not worker.process.closed:
                self._try(worker.process.kill_tree)
        for handle in self._unsettled_handles():
            self._try(self._fail_handle, handle)
        self._has_drained.set()
        self._try(self._let_go_of, workers)
        self._has_closed.set()
        _living.discard(self)

    def _try(self, act: Callable[..., object], *args: Any) -> None:
        """Do one of the things that are to be done whatever becomes of the others."""
        try:
            act(*args)
        except BaseException:
            logger.exception("exception in %r after the supervisor failed", act)

    def _unsettled_handles(self) -> list[TaskHandle[Any]]:
        """All of this manager's handles that are not done.

        The scheduler's books do not have those that were on their way from one list to another when it failed,
        such as a batch of answers. The garbage collector has: a look at all objects takes a second at the worst,
        and happens once.
        """
        handles = {id(job.handle): job.handle for job in self.scheduler.all_jobs()}
        for found in gc.get_objects():
            # By type: asking a proxy for its class would run the user's code.
            if issubclass(type(found), TaskHandle) and found._owner is self:
                handles[id(found)] = found
        return [handle for handle in handles.values() if not handle.done()]

    def _fail_handle(self, handle: TaskHandle[Any]) -> None:
        if handle._settle(FINISHED, None, self._failure_error(handle)):
            self._errands.put(handle._invoke_callbacks)  # type: ignore[attr-defined]

    def _failure_error(self, handle: TaskHandle[Any] | None = None) -> ProcbackgroundError:
        error = ProcbackgroundError(
            f"the manager's supervisor failed ({self._failure!r}): this is a bug of procbackground, and its log has "
            f"the traceback; the manager takes no more tasks",
            task=None if handle is None else handle.task,
        )
        error.__cause__ = self._failure
        return error

    def _let_go_of(self, workers: list[Worker]) -> None:
        """End threads and helpers and close descriptors, after a failure."""
        self._try(self._monitor.stop, MOMENT_S)
        self._try(self._errands.stop, MOMENT_S)
        self._try(self._records.stop, MOMENT_S)
        self._try(self._observers.stop, MOMENT_S)
        for worker in workers:
            # One that a caller writes to stays open: a closed descriptor's number may be in use again.
            if worker.process is not None and worker.in_writing is None:
                self._try(worker.process.close)
        self._try(self._launcher.close)
        self._try(self._warden.close)
        self._try(self._close_fds)

    def _abandon_in_fork(self) -> None:
        """In a fork of this process: the workers belong to the other one; keep none of them alive."""
        self._is_foreign = True
        if not self._is_ready or self._has_closed.is_set():
            return
        fds = [self._life_write_fd, self._warden.control_fd, *self._readers, *self._others]
        fds += [worker.process.task_fd for worker in self._readers.values()]
        for fd in {fd for fd in fds if fd >= 0}:
            try:
                os.close(fd)
            except OSError:
                pass


def _call_frame(job: Job) -> bytes:
    """Return the request of a job, whole."""
    recipe = job.recipe
    flags = job.flags
    if flags == recipe.first_flags and job.attempt == 1:
        return wire.call_frame(job.sequence, recipe.first_call, job.payload)  # saves half of its 0.5 µs
    payload: bytes = job.payload.label if flags & wire.PARCEL else job.payload
    if recipe.is_loop:
        payload = wire.LOOP_HEAD.pack(recipe.interval_s, recipe.watch_s != NO_LIMIT) + payload
    rest = wire.call_rest(flags, job.attempt, recipe.blob)
    if job.attempt == 1 and recipe.reusable and not recipe.is_loop and not flags & wire.PARCEL:
        recipe.first_flags, recipe.first_call = flags, rest
    return wire.call_frame(job.sequence, rest, payload, wire.LOOP if recipe.is_loop else wire.CALL)


def _parent_log_level() -> int:
    """Return the lowest level at which any of the parent's loggers lets records through."""
    levels = [logging.root.level or logging.WARNING]
    known = logging.root.manager.loggerDict.values()
    levels += [logger.level for logger in known if isinstance(logger, logging.Logger) and logger.level]
    return min(levels)


def _event_class(name: str) -> Any:
    """Return the class of the events that an observer's method `name` gets.

    Loaded on first use: making these classes takes 6 ms, which a manager without observers need not spend.
    """
    from procbackground import events

    return events.BY_METHOD[name]


def _load_what_failures_need() -> None:
    """Import what words a death, while a process starts anyway: when one dies for want of descriptors, it is too
    late to open files."""
    if "procbackground._broken" not in sys.modules:
        try:
            from procbackground import _broken  # noqa: F401
        except (OSError, ImportError):
            pass  # next time


def _abandon_all_in_fork() -> None:
    global _is_exiting
    _is_exiting = False  # the fork may be a worker's, that the last tasks of an exiting parent wait for
    for supervisor in list(_living):
        supervisor._abandon_in_fork()


def close_all_at_exit() -> None:
    """The interpreter exits: no manager starts any more, and what was not closed is closed."""
    global _is_exiting
    _is_exiting = True  # first: a manager that starts meanwhile is in the list, or is refused
    for supervisor in list(_living):
        try:
            supervisor.close_at_exit()
        except BaseException:
            logger.exception("a manager could not be closed at exit")


os.register_at_fork(after_in_child=_abandon_all_in_fork)
