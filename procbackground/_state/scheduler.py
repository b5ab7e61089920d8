"""What happened, and when → what to do: the only door to the decisions.

Fourth stop of a task. Every method is told a fact and the time, changes the state, and leaves commands for the
supervisor in `commands`; none reads a clock, writes to a pipe or calls the user's code. All calls are made under the
manager's one lock.

The way of a task that simply succeeds is `accept` → `answers_came` → `refill`: plain moves between deques, with
neither command nor event object ("shortcut" marks where it bypasses the table of `_state.attempt`).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from procbackground._state import attempt as a
from procbackground._state import fleet
from procbackground._state.fleet import JobQueue, Worker
from procbackground._state.job import JUDGED, LOOK_AFTER_S, SETTLED, WAITING, Job
from procbackground.report import Outcome
from procbackground.task import NO_LIMIT
from procbackground.task import resolve as resolve  # for importers of its former place

LOOK_AGAIN_S = 0.050  # between two looks at a chunk that has had its first

# Verdicts.
AGAIN = "again"
OVER = "over"
STALE = "stale"

LEAVE_S = 1.0  # for a worker that was asked to end by itself: flush, exit handlers of user code
RESCUE_AFTER_S = 0.002  # a task ahead of others in a pipe that runs this long is not short after all
RESCUE_LOOK_S = 0.001  # store buffers drain in under a microsecond; the poller's clock ticks in milliseconds
LAUNCH_RETRY_S = 0.02  # before another try while the machine has no process or descriptor; doubles up to MAX
MAX_LAUNCH_RETRY_S = 2.0
MAX_HELPER_RETRY_S = 0.16  # the same where only the process that starts them was lost: the machine is not short
DEATHS_TO_BREAK = 3  # workers in a row that die before they say hello; one may be bad luck
IDLE_DEATHS_TO_BREAK = 8  # ... that die soon after it with nothing begun; somebody may be shooting at workers
QUICK_DEATH_S = 1.0  # after it became a spare, or got a first task that it did not begin
MAX_IDLE_DEATH_PAUSE_S = 1.0  # before the next start after such a death; doubles up to this
IDLE_DEATHS_FORGOTTEN_S = 5.0  # without such a death
STACK_WAIT_S = 0.2  # for a worker to dump its stacks before it is killed, whatever `grace` is
LOOP_RESTART_S = 0.01  # first pause before a loop whose process died gets another; doubles up to MAX
MAX_LOOP_RESTART_S = 1.0

# How an attempt ended, besides the reasons below.
VALUE = "value"
FAILURE = "failure"
GIVEN = "given"  # with an exception that is at hand
DIED = "died"

# Why a worker is stopped.
FOR_CANCEL = "cancelled"
FOR_TIMEOUT = "timeout"
FOR_DEADLINE = "deadline"
FOR_MEMORY = "memory"
FOR_CLOSE = "closing"
FOR_UPKEEP = "upkeep"  # it runs nothing
FOR_START = "start"  # it was not ready in time


# -- commands ------------------------------------------------------------------------------------------------


class Launch(NamedTuple):
    """Start the process of this worker."""

    worker: Worker


class Send(NamedTuple):
    """Write the requests of these jobs."""

    worker: Worker
    jobs: list[Job]


class GoOn(NamedTuple):
    """Tell a loop that its next iteration may begin."""

    worker: Worker


class Terminate(NamedTuple):
    """Ask the worker's tree to stop: SIGTERM. With `wants_stack`, take its Python stack first."""

    worker: Worker
    wants_stack: bool


class Kill(NamedTuple):
    """End the worker's tree: SIGKILL."""

    worker: Worker


class Dismiss(NamedTuple):
    """Close the worker's task pipe, so that it ends by itself."""

    worker: Worker


class EndLoop(NamedTuple):
    """Let the loop end after its running iteration."""

    worker: Worker


class Revoke(NamedTuple):
    """Have the worker skip what it has not begun, up to request number `up_to`."""

    worker: Worker
    up_to: int


class LookAtMark(NamedTuple):
    """Tell `mark_seen` which request the worker began last, a moment after `up_to` were revoked."""

    worker: Worker
    up_to: int


class Clocks(NamedTuple):
    """What is known of the times of a worker's attempt, iteration or row."""

    began_s: float
    sign_s: float  # when it last gave a sign of life, not before it began
    is_exact: bool = True  # else `began_s` is of an earlier row of the chunk


class AskForLook(NamedTuple):
    """Have the worker's chunk look at the clock before its next row, and then say so by `look_was_asked`."""

    worker: Worker


class Judge(NamedTuple):
    """An attempt ended otherwise than by a plain value: find out what it means, and answer by `judged`."""

    job: Job
    kind: str  # VALUE or FAILURE, which came as `body`; GIVEN; DIED; or one of FOR_...
    body: Any  # bytes, or for GIVEN an exception
    worker: Worker | None  # that ran it; None when it ran nowhere
    cost: tuple[float | None, int | None] | None  # CPU seconds and peak bytes, as far as they are known
    waits: bool = False  # the worker runs a loop, and waits for the verdict


class Cancelled(NamedTuple):
    """Settle the handle of this job as cancelled. `worker` is the one that ran it, if one did."""

    job: Job
    worker: Worker | None = None


class Broke(NamedTuple):
    """Settle the handle of this job as failed: the manager can start no workers."""

    job: Job


class Refuse(NamedTuple):
    """Take no more jobs: the manager can start no workers."""


class Stalled(NamedTuple):
    """Report that the attempt has been silent."""

    job: Job
    worker: Worker
    silent_for_s: float


class ProcessReady(NamedTuple):
    worker: Worker


class ProcessGone(NamedTuple):
    worker: Worker


class LookAtMemory(NamedTuple):
    """Have the free memory told to `memory_seen`, now and as long as that asks for more."""


class AdmissionHeld(NamedTuple):
    """Report that memory is short and no attempt begins."""

    free_bytes: int


class AdmissionResumed(NamedTuple):
    """Report that attempts begin again."""

    free_bytes: int
    held_for_s: float


Command = (
    Launch | Send | GoOn | Terminate | Kill | Dismiss | EndLoop | Revoke | LookAtMark | AskForLook | Judge | Cancelled
    | Broke | Refuse | Stalled | ProcessReady | ProcessGone | LookAtMemory | AdmissionHeld | AdmissionResumed
)  # fmt: skip


class Scheduler:
    """All decisions of one manager."""

    added: int
    succeeded: int
    failed: int
    cancelled: int
    retried: int
    respawned: int
    stopped: int
    killed: int

    def __init__(
        self,
        *,
        max_workers: int,
        wall: Callable[[float], float],
        max_tasks_per_child: int | None = None,
        grace_s: float = 5.0,
        lines: int = 1 << 30,
        keeps_spare: bool = False,
        start_timeout_s: float = NO_LIMIT,
    ) -> None:
        self.max_workers = max_workers
        self.max_tasks_per_child = max_tasks_per_child
        self.grace_s = grace_s
        self.commands: list[Command] = []
        self.queue: JobQueue = JobQueue()
        self.fresh_queue: JobQueue = JobQueue()  # of jobs whose next attempt needs a fresh process
        self.loops_queue: deque[Job] = deque()
        self.loops: set[Job] = set()  # that have not ended
        self.workers: set[Worker] = set()
        self.idle: list[Worker] = []  # the one that was busy last is warmest, and goes first
        self.spares: list[Worker] = []
        self.active: int = 0  # workers that count against max_workers
        self.starting: int = 0
        self.keeps_spare: bool = keeps_spare
        self.unsettled: int = 0  # one-offs whose handle is not done
        self.unsettled_loops: int = 0
        self.holds: int = 0  # maps that are about to go on with rows of theirs
        self.being_cancelled: dict[Job | None, Worker | None] = {}  # by callers; not counted as settled yet
        self.needs_look: bool = False  # what was accepted last is a reason to wake the supervisor
        self.next_scan_s: float = NO_LIMIT  # when a running attempt is due for a look
        self.added = self.succeeded = self.failed = self.cancelled = self.retried = self.respawned = 0
        self.cancelled_by_close: int = 0  # one-offs that did not run then
        self.stopped = self.killed = 0  # running tasks ended by a close
        self.is_closing: bool = False
        self.cancels_queue: bool = False  # what has not begun will not
        self.is_cut_short: bool = False  # the closing's timeout has passed: no attempt begins any more
        self.is_draining: bool = False  # no jobs are left; workers are leaving
        self.refuses_loops: bool = False
        self.broken_by: tuple[str, Any] | None = None  # what keeps workers from starting
        self._wall = wall
        self._timers: list[tuple[float, int, str, Any]] = []
        self._numbers = 0
        self._timer_numbers = 0
        self._worker_numbers = 0
        self._free_lines = list(range(min(lines, 256) - 1, -1, -1))
        self._next_line = min(lines, 256)
        self._lines = lines
        self._waiting: set[Job] = set()  # between attempts
        self._rescue_is_due = False
        self._start_timeout_s = start_timeout_s
        self._launched: deque[Worker] = deque()  # in order; those that have started are dropped from its left end
        self._start_is_watched = False
        self._has_been_ready = False  # some worker has
        self._deaths_in_a_row = 0
        self._idle_deaths = 0  # in a row
        self._settled_at_idle_death = 0
        self._last_idle_death_s = 0.0
        self._launch_pause_s = 0.0
        self._no_launch_before_s = 0.0

    # -- the way of a task that simply succeeds ------------------------------------------------------------

    def accept(self, job: Job, now_s: float) -> Worker | None:
        """Take in a one-off; return the idle worker that the caller is to write it to, or None: it is queued.

        `needs_look` tells whether the supervisor must be woken for it. Ctrl-C may come here, after any call: what
        belongs together has none in between, and `accept_failed` sees to the rest.
        """
        self.needs_look = False
        if job.has_settled:
            return None  # cancelled by somebody who was told of it
        self._numbers += 1
        job.number = self._numbers
        self.added += 1
        self.unsettled += 1
        recipe = job.recipe
        if recipe.deadline_s != NO_LIMIT:
            job.with_history().deadline_s = now_s + recipe.deadline_s
            self._at(now_s + recipe.deadline_s, "deadline", job)
            self.needs_look = True
        if recipe.isolate or self.is_draining:
            self.keeps_spare = self.needs_look = True
            self.fresh_queue.push(job)
            return None
        if recipe.retry is not None:
            self.keeps_spare = True
        if self.idle:
            worker = self.idle.pop()
            worker.state = fleet.BUSY
            worker.sent += 1
            worker.head_since_s = now_s
            worker.in_writing = job
            job.sequence = worker.sent
            job.worker = worker
            job.started_s = now_s
            job.state = a.SENT  # shortcut
            worker.inflight.append(job)
            if recipe.watch_s != NO_LIMIT and now_s + recipe.watch_s < self.next_scan_s:
                self.next_scan_s = now_s + recipe.watch_s
                self.needs_look = True
            return worker
        queue = self.queue
        queue.push(job)
        starting = self.starting
        if (self.active + starting < self.max_workers and starting < queue.length) or self.fresh_queue.length:
            self.needs_look = True  # the queue could use more workers than there are and will be
        return None

    def accept_failed(self, job: Job) -> bool:
        """`accept` or `accept_loop` was left by an exception; return whether the job is in no place, and so is ended.

        Its handle is the caller's to settle then, as that of a cancelled one.
        """
        for worker in self.workers:
            if worker.state == fleet.IDLE and worker not in self.idle and not worker.has_ended:
                self.idle.append(worker)  # it was taken, and given nothing
        is_placed = job.worker is not None or job in self.loops or job in self.queue or job in self.fresh_queue
        if is_placed or job.has_settled:
            return False
        if not job.number:
            self._count_in(job)
        job.state = SETTLED
        job.payload = b""
        return True

    @property
    def has_room(self) -> bool:
        """Whether a worker is free for a job that would be queued otherwise."""
        return bool(self.idle)

    def answers_came(self, worker: Worker, count: int, last: int, now_s: float) -> list[Job]:
        """`count` values came from the worker, the `last` of them to that request; return their jobs. `refill` is
        to follow."""
        inflight = worker.inflight
        since_s = worker.head_since_s
        jobs: list[Job] = []
        for _ in range(count):
            job = inflight.popleft()
            job.started_s = since_s
            if job.state == a.SENT:
                job.state = a.RETURNED  # shortcut
            elif job.state == a.STOPPING:
                job.move(a.VALUE_CAME)
            jobs.append(job)
        job = jobs[-1]
        if job.sequence != last:
            raise AssertionError(f"{worker!r} answered request {last}, and {job.sequence} was due")
        job.recipe.learn(now_s - since_s, count)
        worker.done += count
        worker.head_since_s = now_s
        if inflight or worker.state == fleet.STOPPING:
            self._head_changed(worker, now_s)
        return jobs

    def refill(self, worker: Worker, now_s: float) -> list[Job]:
        """Give a worker that answered its next jobs; return those to be written to it, in one go."""
        inflight = worker.inflight
        if worker.state != fleet.BUSY or worker.loop is not None:
            return []
        if inflight and inflight[-1] is worker.in_writing:
            return []  # a caller is at it: a worker has one writer at a time
        if worker.is_last or worker.sent == self.max_tasks_per_child:
            if not inflight:
                self._retire(worker, now_s)
                self.staff(now_s)
            return []
        if self.fresh_queue.length and self.spares and self._is_freshness_first():
            if not inflight:
                self._retire(worker, now_s)  # its place is wanted for a fresh process
                self.staff(now_s)
            return []
        first = self.queue.peek()
        if first is None:
            if not inflight:
                self._rest(worker, now_s)
            return []
        held = len(inflight)
        depth = first.recipe.depth
        if held and held > depth >> 1:
            return []
        # A fair share, so that a short queue does not pile up behind one worker.
        room = min(depth, 1 + self.queue.length // (self.active or 1)) - held
        if self.max_tasks_per_child is not None:
            room = min(room, self.max_tasks_per_child - worker.sent)
        if room <= 0:
            return []
        if not held:
            worker.head_since_s = now_s
        jobs: list[Job] = []
        sent = worker.sent
        queue = self.queue
        while room > 0:
            job = queue.peek()
            if job is None or (job.recipe.depth == 1 and (held or jobs)):
                break
            queue.pop()
            sent += 1
            room -= 1
            job.sequence = sent
            job.worker = worker
            job.started_s = now_s
            job.state = a.SENT  # shortcut
            inflight.append(job)
            jobs.append(job)
        worker.sent = sent
        head_watch_s = inflight[0].recipe.watch_s
        if head_watch_s != NO_LIMIT and now_s + head_watch_s < self.next_scan_s:
            self.next_scan_s = now_s + head_watch_s
        return jobs

    def settled(
        self, *, succeeded: int = 0, failed: int = 0, cancelled: int = 0, loops: int = 0, job: Job | None = None
    ) -> bool:
        """Handles were settled in these ways, `loops` of them of loops; return whether no one-off is left.

        With `job`, that is the only one, and may be in `being_cancelled`.
        """
        if job in self.being_cancelled:
            del self.being_cancelled[job]  # no call between this and the count, after which Ctrl-C might come
        self.unsettled -= succeeded + failed + cancelled - loops
        self.unsettled_loops -= loops
        self.succeeded += succeeded
        self.failed += failed
        self.cancelled += cancelled
        return self.unsettled == 0

    @property
    def is_settled(self) -> bool:
        """Whether no one-off is left, nor will follow from one."""
        return self.unsettled == 0 and self.holds == 0

    # -- staffing ------------------------------------------------------------------------------------------

    def staff(self, now_s: float) -> None:
        """Bring workers and waiting jobs together, and start what is missing."""
        while self.loops_queue and self.spares:
            loop = self.loops_queue.popleft()
            if not loop.has_settled:
                self._start_loop(loop, self.spares.pop(), now_s)
        while self.spares and self.fresh_queue.peek() is not None and self._is_freshness_first():
            if self.active >= self.max_workers:
                if not self.idle:
                    break
                self._retire(self.idle.pop(0), now_s)
            self._promote(self.spares.pop(), self.fresh_queue, now_s)
        while self.idle and self.queue.peek() is not None:
            worker = self.idle.pop()
            worker.enter(fleet.BUSY, now_s)
            self._send(worker, self.refill(worker, now_s))
        while self.spares and self.active < self.max_workers:
            source = self.fresh_queue if self._is_freshness_first() else self.queue
            if source.peek() is None:
                break
            self._promote(self.spares.pop(), source, now_s)
        self._launch_missing(now_s)
        if self.active + self.starting < self.max_workers:
            self._want_rescue(now_s)  # a place is free, and all that could fill it may be in a busy worker's pipe

    def _is_freshness_first(self) -> bool:
        fresh, ordinary = self.fresh_queue.peek(), self.queue.peek()
        return fresh is not None and (ordinary is None or fresh < ordinary)

    def _promote(self, worker: Worker, source: JobQueue, now_s: float) -> None:
        """Make a spare one of the pool, with a first job from `source`."""
        worker.counts = True
        self.active += 1
        worker.enter(fleet.BUSY, now_s)
        worker.head_since_s = now_s
        if source is self.queue:
            self._send(worker, self.refill(worker, now_s))
            return
        job = source.peek()
        assert job is not None
        source.pop()
        self._dispatch(worker, job, now_s)

    def _dispatch(self, worker: Worker, job: Job, now_s: float) -> None:
        worker.sent += 1
        job.sequence = worker.sent
        job.worker = worker
        job.started_s = now_s
        job.move(a.DISPATCHED)
        worker.inflight.append(job)
        worker.is_last = job.recipe.isolate
        if job.recipe.watch_s != NO_LIMIT:
            self.next_scan_s = min(self.next_scan_s, now_s + job.recipe.watch_s)
        self._send(worker, [job])

    def _send(self, worker: Worker, jobs: list[Job]) -> None:
        if jobs:
            self.commands.append(Send(worker, jobs))

    def _start_loop(self, loop: Job, worker: Worker, now_s: float) -> None:
        worker.enter(fleet.BUSY, now_s)
        worker.loop = loop
        worker.sent = 1
        worker.head_since_s = now_s
        loop.sequence = 1
        loop.worker = worker
        loop.started_s = now_s
        loop.state = a.QUEUED
        loop.move(a.DISPATCHED)
        loop.with_history().iterations = 0
        if loop.recipe.watch_s != NO_LIMIT:
            self.next_scan_s = min(self.next_scan_s, now_s + loop.recipe.watch_s)
        self._send(worker, [loop])

    def _rest(self, worker: Worker, now_s: float) -> None:
        """The worker has nothing to do and nothing is queued."""
        if worker.inflight:
            return
        if self.is_draining:
            self._retire(worker, now_s)
            return
        worker.enter(fleet.IDLE, now_s)
        self.idle.append(worker)
        self._want_rescue(now_s)

    def _want_rescue(self, now_s: float) -> None:
        """A worker has nothing to do: see in a moment whether tasks wait behind a long one."""
        if not self._rescue_is_due and any(
            len(other.inflight) > 1 and other.state == fleet.BUSY for other in self.workers
        ):
            self._rescue_is_due = True
            self._at(now_s + RESCUE_AFTER_S, "rescue", None)

    def _launch_missing(self, now_s: float) -> None:
        if self.is_draining:
            return
        if self.broken_by is not None:
            self._fail_what_waits(now_s)  # it came in before the callers were refused
            return
        fresh = self.fresh_queue.length
        wanted = len(self.loops_queue)
        wanted += min(max(0, self.max_workers - self.active), fresh + self.queue.length)
        if self.keeps_spare or self.loops:
            # Fresh processes are what a stream of isolated tasks lives on: keep as many ready as can run.
            wanted += max(1, min(fresh, self.max_workers))
        missing = wanted - self.starting - len(self.spares)
        if missing <= 0:
            return
        if now_s < self._no_launch_before_s:
            self._at(self._no_launch_before_s, "staff", None)
            return
        for _ in range(missing):
            line = self._take_line()
            if line is None:
                break
            self._worker_numbers += 1
            worker = Worker(self._worker_numbers, line, self._wall, now_s)
            self.workers.add(worker)
            self.starting += 1
            self.commands.append(Launch(worker))
            self._launched.append(worker)
        if self._start_timeout_s != NO_LIMIT and not self._start_is_watched:
            self._watch_starts()

    def _take_line(self) -> int | None:
        if self._free_lines:
            return self._free_lines.pop()
        if self._next_line < self._lines:
            self._next_line += 1
            return self._next_line - 1
        return None

    def _watch_starts(self) -> None:
        """Look again when the oldest start that is under way is overdue: one timer, however many start."""
        launched = self._launched
        while launched and launched[0].state != fleet.STARTING:
            launched.popleft()
        self._start_is_watched = bool(launched)
        if launched:
            self._at(launched[0].since_s + self._start_timeout_s, "starts", None)

    def _end_overdue_starts(self, now_s: float) -> None:
        while self._launched and self._launched[0].since_s + self._start_timeout_s <= now_s:
            worker = self._launched.popleft()
            # One without a process waits for its launcher, which has a limit of its own.
            if worker.state == fleet.STARTING and worker.pid:
                self._take_out(worker)
                worker.enter(fleet.STOPPING, now_s)
                worker.stop_reason = FOR_START
                worker.is_signalled = True
                self.commands.append(Terminate(worker, True))
                self._at(now_s + STACK_WAIT_S, "kill", worker)
        self._watch_starts()

    def _retire(self, worker: Worker, now_s: float) -> None:
        """Let a worker that runs nothing end by itself."""
        if worker.counts:
            worker.counts = False
            self.active -= 1
        worker.enter(fleet.LEAVING, now_s)
        self.commands.append(Dismiss(worker))
        self._at(now_s + LEAVE_S, "kill", worker)

    # -- the life of a worker ------------------------------------------------------------------------------

    def said_hello(self, worker: Worker, now_s: float) -> None:
        """A process is ready for work."""
        if worker.state != fleet.STARTING:
            return
        self.starting -= 1
        self._has_been_ready = True
        self._deaths_in_a_row = 0
        if self._launched and self._launched[0] is worker:
            self._launched.popleft()
        self._launch_pause_s = 0.0
        self.commands.append(ProcessReady(worker))
        if self.is_draining:
            self._retire(worker, now_s)
            return
        worker.enter(fleet.SPARE, now_s)
        self.spares.append(worker)
        self.staff(now_s)
        if worker.state == fleet.SPARE and self.active < self.max_workers:
            self._want_rescue(now_s)

    def launch_failed(
        self, worker: Worker, now_s: float, why: Any = None, longest_pause_s: float = MAX_LAUNCH_RETRY_S
    ) -> None:
        """The machine has no process or descriptor to give now: try again in a while, nothing is lost.

        The pause doubles up to `longest_pause_s`. With `why`, starting processes is what fails, and would again.
        """
        if why is not None:
            self._forget(worker)
            self._break("worker processes cannot be started", why, now_s)
            return
        self._forget(worker)
        if now_s >= self._no_launch_before_s:  # several that fail together have failed once
            self._launch_pause_s = min(longest_pause_s, max(LAUNCH_RETRY_S, 2 * self._launch_pause_s))
            self._no_launch_before_s = now_s + self._launch_pause_s
        self._at(self._no_launch_before_s, "staff", None)

    def initializer_failed(self, worker: Worker, why: Any, now_s: float) -> None:
        """The initializer raised in this worker: it would in the next one, too."""
        self._break("the initializer failed", why, now_s)

    def _break(self, what: str, why: Any, now_s: float) -> None:
        if self.broken_by is not None or self.is_draining:
            return
        self.broken_by = (what, why)
        self.commands.append(Refuse())
        self._fail_what_waits(now_s)
        self.drain_if_done(now_s)

    def _fail_what_waits(self, now_s: float) -> None:
        for job in (*self.queue, *self.fresh_queue, *self.loops_queue, *self._waiting):
            waiting, job.worker = job.worker, None
            self._end(job)
            self.commands.append(Broke(job))
            if waiting is not None and waiting.loop is job:
                self._stop(waiting, FOR_UPKEEP, now_s)

    def worker_gone(self, worker: Worker, started: int, now_s: float) -> None:
        """The worker's process has ended and its pipe is read dry. `started` is the request it began last."""
        if worker.state == fleet.GONE:
            return
        was = worker.state
        self._forget(worker)
        self._look_for_crash_loop(worker, was, started, now_s)
        self.commands.append(ProcessGone(worker))
        inflight, worker.inflight = worker.inflight, deque()
        if worker.loop is not None:
            self._loop_process_gone(worker, worker.loop, started, now_s)
        for job in reversed(inflight):
            if job.worker is not worker:
                if worker.stop_reason == FOR_CANCEL:
                    self._count_stop(worker)
            elif job.sequence <= started and job is inflight[0]:
                self._charge(worker, job, now_s)
            elif job.state == a.STOPPING:
                # The stop came before the task began: it has not run, and will not.
                self._charge(worker, job, now_s)
            else:
                # It had not begun: it goes elsewhere, before all that came after it, and is not charged.
                job.move(a.TAKEN_BACK)
                job.worker = None
                self._requeue(job)
        if was in (fleet.BUSY, fleet.STOPPING) and not self.is_draining:
            self.respawned += 1
        self.staff(now_s)
        self.drain_if_done(now_s)

    def _look_for_crash_loop(self, worker: Worker, was: str, started: int, now_s: float) -> None:
        """Break the manager rather than start workers for ever that die or hang before their first task."""
        if self.is_draining or started:
            return
        if worker.stop_reason == FOR_START:
            self._deaths_in_a_row += 1
            if not self._has_been_ready or self._deaths_in_a_row >= DEATHS_TO_BREAK:
                limit = f"its start_timeout of {self._start_timeout_s:g} s"
                self._break(f"a worker process was not ready within {limit}", worker, now_s)
        elif was == fleet.STARTING:
            self._deaths_in_a_row += 1
            if self._deaths_in_a_row >= DEATHS_TO_BREAK:
                self._break(f"{DEATHS_TO_BREAK} workers in a row died before they were ready", worker, now_s)
        elif worker.stop_reason is None and was != fleet.LEAVING and now_s - worker.since_s < QUICK_DEATH_S:
            # While tasks settle, the manager is of use, and only slows down.
            settled = self.succeeded + self.failed
            if settled != self._settled_at_idle_death or now_s - self._last_idle_death_s > IDLE_DEATHS_FORGOTTEN_S:
                self._idle_deaths = 0
            self._settled_at_idle_death, self._last_idle_death_s = settled, now_s
            self._idle_deaths += 1
            if self._idle_deaths > 1:  # one may be bad luck
                pause_s = min(MAX_IDLE_DEATH_PAUSE_S, LAUNCH_RETRY_S * 2**self._idle_deaths)
                self._no_launch_before_s = max(self._no_launch_before_s, now_s + pause_s)
            if self._idle_deaths >= IDLE_DEATHS_TO_BREAK:
                what = f"{IDLE_DEATHS_TO_BREAK} workers in a row died before they began a first task"
                self._break(what, worker, now_s)

    def _charge(self, worker: Worker, job: Job, now_s: float) -> None:
        """The death of its worker is this job's attempt."""
        job.started_s = worker.head_since_s
        job.move(a.WORKER_DIED)
        reason = worker.stop_reason if job.state == a.STOPPED else None
        if reason == FOR_CLOSE:
            self._count_stop(worker)
            self._cancel(job, worker)
            return
        self._judge(job, reason or DIED, b"", worker)

    def _count_stop(self, worker: Worker) -> None:
        if self.is_closing:
            if worker.was_killed:
                self.killed += 1
            else:
                self.stopped += 1

    def _judge(self, job: Job, kind: str, body: Any, worker: Worker, waits: bool = False) -> None:
        job.state = JUDGED
        job.worker = worker if waits else None
        self._waiting.add(job)
        cost, worker.cost = worker.cost, None
        self.commands.append(Judge(job, kind, body, worker, cost, waits))

    def _take_out(self, worker: Worker) -> None:
        """Have nobody find the worker any more who looks for one that is free, or will be."""
        if worker.state == fleet.STARTING:
            self.starting -= 1
        for free in (self.spares, self.idle):
            if worker in free:
                free.remove(worker)

    def process_ended(self, worker: Worker) -> None:
        """The worker's process has ended, as `worker_gone` will tell when its pipe is read dry: it gets no work."""
        worker.has_ended = True
        if worker.state in (fleet.SPARE, fleet.IDLE):
            self._take_out(worker)

    def _forget(self, worker: Worker) -> None:
        self._take_out(worker)
        if worker.counts:
            worker.counts = False
            self.active -= 1
        worker.state = fleet.GONE
        self.workers.discard(worker)
        self._free_lines.append(worker.line)

    # -- attempts that do not simply succeed ---------------------------------------------------------------

    def failure_came(self, worker: Worker, body: bytes, now_s: float) -> None:
        """The first job of the worker failed; it lives on. `refill` is to follow."""
        if worker.loop is not None:
            # The loop's function or arguments could not even be loaded: no iteration will ever run.
            loop, worker.loop = worker.loop, None
            loop.move(a.ERROR_CAME)
            self._judge(loop, FAILURE, body, worker)
            self._retire_loop_worker(worker, now_s)
            return
        job = self._first_done(worker, now_s)
        if job.worker is not worker:
            return
        job.move(a.ERROR_CAME)
        self._judge(job, FAILURE, body, worker)

    def value_wants_judging(
        self, job: Job, body: Any, worker: Worker, cost: tuple[float | None, int | None] | None
    ) -> None:
        """A value came whose loading, or whose meaning to the retry policy, is not ours to find out here."""
        job.state = JUDGED
        job.worker = None
        self._waiting.add(job)
        self.commands.append(Judge(job, VALUE, body, worker, cost))

    def skipped(self, worker: Worker, sequence: int, now_s: float) -> None:
        """The worker skipped a revoked request."""
        if not worker.inflight or worker.inflight[0].sequence != sequence:
            return  # taken back long ago
        job = worker.inflight.popleft()
        worker.head_since_s = now_s
        reason = worker.stop_reason
        self._head_changed(worker, now_s)
        if job.worker is not worker:
            return
        if job.state == a.STOPPING:
            job.move(a.TAKEN_BACK)
            if reason == FOR_CLOSE:
                job.worker = None
                self._cancel(job)
            else:
                self._judge(job, reason or DIED, b"", worker)
            return
        job.move(a.TAKEN_BACK)
        job.worker = None
        self._requeue(job)

    def _first_done(self, worker: Worker, now_s: float) -> Job:
        job = worker.inflight.popleft()
        job.started_s = worker.head_since_s
        job.recipe.learn(now_s - worker.head_since_s)
        worker.done += 1
        worker.head_since_s = now_s
        self._head_changed(worker, now_s)
        return job

    def _head_changed(self, worker: Worker, now_s: float) -> None:
        """The first of the worker's jobs is done: look after the next one."""
        if worker.state == fleet.STOPPING and not worker.is_signalled:
            # The stop was meant for the one that is done; its answer counts.
            worker.enter(fleet.BUSY, now_s)
            worker.stop_reason = None
        if not worker.inflight:
            return
        head = worker.inflight[0]
        if head.worker is not worker:
            self._watch_ghost(worker, now_s)
        elif head.recipe.watch_s != NO_LIMIT:
            self.next_scan_s = min(self.next_scan_s, now_s + head.recipe.watch_s)

    def _watch_ghost(self, worker: Worker, now_s: float) -> None:
        """A job that was cancelled while it waited in the worker's pipe runs now. It is likely short: its answer
        is dropped, unless it proves to be long."""
        self._at(now_s + RESCUE_AFTER_S, "ghost", (worker, worker.inflight[0]))

    def judged(self, job: Job, delay_s: float | None, now_s: float) -> str:
        """The policy wants another attempt after `delay_s`, or with None no more.

        Returns AGAIN; OVER, when the handle is the caller's to settle; or STALE, when the job was cancelled.
        """
        if job.has_settled:
            return STALE
        if self.is_cut_short and delay_s is not None:
            self._cancel(job)
            return STALE
        if delay_s is None or self.broken_by is not None:
            self._end(job)
            return OVER
        if job.history is not None and now_s >= job.history.deadline_s:
            # The deadline passed while the policy thought: that is what ends the job, whatever failed before.
            self.commands.append(Judge(job, FOR_DEADLINE, b"", None, None))
            return STALE
        job.attempt += 1
        self.retried += 1
        self.keeps_spare = True
        history = job.with_history()
        history.idle_for_s += delay_s
        history.stalled_since_s = None
        job.state = WAITING
        if delay_s > 0:
            self._at(now_s + delay_s, "retry", job)
        else:
            self._try_again(job, now_s)
        return AGAIN

    def _try_again(self, job: Job, now_s: float) -> None:
        if job.state != WAITING:
            return
        self._waiting.discard(job)
        job.state = a.QUEUED
        if job.recipe.is_loop:
            self.loops_queue.append(job)
        else:
            self.fresh_queue.push_back_in_order(job)
        self.staff(now_s)

    def _requeue(self, job: Job) -> None:
        if self.cancels_queue:
            job.state = WAITING  # it is in no queue
            self._cancel(job)
            return
        if self.broken_by is not None:
            job.state = WAITING  # it is in no queue
            self._end(job)
            self.commands.append(Broke(job))
            return
        (self.fresh_queue if job.needs_fresh_worker else self.queue).push_back_in_order(job)

    def _end(self, job: Job) -> None:
        """The job is settled from here on, whatever comes in for it."""
        was_queued = job.state == a.QUEUED and job.number and not job.recipe.is_loop
        queue = self.fresh_queue if job.needs_fresh_worker else self.queue
        # No call in between, after which Ctrl-C might come.
        job.state = SETTLED
        if was_queued:
            queue.length -= 1
            queue.tidy()
        if job in self.loops:
            self.loops.discard(job)
            if job in self.loops_queue:
                self.loops_queue.remove(job)
        self._waiting.discard(job)
        if job.worker is None:
            job.payload = b""  # else its request may be yet to be written; the job is let go with its answer

    def _cancel(self, job: Job, worker: Worker | None = None) -> None:
        """End a job and have its handle cancelled; `worker` is the one whose death that is."""
        if self.is_closing and worker is None and not job.recipe.is_loop:
            self.cancelled_by_close += 1
        self._end(job)
        self.commands.append(Cancelled(job, worker))

    def adopt(self, job: Job, kind: str, body: Any, now_s: float) -> None:
        """Take in a one-off whose first attempt has failed already, as a row of a chunk."""
        self._numbers += 1
        job.number = self._numbers
        job.started_s = now_s
        self.added += 1
        self.unsettled += 1
        job.state = JUDGED
        self._waiting.add(job)
        self.commands.append(Judge(job, kind, body, None, None))

    def take_in_failed(self, job: Job) -> None:
        """Count a job that failed before it could be sent anywhere. The handle is the caller's to settle."""
        self._count_in(job)
        job.state = SETTLED

    def _count_in(self, job: Job) -> None:
        self.added += 1
        if job.recipe.is_loop:
            self.unsettled_loops += 1
        else:
            self.unsettled += 1

    # -- loops ---------------------------------------------------------------------------------------------

    def accept_loop(self, loop: Job, now_s: float) -> bool:
        """Take in a loop; return False when loops are not run any more: it is cancelled at once."""
        if loop.has_settled:
            return True  # cancelled by somebody who was told of it
        self._numbers += 1
        loop.number = self._numbers
        self.added += 1
        self.unsettled_loops += 1
        if self.refuses_loops:
            loop.state = SETTLED
            return False
        if loop.recipe.deadline_s != NO_LIMIT:
            loop.with_history().deadline_s = now_s + loop.recipe.deadline_s
            self._at(now_s + loop.recipe.deadline_s, "deadline", loop)
        self.loops_queue.append(loop)
        self.loops.add(loop)
        return True

    def iteration_failed(self, worker: Worker, body: bytes, iterations: int, now_s: float) -> None:
        """An iteration of the worker's loop raised; the worker waits for a verdict."""
        loop = worker.loop
        if loop is None or loop.has_settled or worker.state != fleet.BUSY:
            return
        self._count_iterations(loop, iterations)
        loop.move(a.ERROR_CAME)
        self._judge(loop, FAILURE, body, worker, waits=True)

    def _count_iterations(self, loop: Job, iterations: int) -> None:
        """An iteration that failed after others had passed is a new one, with attempts of its own."""
        history = loop.with_history()
        if iterations > history.iterations:
            loop.attempt = 1
            history.attempts = []
            history.first_started_s = None
            history.idle_for_s = 0.0
            history.deaths_in_a_row = 0
        history.iterations = iterations

    def loop_judged(self, loop: Job, worker: Worker | None, delay_s: float | None, now_s: float) -> str:
        """The policy's verdict on an iteration of a loop; `worker` is the one that waits for it, if one does.

        Returns AGAIN; OVER, when the failure is to be reported and the loop goes on with its next iteration; or
        STALE, when the loop has ended.
        """
        if loop.has_settled:
            return STALE
        history = loop.with_history()
        if self.refuses_loops:
            # No further iteration. A worker that waits was told so, and says when it has ended.
            self._waiting.discard(loop)
            if worker is None or worker.loop is not loop:
                self._cancel(loop)
            return OVER if delay_s is None else STALE
        if delay_s is not None:
            if worker is not None and worker.state == fleet.BUSY:
                worker.loop = None
                self._retire_loop_worker(worker, now_s)
            loop.worker = None
            return self.judged(loop, delay_s, now_s)
        if now_s >= history.deadline_s:
            return self.judged(loop, 0.0, now_s)  # which has it ended
        loop.attempt = 1
        if worker is not None and worker.state == fleet.BUSY:
            self._waiting.discard(loop)
            loop.state = a.SENT
            loop.worker = worker
            self.commands.append(GoOn(worker))
            return OVER
        # Its process died: a new one, after a pause that grows while not one iteration passes.
        pause_s = min(MAX_LOOP_RESTART_S, LOOP_RESTART_S * 2 ** min(history.deaths_in_a_row, 10))
        history.deaths_in_a_row += 1
        loop.state = WAITING
        self._at(now_s + max(loop.recipe.interval_s, pause_s), "retry", loop)
        return OVER

    def loop_ended(self, worker: Worker, now_s: float) -> None:
        """The loop saw the stop and ended after its running iteration."""
        loop = worker.loop
        if worker.state == fleet.STOPPING and not self.refuses_loops:
            return  # over a limit, it saw the stop: that is how this iteration ended, and its process will
        worker.loop = None
        if loop is not None and not loop.has_settled:
            self._cancel(loop)
        self._retire_loop_worker(worker, now_s)
        self.drain_if_done(now_s)

    def _retire_loop_worker(self, worker: Worker, now_s: float) -> None:
        if worker.state == fleet.BUSY:
            self._retire(worker, now_s)

    def _loop_process_gone(self, worker: Worker, loop: Job, started: int, now_s: float) -> None:
        worker.loop = None
        if loop.has_settled:
            return
        if loop.state in (a.SENT, a.STOPPING):
            if worker.stop_reason == FOR_CLOSE or self.refuses_loops:
                self._count_stop(worker)
                self._cancel(loop)
                return
            if not started and loop.state == a.SENT:
                # It had not begun: it goes elsewhere, and is not charged.
                loop.move(a.TAKEN_BACK)
                loop.worker = None
                self.loops_queue.appendleft(loop)
                return
            loop.move(a.WORKER_DIED)
            self._judge(loop, worker.stop_reason or DIED, b"", worker)
        elif self.refuses_loops:
            self._cancel(loop)

    def end_loops(self, now_s: float) -> None:
        """Loops end after their running iteration; those added later are not run."""
        self.refuses_loops = True
        for loop in list(self.loops):
            worker = loop.worker
            if worker is not None and worker.loop is loop and worker.state == fleet.BUSY:
                self.commands.append(EndLoop(worker))
            elif worker is None or worker.state != fleet.STOPPING:
                self._cancel(loop)

    # -- stopping ------------------------------------------------------------------------------------------

    def cancel(self, job: Job, now_s: float) -> bool:
        """End a job wherever it is; return False when it has ended already. The handle is the caller's to settle."""
        if job.has_settled or job.state == a.RETURNED:
            return False
        if not job.number:  # it was told of, and `accept` is yet to see it
            self._count_in(job)
        worker = job.worker
        is_head = worker is not None and (
            worker.loop is job or (bool(worker.inflight) and worker.inflight[0] is job)
        )
        self._end(job)
        job.worker = None
        if worker is not None and is_head:
            self._stop(worker, FOR_CANCEL, now_s)
        return True

    def _stop(self, worker: Worker, reason: str, now_s: float) -> None:
        """Stop the worker's tree: the first reason is the one that counts."""
        if worker.state in (fleet.STOPPING, fleet.LEAVING, fleet.GONE):
            return
        self._take_out(worker)
        worker.enter(fleet.STOPPING, now_s)
        worker.stop_reason = reason
        head = worker.loop or (worker.inflight[0] if worker.inflight else None)
        if head is not None and head.state == a.SENT:
            head.move(a.STOP_ASKED)
        if len(worker.inflight) > 1:
            # By the time that a signal arrives the worker might run the next one, which is not meant.
            self._revoke(worker, now_s)
            # One that is frozen before it begins its first request neither moves its mark nor answers.
            self._at(now_s + max(self.grace_s, STACK_WAIT_S), "overdue stop", (worker, now_s))
        else:
            self._terminate(worker, now_s)

    def _terminate(self, worker: Worker, now_s: float) -> None:
        worker.is_signalled = True
        if worker.stop_reason == FOR_MEMORY:
            self._kill(worker)  # a polite request would leave it time to take the rest of the memory
            return
        wants_stack = worker.stop_reason in (FOR_TIMEOUT, FOR_DEADLINE)
        self.commands.append(Terminate(worker, wants_stack))
        self._at(now_s + (max(self.grace_s, STACK_WAIT_S) if wants_stack else self.grace_s), "kill", worker)

    def _revoke(self, worker: Worker, now_s: float) -> None:
        worker.revoked_up_to = worker.sent
        self.commands.append(Revoke(worker, worker.sent))
        self._at(now_s + RESCUE_LOOK_S, "look", (worker, worker.sent))

    def _kill(self, worker: Worker) -> None:
        if worker.state != fleet.GONE:
            worker.was_killed = True
            self.commands.append(Kill(worker))

    def over_memory(self, worker: Worker, now_s: float) -> None:
        """The worker's tree holds more than its job's `memory_limit`."""
        if worker.is_running:
            self._stop(worker, FOR_MEMORY, now_s)

    # -- closing -------------------------------------------------------------------------------------------

    def close(self, timeout_s: float | None, now_s: float) -> None:
        """Accept nothing more, end loops, let one-offs finish; past `timeout_s` cancel and stop what is left."""
        if not self.is_closing:
            self.is_closing = True
            self.end_loops(now_s)
        if timeout_s is not None:
            self._at(now_s + timeout_s, "close", None)
        self.drain_if_done(now_s)

    def cancel_queued(self, now_s: float) -> None:
        """Cancel all one-offs that have not begun, now and from now on. One that has just come out of a worker is
        being judged, and counts; past the closing's timeout nobody waits for the verdict."""
        self.cancels_queue = True
        for worker in self.workers:
            if worker.state == fleet.BUSY and len(worker.inflight) > 1 and not self.is_cut_short:
                self._revoke(worker, now_s)  # what it has not begun comes back to `_requeue`
        for job in (*self.queue, *self.fresh_queue, *list(self._waiting)):
            if not job.recipe.is_loop and (job.state != JUDGED or self.is_cut_short):
                self._cancel(job)

    def _close_now(self, now_s: float) -> None:
        self.is_cut_short = True
        self.cancel_queued(now_s)
        for worker in list(self.workers):
            if not worker.is_running:
                continue
            # What waits behind the first in a worker's pipe has not begun: it is cancelled, not stopped.
            for job in list(worker.inflight)[1:]:
                if job.worker is worker:
                    self._cancel(job)
                    job.worker = None
            self._stop(worker, FOR_CLOSE, now_s)
        for loop in list(self.loops):
            if loop.worker is None:
                self._cancel(loop)
        self.drain_if_done(now_s)

    def drain_if_done(self, now_s: float) -> None:
        """With the last job settled, the workers leave."""
        if not self.is_closing or self.is_draining or self.unsettled or self.unsettled_loops:
            return
        if self.holds and not self.is_cut_short:
            return
        self.is_draining = True
        for worker in list(self.workers):
            if worker.state in (fleet.IDLE, fleet.SPARE):
                self._take_out(worker)
                self._retire(worker, now_s)
            elif worker.state == fleet.STARTING:
                self._take_out(worker)
                worker.enter(fleet.LEAVING, now_s)
                self._kill(worker)
            elif worker.state == fleet.BUSY and not worker.is_running:
                self._retire(worker, now_s)

    @property
    def has_finished(self) -> bool:
        return self.is_draining and not self.workers

    # -- time ----------------------------------------------------------------------------------------------

    def _at(self, due_s: float, what: str, subject: Any) -> None:
        self._timer_numbers += 1
        heapq.heappush(self._timers, (due_s, self._timer_numbers, what, subject))

    @property
    def next_due_s(self) -> float:
        """When `clock_advanced` has something to do, at the latest."""
        first = self._timers[0][0] if self._timers else NO_LIMIT
        return min(first, self.next_scan_s)

    def clock_advanced(self, now_s: float, clocks_s: Callable[[Worker], Clocks]) -> None:
        """Do what is due."""
        while self._timers and self._timers[0][0] <= now_s:
            _, _, what, subject = heapq.heappop(self._timers)
            if what == "retry":
                self._try_again(subject, now_s)
            elif what == "kill":
                self._kill(subject)
            elif what == "overdue stop":
                worker, since_s = subject
                if worker.state == fleet.STOPPING and not worker.is_signalled and worker.since_s == since_s:
                    worker.is_signalled = True
                    self._kill(worker)
            elif what == "deadline":
                self._deadline_passed(subject, now_s)
            elif what == "staff":
                self.staff(now_s)
            elif what == "starts":
                self._end_overdue_starts(now_s)
            elif what == "rescue":
                self._rescue(now_s)
            elif what == "ghost":
                worker, ghost = subject
                if worker.inflight and worker.inflight[0] is ghost:
                    self._stop(worker, FOR_CANCEL, now_s)
            elif what == "look":
                self.commands.append(LookAtMark(*subject))
            elif what == "close":
                self._close_now(now_s)
        if now_s >= self.next_scan_s:
            self._scan(now_s, clocks_s)

    def _scan(self, now_s: float, clocks_s: Callable[[Worker], Clocks]) -> None:
        """Look at every running attempt's limits, and find out when to look next."""
        self.next_scan_s = NO_LIMIT
        for worker in list(self.workers):
            if worker.state != fleet.BUSY:
                continue
            job = worker.loop or (worker.inflight[0] if worker.inflight else None)
            if job is None or job.recipe.watch_s == NO_LIMIT or job.state != a.SENT:
                continue
            recipe = job.recipe
            began_s, sign_s, is_exact = clocks_s(worker)
            if not is_exact:
                if began_s > worker.look_asked_s:
                    ask_s = began_s + min(LOOK_AFTER_S, recipe.timeout_s)
                    if now_s >= ask_s:
                        self.commands.append(AskForLook(worker))
                    else:
                        self.next_scan_s = min(self.next_scan_s, ask_s)
                    continue
                # It has not looked since: the row that runs is the one that ran then. A little late is better than
                # to charge it with what those before it took.
                began_s = worker.look_due_s
                sign_s = max(sign_s, began_s)
            if recipe.is_chunk:
                self.next_scan_s = min(self.next_scan_s, now_s + LOOK_AGAIN_S)
            if now_s >= began_s + recipe.timeout_s:
                self._stop(worker, FOR_TIMEOUT, now_s)
                continue
            due_s = began_s + recipe.timeout_s
            if recipe.stalled_s != NO_LIMIT:
                history = job.with_history()
                if history.stalled_since_s == began_s:
                    if recipe.is_loop:  # the next iteration may stall, too
                        due_s = min(due_s, now_s + recipe.stalled_s)
                elif now_s >= sign_s + recipe.stalled_s:
                    history.stalled_since_s = began_s
                    self.commands.append(Stalled(job, worker, now_s - sign_s))
                    if recipe.is_loop:
                        due_s = min(due_s, now_s + recipe.stalled_s)
                else:
                    due_s = min(due_s, sign_s + recipe.stalled_s)
            self.next_scan_s = min(self.next_scan_s, due_s)

    def look_was_asked(self, worker: Worker, asked_s: float, due_s: float) -> None:
        """The word was written, after `asked_s` and before `due_s`."""
        worker.look_asked_s, worker.look_due_s = asked_s, due_s
        if worker.inflight:
            self.next_scan_s = min(self.next_scan_s, due_s + worker.inflight[0].recipe.watch_s)

    def _deadline_passed(self, job: Job, now_s: float) -> None:
        if job.has_settled or job.state in (a.RETURNED, JUDGED):
            return  # ended, or about to: the verdict looks at the deadline itself
        worker = job.worker
        if worker is not None and (worker.loop is job or (worker.inflight and worker.inflight[0] is job)):
            self._stop(worker, FOR_DEADLINE, now_s)
            return
        # Where it waits in a worker's pipe it ends all the same, and what the worker makes of it is dropped.
        self._end(job)
        job.state = JUDGED
        job.worker = None
        self._waiting.add(job)
        self.commands.append(Judge(job, FOR_DEADLINE, b"", None, None))

    # -- tasks that wait behind a long one -----------------------------------------------------------------

    def _rescue(self, now_s: float) -> None:
        """An idle worker could do what waits in a busy one's pipe: have it skipped there, and look again."""
        self._rescue_is_due = False
        if not self.idle and self.active >= self.max_workers:
            return
        for worker in self.workers:
            if worker.state != fleet.BUSY or len(worker.inflight) < 2:
                continue
            if now_s - worker.head_since_s >= RESCUE_AFTER_S:
                self._revoke(worker, now_s)
            elif not self._rescue_is_due:
                self._rescue_is_due = True
                self._at(now_s + RESCUE_AFTER_S, "rescue", None)

    def mark_seen(self, worker: Worker, started: int, up_to: int, now_s: float) -> None:
        """A moment after a revocation the worker's mark stands at `started`.

        If that is still its first request, it will see the revocation before it begins another: the rest is
        ours. If the mark has moved, the worker answers or skips each of them, and tells.
        """
        if worker.state == fleet.GONE or worker.is_signalled or up_to != worker.revoked_up_to:
            return  # a later revocation has its own look
        if worker.inflight and worker.inflight[0].sequence == started:
            # Only what was revoked: it may have answered and been sent more since, which it will run.
            others = [job for job in worker.inflight if started < job.sequence <= up_to]
            worker.inflight = deque(job for job in worker.inflight if not started < job.sequence <= up_to)
            for job in reversed(others):
                if job.worker is worker:
                    job.move(a.TAKEN_BACK)
                    job.worker = None
                    self._requeue(job)
            if worker.state == fleet.STOPPING:
                self._terminate(worker, now_s)
            self.staff(now_s)

    # -- figures -------------------------------------------------------------------------------------------

    def count_running(self) -> int:
        return sum(1 for worker in self.workers if worker.is_running)

    def count_queued(self) -> int:
        behind = sum(len(worker.inflight) - 1 for worker in self.workers if worker.inflight)
        waiting = sum(1 for job in self._waiting if job.state == WAITING)
        return self.queue.length + self.fresh_queue.length + len(self.loops_queue) + behind + waiting

    def all_jobs(self) -> Iterable[Job]:
        """Every job that has not settled, for the case that the supervisor itself fails."""
        jobs = [*self.queue, *self.fresh_queue, *self.loops, *self._waiting]
        for worker in self.workers:
            jobs.extend(job for job in worker.inflight if not job.has_settled)
        return dict.fromkeys(jobs)


def outcome_of(kind: str) -> Outcome:
    """Return the outcome that an attempt gets when it ended in this way."""
    return {
        FOR_TIMEOUT: Outcome.TIMED_OUT,
        FOR_DEADLINE: Outcome.TIMED_OUT,
        FOR_MEMORY: Outcome.OVER_MEMORY,
        FOR_CANCEL: Outcome.CANCELLED,
        FOR_CLOSE: Outcome.CANCELLED,
    }.get(kind, Outcome.DIED)
