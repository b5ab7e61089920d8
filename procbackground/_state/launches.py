"""Starting workers: how many at once, at what pace after failures, and when it is of no use any more."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from procbackground._state import commands as c
from procbackground._state import fleet, outcomes, stops
from procbackground._state.fleet import Worker
from procbackground._state.ledger import Kind
from procbackground._state.state import State
from procbackground._state.timers import Timer
from procbackground.task import NO_LIMIT

# Kinds of failed starts.
SHORTAGE: Final = "shortage"  # the machine has no process, descriptor or memory to give now: waited for
LOST: Final = "lost"  # the process that starts workers has ended, and may again
KILLED: Final = "killed"  # ... was killed, which is nothing that it did
FINAL: Final = "final"  # another try would fail, too

LAUNCH_RETRY_S = 0.02  # before another try while the machine has no process or descriptor; doubles up to MAX
MAX_LAUNCH_RETRY_S = 2.0
MAX_HELPER_RETRY_S = 0.16  # the same where only the process that starts them was lost: the machine is not short
LOSSES_TO_BREAK = 8  # of the process that starts workers, in a row, and no worker came of it
DEATHS_TO_BREAK = 3  # workers in a row that die before they say hello; one may be bad luck
IDLE_DEATHS_TO_BREAK = 8  # ... that die soon after it with nothing begun; an external process may be killing workers
QUICK_DEATH_S = 1.0  # after it became a spare, or got a first task that it did not begin
CANNOT_START = "worker processes cannot be started"
SLOW_START_S = 30.0  # after which a start that goes on is reported: most imports are done, most hangs not seen yet
MAX_IDLE_DEATH_PAUSE_S = 1.0  # before the next start after such a death; doubles up to this
IDLE_DEATHS_FORGOTTEN_S = 5.0  # without such a death


class Launches:
    """The starts of one manager's workers."""

    def __init__(self, lines: int, start_timeout_s: float) -> None:
        self.free_lines: list[int] = list(range(min(lines, 256) - 1, -1, -1))  # of the shared page
        self._next_line = min(lines, 256)
        self._lines = lines
        self._numbers = 0
        self.start_timeout_s = start_timeout_s
        self._launched: deque[Worker] = deque()  # in order; those that have started leave at its left end
        self._watch: Timer | None = None  # over the oldest start
        self._is_slow_told = False  # that it takes long
        self._has_been_ready = False  # some worker has
        self._losses = 0  # in a row
        self._deaths_in_a_row = 0
        self._idle_deaths = 0  # in a row
        self._settled_at_idle_death = 0
        self._last_idle_death_s = 0.0
        self._pause_s = 0.0
        self._not_before_s = 0.0
        self._staff_due_s = 0.0  # of the timer for the end of that pause

    def launch(self, state: State, missing: int, now_s: float) -> None:
        """Start `missing` workers, now or when the pause after a failure is over."""
        if now_s < self._not_before_s:
            self._staff_after_pause(state)
            return
        for _ in range(missing):
            if self._launch_one(state, None, now_s):
                state.starting += 1

    def launch_kind(self, state: State, kind: Kind, now_s: float) -> bool:
        """Start a worker of a kind; return False where that is not possible now."""
        if now_s < self._not_before_s:
            self._staff_after_pause(state)
            return False
        if not self._launch_one(state, kind, now_s):
            return False
        state.ledger.take_slots(kind)
        return True

    def _launch_one(self, state: State, kind: Kind | None, now_s: float) -> bool:
        line = self._take_line()
        if line is None:
            return False
        self._numbers += 1
        worker = Worker(self._numbers, line, state.wall, now_s, kind)
        state.workers.add(worker)
        state.commands.append(c.Launch(worker))
        self._launched.append(worker)
        if self._watch is None:
            self._watch_oldest(state)
        return True

    def _take_line(self) -> int | None:
        if self.free_lines:
            return self.free_lines.pop()
        if self._next_line < self._lines:
            self._next_line += 1
            return self._next_line - 1
        return None

    def _watch_oldest(self, state: State) -> None:
        """Look again when the oldest start is overdue: one timer, however many start."""
        launched = self._launched
        while launched and launched[0].state != fleet.STARTING:
            launched.popleft()
        patience_s = self.start_timeout_s if self._is_slow_told else min(SLOW_START_S, self.start_timeout_s)
        self._watch = None
        if launched and patience_s != NO_LIMIT:
            self._watch = state.timers.at(launched[0].since_s + patience_s, _look_at_starts)

    def look(self, state: State, now_s: float) -> None:
        """Report the oldest start if it is slow, and stop the workers that were not ready in time."""
        while self._launched and self._launched[0].since_s + self.start_timeout_s <= now_s:
            worker = self._launched.popleft()
            # One without a process waits for its launcher, which has a limit of its own; then see `process_came`.
            if worker.state == fleet.STARTING and worker.pid:
                stops.stop(state, worker, c.FOR_START, now_s)
        if self._launched and not self._is_slow_told:
            worker = self._launched[0]
            if worker.state == fleet.STARTING and now_s >= worker.since_s + SLOW_START_S:
                self._is_slow_told = True
                state.commands.append(c.SlowStart(worker, None, now_s - worker.since_s, self.start_timeout_s))
        self._watch_oldest(state)

    def process_came(self, state: State, worker: Worker, now_s: float) -> None:
        """The worker's process has been started; its worker may have been given up meanwhile."""
        if now_s >= worker.since_s + self.start_timeout_s and worker.state == fleet.STARTING:
            stops.stop(state, worker, c.FOR_START, now_s)

    def succeeded(self, state: State, worker: Worker) -> None:
        """A worker is ready."""
        self._has_been_ready = True
        self._is_slow_told = False
        self._losses = self._deaths_in_a_row = 0
        launched = self._launched
        # Also earlier starts that failed: without a start_timeout they are checked nowhere else.
        while launched and (launched[0] is worker or launched[0].state != fleet.STARTING):
            launched.popleft()
        if not launched:  # else an idle manager would wake up for nothing
            state.timers.cancel(self._watch)
            self._watch = None
        self._pause_s = 0.0

    def failed(self, state: State, kind: str, why: Any, now_s: float) -> None:
        """A process could not be started: try again after a pause, or give up."""
        if kind == FINAL:
            break_manager(state, CANNOT_START, why, now_s)
            return
        if kind == SHORTAGE:
            self._pause(state, MAX_LAUNCH_RETRY_S, now_s)
            return
        if now_s >= self._not_before_s and not (kind == KILLED and _has_worked(state)):
            self._losses += 1
        if self._losses < LOSSES_TO_BREAK:
            self._pause(state, MAX_HELPER_RETRY_S, now_s)
        else:
            break_manager(state, CANNOT_START, why, now_s)

    def _pause(self, state: State, longest_pause_s: float, now_s: float) -> None:
        """Start no worker for a while, which doubles up to `longest_pause_s`."""
        if now_s >= self._not_before_s:  # several that fail together have failed once
            self._pause_s = min(longest_pause_s, max(LAUNCH_RETRY_S, 2 * self._pause_s))
            self._not_before_s = now_s + self._pause_s
        self._staff_after_pause(state)

    def _staff_after_pause(self, state: State) -> None:
        """Look again when the pause is over: one timer, however many tasks come meanwhile."""
        if self._staff_due_s != self._not_before_s:
            self._staff_due_s = self._not_before_s
            state.timers.at(self._not_before_s, _staff_again)

    def died(self, state: State, worker: Worker, started: int, now_s: float) -> None:
        """Break the manager rather than start workers for ever that die or hang before their first task."""
        if state.is_draining or started:
            return
        if worker.stop_reason == c.FOR_START:
            self._deaths_in_a_row += 1
            if not self._has_been_ready or self._deaths_in_a_row >= DEATHS_TO_BREAK:
                limit = f"its start_timeout of {self.start_timeout_s:g} s"
                break_manager(state, f"a worker process was not ready within {limit}", worker, now_s)
        elif worker.state_at_end == fleet.STARTING:
            if _was_killed(worker) and _has_worked(state):
                self._pause(state, MAX_IDLE_DEATH_PAUSE_S, now_s)
                return
            self._deaths_in_a_row += 1
            if self._deaths_in_a_row >= DEATHS_TO_BREAK:
                what = f"{DEATHS_TO_BREAK} workers in a row died before they were ready"
                break_manager(state, what, worker, now_s)
        elif (
            worker.stop_reason is None
            and worker.state_at_end != fleet.LEAVING
            and now_s - worker.since_s < QUICK_DEATH_S
        ):
            self._died_idle(state, worker, now_s)

    def _died_idle(self, state: State, worker: Worker, now_s: float) -> None:
        # While tasks settle, the manager is of use, and only slows down.
        settled = state.succeeded + state.failed
        if settled != self._settled_at_idle_death or now_s - self._last_idle_death_s > IDLE_DEATHS_FORGOTTEN_S:
            self._idle_deaths = 0
        self._settled_at_idle_death, self._last_idle_death_s = settled, now_s
        self._idle_deaths += 1
        if self._idle_deaths > 1:  # one may be bad luck
            pause_s = min(MAX_IDLE_DEATH_PAUSE_S, LAUNCH_RETRY_S * 2 ** min(self._idle_deaths, 10))
            self._not_before_s = max(self._not_before_s, now_s + pause_s)
        if self._idle_deaths >= IDLE_DEATHS_TO_BREAK and not (_was_killed(worker) and settled):
            what = f"{IDLE_DEATHS_TO_BREAK} workers in a row died before they began a first task"
            break_manager(state, what, worker, now_s)


def _has_worked(state: State) -> bool:
    """Whether workers can be started, in principle: then those that are killed will come to an end, as memory does."""
    return bool(state.succeeded or state.failed)


def _was_killed(worker: Worker) -> bool:
    """Whether a signal ended the worker, such as the kernel's when memory runs out: nothing that its start did."""
    return worker.death.exit_code is not None and worker.death.exit_code < 0


def break_manager(state: State, what: str, why: Any, now_s: float) -> None:
    """No worker can be started any more: fail what waits, and refuse what comes. `why` is an exception, the body of a
    failure, or a worker."""
    if state.broken_by is not None or state.is_draining:
        return
    state.broken_by = (what, why)
    state.commands.append(c.Refuse())
    fail_waiting(state, now_s)
    stops.drain_if_done(state, now_s)


def fail_waiting(state: State, now_s: float) -> None:
    """Fail all that waits for a worker, or for a verdict that could only ask for one."""
    for job in (*state.queued(), *state.loops_queue, *state.waiting, *state.being_judged):
        waiting, job.worker = job.worker, None
        outcomes.fail_as_broken(state, job)
        if waiting is not None and waiting.loop is job:
            stops.stop(state, waiting, c.FOR_UPKEEP, now_s)


def launch_first(state: State, now_s: float) -> None:
    """Start an ordinary worker, unless one is being started."""
    if not state.starting:
        state.launches.launch(state, 1, now_s)


def _staff_again(state: State, subject: None, now_s: float) -> None:
    state.needs_staff = True


def _look_at_starts(state: State, subject: None, now_s: float) -> None:
    state.launches.look(state, now_s)
