"""The exit of the interpreter: managers that were not closed finish what was submitted, as `ProcessPoolExecutor` does.

The main thread waits here, after the program and before the interpreter ends daemon threads. Where a program was ended
by an exception, nothing queued begins any more. Each Ctrl-C makes the wait shorter: the first stops what runs, the
second kills it, and the third waits no longer. No exception leaves this module, so the exit code stays the program's.
"""

from __future__ import annotations

import signal
import sys
import time
from _thread import LockType, allocate_lock
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from procbackground._printable import printable
from procbackground._state import stops
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._supervisor import ending
from procbackground._supervisor.acceptance import AFTER_EXIT
from procbackground._supervisor.forks import forget_processes
from procbackground._sync import acquire_within, this_life

if TYPE_CHECKING:
    from procbackground._supervisor.loop import Loop
    from procbackground._supervisor.supervisor import Supervisor

NOTICE_S = 5.0  # by then a user wonders why the program does not end
STACKS_S = 30.0  # when something probably hangs
STACKS_TAKE_S = 0.3
MOST_NAMES = 20  # in a line
MOST_JOBS = 10_000  # that are looked at for their names

# How far the wait has been shortened.
FINISH, STOP, KILL, LEAVE = range(4)


class Losses:
    """What one manager drops at the exit. Written by its supervisor, read when that has ended or is given up."""

    def __init__(self) -> None:
        self.stopped: Counter[str] = Counter()  # names of tasks
        self.not_begun: Counter[str] = Counter()
        self.not_startable: Counter[str] = Counter()

    def note(self, job: Job, worker: Worker | None) -> None:
        """A job is cancelled because the manager ends; `worker` is the process that was stopped, if one ran it."""
        if worker is not None:
            self.stopped[job.recipe.name] += 1
        elif not job.recipe.is_loop:
            self.not_begun[job.recipe.name] += 1

    def note_unfinished(self, loop: Loop) -> None:
        """The manager is not waited for any longer. Reads what may change meanwhile."""
        try:
            began = {worker.current for worker in list(loop.scheduler.workers)}
            for job in islice(loop.scheduler.all_jobs(), MOST_JOBS):
                (self.stopped if job in began else self.not_begun)[job.recipe.name] += 1
        except RuntimeError:
            pass  # it did change

    def as_text(self) -> str:
        """Return the losses in words; nothing when there are none."""
        parts = [
            (self.stopped, "stopped while they ran"),
            (self.not_begun, "not begun"),
            (self.not_startable, "failed because no worker could be started"),
        ]
        return "; ".join(f"{count.total()} {what}: {_names(count)}" for count, what in parts if count)


def finish_all(supervisors: Sequence[Supervisor]) -> None:
    """Let all these managers finish, and wait for that."""
    waiting = [supervisor for supervisor in supervisors if not supervisor.has_closed]
    if not waiting:
        return
    exit = _Exit(waiting)
    with _interrupts_given_to(exit.hasten):
        exit.begin()
        while exit.is_waiting:
            try:
                exit.wait()
            except BaseException:  # a handler of the program's own raised, as SIGTERM's often does
                exit.hasten()
        exit.report()
        exit.leave()


class _Exit:
    def __init__(self, supervisors: list[Supervisor]) -> None:
        self._supervisors = supervisors
        self._losses = [(supervisor, Losses()) for supervisor in supervisors]
        self._error_type = _type_of_ending_error()
        self._level = FINISH if self._error_type is None else STOP
        self._was_interrupted = False
        self._until_s = float("inf")
        now_s = time.monotonic()
        self._due: list[tuple[float, Callable[[], None]]] = [
            (now_s + NOTICE_S, self._tell),
            (now_s + STACKS_S, self._take_stacks),
            (now_s + STACKS_S + STACKS_TAKE_S, self._tell),
        ]
        self._stacks: list[tuple[int, str]] = []
        self._life = this_life()
        self._wake: LockType = allocate_lock()
        self._wake.acquire()

    def begin(self) -> None:
        """Have all managers begin to close."""
        for supervisor, losses in self._losses:
            try:
                self._begin(supervisor, losses)
            except Exception:  # such as `MemoryError`: the others must begin all the same
                supervisor.ask_to_close(0.0)
        self._bound()
        for supervisor in self._supervisors:
            supervisor.loop.has_closed.wake(self._wake)

    def _begin(self, supervisor: Supervisor, losses: Losses) -> None:
        loop = supervisor.loop
        if not loop.acceptance.is_refusing:
            loop.acceptance.text = AFTER_EXIT
        loop.acceptance.is_refusing = True
        loop.settler.losses = losses
        if not loop.is_ready and not supervisor.has_closed:
            supervisor.close_unused()
        if not supervisor.has_closed:
            supervisor.ask_to_close(loop.options.exit_timeout_s if self._level == FINISH else 0.0)

    @property
    def is_waiting(self) -> bool:
        return self._level < LEAVE and time.monotonic() < self._until_s and bool(self._open())

    def wait(self) -> None:
        """Wait until a manager has closed, a notice is due or the wait is over; give the notice."""
        due_s = min(self._until_s, self._due[0][0] if self._due else float("inf"))
        acquire_within(self._wake, None if due_s == float("inf") else due_s - time.monotonic(), self._life)
        while self._due and time.monotonic() >= self._due[0][0]:
            self._due.pop(0)[1]()

    def hasten(self) -> None:
        """Shorten the wait. Called by a signal handler, too: it takes no lock."""
        self._was_interrupted = True
        self._level += 1
        for supervisor in self._open():
            if self._level == STOP:
                supervisor.ask_to_close(0.0)
            elif self._level == KILL:
                supervisor.kill_all()
        self._bound()
        try:
            self._wake.release()
        except RuntimeError:
            pass  # it is on its way already

    def report(self) -> None:
        """Say what was dropped."""
        for supervisor, losses in self._losses:
            if not supervisor.has_closed:
                losses.note_unfinished(supervisor.loop)
            text = losses.as_text()
            if text:
                _say(f"dropped tasks, because {self._reason(supervisor)}: {text}")

    def leave(self) -> None:
        """Have `multiprocessing` not wait for the processes of managers that have not closed."""
        if not all(supervisor.has_closed for supervisor in self._supervisors):
            forget_processes()

    # -- its parts -----------------------------------------------------------------------------------------

    def _open(self) -> list[Supervisor]:
        return [each for each in self._supervisors if not (each.has_closed or each.is_left)]

    def _bound(self) -> None:
        """Set when to give up: supervisors keep their times, unless the machine is too busy."""
        spare_s = stops.LEAVE_S + 4 * ending.MOMENT_S
        bounds_s = []
        for options in (supervisor.loop.options for supervisor in self._supervisors):
            if self._level == FINISH:
                timeout_s = options.exit_timeout_s
                bounds_s.append(float("inf") if timeout_s is None else timeout_s + options.grace_s + spare_s)
            else:
                bounds_s.append(spare_s + (options.grace_s if self._level == STOP else 0.0))
        self._until_s = time.monotonic() + max(bounds_s)

    def _reason(self, supervisor: Supervisor) -> str:
        if self._error_type is not None:
            return f"the program ended with {self._error_type}"
        if self._was_interrupted:
            return "its exit was interrupted"
        timeout_s = supervisor.loop.options.exit_timeout_s
        return "the program ended" if timeout_s is None else f"the program ended and exit_timeout={timeout_s:g} passed"

    def _tell(self) -> None:
        stacks = "".join(f"\nprocess {pid}:\n{stack.rstrip()}" for pid, stack in self._stacks)
        for supervisor in self._open():
            _say(supervisor.ask(partial(unfinished, supervisor.loop)) + _HINTS[self._level])
        if stacks:
            _say(f"what they do now:{stacks}")
        self._stacks = []

    def _take_stacks(self) -> None:
        for supervisor in self._open():
            supervisor.ask(partial(self._take_stacks_of, supervisor.loop))

    def _take_stacks_of(self, loop: Loop) -> None:
        for worker in list(loop.scheduler.workers):
            if worker.is_running:
                loop.stacks.take(worker, time.monotonic(), self._stack_taker(worker.pid))

    def _stack_taker(self, pid: int) -> Callable[[str | None, str | None], None]:
        return lambda stack, reason: self._stacks.append((pid, stack or f"no Python stack: {reason or 'no answer'}"))


_HINTS = (
    ". Ctrl-C stops them; exit_timeout= of a Manager bounds this wait",
    ". They are being stopped; Ctrl-C kills them",
    ". They are being killed",
    "",
)


def unfinished(loop: Loop) -> str:
    """Say what a manager's end waits for. In its supervisor's thread."""
    scheduler = loop.scheduler
    now_s = time.monotonic()
    running: list[str] = []
    began: set[Job] = set()
    for worker in sorted(scheduler.workers, key=lambda worker: worker.pid):
        job = worker.current
        if job is None:
            continue
        began.add(job)
        since = "a loop" if job.recipe.is_loop else f"{max(0.0, now_s - worker.pipeline.head_since_s):.0f} s"
        running.append(f"{printable(job.recipe.name)} (process {worker.pid}, {since})")
    count = scheduler.unsettled + scheduler.unsettled_loops
    waiting = Counter(job.recipe.name for job in islice(scheduler.all_jobs(), MOST_JOBS) if job not in began)
    parts = []
    if running:
        more = f" and {len(running) - MOST_NAMES} more" if len(running) > MOST_NAMES else ""
        parts.append(f"{len(running)} running: {', '.join(running[:MOST_NAMES])}{more}")
    if waiting:
        parts.append(f"{max(count - len(running), waiting.total())} waiting: {_names(waiting)}")
    tasks = f"{count} task{'' if count == 1 else 's'}" if count else "the end of its workers"
    return f"the program has ended, and its manager waits for {tasks}{'; '.join(['', *parts])}"


def _names(count: Counter[str]) -> str:
    most = [(printable(name), number) for name, number in count.most_common(MOST_NAMES)]
    names = [f"{name} ({number})" if number > 1 else name for name, number in most]
    more = len(count) - len(names)
    return ", ".join(names) + (f" and tasks of {more} more names" if more else "")


def _say(text: str) -> None:
    try:
        assert sys.stderr is not None
        sys.stderr.write(f"procbackground: {text}.\n")
        sys.stderr.flush()
    except Exception:
        pass  # closed, absent, or its reader has gone


def _type_of_ending_error() -> str | None:
    """Return the name of the exception's type that ended the program, or None if it ended by itself or by `sys.exit`.

    The interpreter leaves the exception that it printed in `sys`; but so do interactive sessions, debuggers and
    test runners with those that they caught. Only that of a program has unwound the whole stack.
    """
    traceback = getattr(sys, "last_traceback", None)
    if traceback is None or hasattr(sys, "ps1") or traceback.tb_frame.f_back is not None:
        return None
    return getattr(getattr(sys, "last_type", None), "__name__", "an exception")


@contextmanager
def _interrupts_given_to(hasten: Callable[[], None]) -> Iterator[None]:
    """Have SIGINT call `hasten`, and raise nothing; a handler of the program's own is called after it."""
    before: Any = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: Any) -> None:
        hasten()
        if before is not signal.default_int_handler:
            try:
                before(number, frame)
            except BaseException:
                pass  # it wants to end what the program does, and that is under way

    try:
        # A signal that the program ignores, or leaves at its default, stays so.
        is_ours = callable(before) and before not in (signal.SIG_IGN, signal.SIG_DFL)
        if is_ours:
            signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:
        is_ours = False  # not the main thread: the interpreter is embedded
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, before)
