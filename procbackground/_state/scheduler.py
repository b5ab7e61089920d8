"""The only door to the decisions: facts and the time in, commands out.

Fourth stop of a task. Each method reports a fact and the time, changes the state, and leaves commands for the
supervisor in `commands`. All calls are made by the supervisor thread.

The way of a task that simply succeeds is `accept` → `answers_came` → `refill`: plain moves between deques, with
neither command nor event object ("shortcut" marks where it bypasses the tables of `attempt` and `fleet`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from procbackground._state import arrivals, fleet, invariants, launches, limits, loops, needy, outcomes, staffing, stops
from procbackground._state import attempt as a
from procbackground._state import commands as c
from procbackground._state.commands import Clocks
from procbackground._state.enqueue import enqueue, note_queued, set_aside
from procbackground._state.fleet import Death, Worker
from procbackground._state.gate import MemoryGate, memory_not_seen
from procbackground._state.job import SETTLED, Job, recipe_of
from procbackground._state.launches import SHORTAGE, Launches
from procbackground._state.pipeline import UnexpectedAnswer
from procbackground._state.state import State
from procbackground.task import NO_LIMIT


class Scheduler(State):
    """All decisions of one manager. More than 40 methods, as there is one for each fact; most call another module."""

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
        min_free_bytes: int | None = None,
        memory_patience_s: float = NO_LIMIT,
        slots: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(
            max_workers=max_workers,
            wall=wall,
            max_tasks_per_child=max_tasks_per_child,
            grace_s=grace_s,
            keeps_spare=keeps_spare,
            slots=slots,
        )
        self.launches: Launches = Launches(lines, start_timeout_s)
        self.gate: MemoryGate | None = None
        if min_free_bytes is not None:
            self.gate = MemoryGate(min_free_bytes, memory_patience_s)

    # -- jobs come in --------------------------------------------------------------------------------------

    def accept(self, job: Job, now_s: float, is_alone: bool = True) -> Worker | None:
        """Take in a one-off; return the idle worker to write it to, or None if it is queued.

        With others behind it, it is not `is_alone`, and goes to the queue: `staff` gives a worker several at once.
        """
        self.accepted = job.number = self.accepted + 1  # as `count_in`: a call less
        self.added += 1
        self.unsettled += 1
        self.payload_bytes += len(job.payload)
        recipe = job.recipe
        if recipe.deadline_s != NO_LIMIT:
            limits.set_deadline(self, job, job.started_s or now_s)
        if recipe.is_apart:
            self.needs_staff = True
            self.keeps_spare = self.keeps_spare or recipe.isolate
            job.started_s = now_s  # of its wait, as below
            self.queue_of(job).push(job)
            return None
        if recipe.retry is not None:
            self.keeps_spare = True
        if self.idle and is_alone and not self.queue.length and not (self.gate is not None and self.gate.is_shut):
            worker = self.idle.pop()
            worker.state = fleet.BUSY  # shortcut
            worker.since_s = now_s
            pipeline = worker.pipeline
            pipeline.sent += 1
            pipeline.head_since_s = now_s
            pipeline.jobs.append(job)
            job.sequence = pipeline.sent
            job.worker = worker
            job.started_s = now_s
            job.state = a.SENT  # shortcut
            if now_s + recipe.watch_s < self.next_scan_s:
                self.next_scan_s = now_s + recipe.watch_s
            return worker
        job.started_s = now_s  # of its wait, until it is sent
        self.queue.push(job)
        note_queued(self)
        return None

    def accept_all(self, jobs: list[Job], now_s: float) -> None:
        """Take in one-offs that came together, as `accept` does those that are not alone. Call `staff` afterwards."""
        for recipe, group in groupby(jobs, recipe_of):
            if recipe.is_apart or recipe.deadline_s != NO_LIMIT:
                for job in group:
                    self.accept(job, now_s, is_alone=False)
            else:
                enqueue(self, recipe, list(group), now_s)

    def accept_loop(self, loop: Job, now_s: float) -> None:
        """Take in a loop."""
        loops.accept(self, loop, now_s)
        self._staff_if_needed(now_s)

    def adopt(self, job: Job, kind: str, body: Any, now_s: float) -> None:
        """Take in a one-off whose first attempt has failed already, as a row of a chunk."""
        self.count_in(job)
        job.started_s = now_s
        outcomes.judge(self, job, kind, body, None)

    def set_aside(self, jobs: Sequence[Job], job_state: str, now_s: float) -> None:
        """Take in one-offs that wait for the journal, or for another job of their key."""
        set_aside(self, jobs, job_state, now_s)
        for job in jobs:
            if job.recipe.deadline_s != NO_LIMIT:
                limits.set_deadline(self, job, job.started_s)

    def admit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs that were set aside: they have to be run. Call `staff` afterwards."""
        outcomes.admit(self, jobs)

    def end_aside(self, job: Job) -> None:
        """End a job that was set aside. The handle is the caller's to settle."""
        outcomes.end(self, job)

    def take_in_ended(self, job: Job) -> None:
        """Count a job that ended before it could be sent anywhere. The handle is the caller's to settle."""
        self.count_in(job)
        job.state = SETTLED
        job.payload = b""

    @property
    def has_room(self) -> bool:
        """Whether a worker is free for a job that would be queued otherwise."""
        return bool(self.idle) and not (self.gate is not None and self.gate.is_shut)

    # -- answers -------------------------------------------------------------------------------------------

    def answers_came(
        self, worker: Worker, count: int, last: int, now_s: float, pace_s: float | None = None
    ) -> list[Job]:
        """`count` values came, the `last` to that request; return their jobs. Call `refill` afterwards.

        `pace_s` is what each took by the worker's clock, if that is known.
        Raises: `UnexpectedAnswer` when those are not the worker's next answers; nothing has changed then.
        """
        pipeline = worker.pipeline
        jobs = pipeline.jobs
        if len(jobs) < count or jobs[count - 1].sequence != last:
            raise UnexpectedAnswer(f"answer to request {last}, which was not due")
        since_s = pipeline.head_since_s
        answered: list[Job] = []
        for _ in range(count):
            job = jobs.popleft()
            job.started_s = since_s
            if job.state == a.SENT:
                job.state = a.RETURNED  # shortcut
            elif job.state == a.STOPPING:
                job.move(a.VALUE_CAME)
            answered.append(job)
        answered[-1].recipe.learn(now_s - since_s, count, pace_s)
        pipeline.head_since_s = now_s
        if jobs or worker.state == fleet.RECALLING:
            stops.head_changed(self, worker, now_s)
        return answered

    def refill(self, worker: Worker, now_s: float) -> list[Job]:
        """Give a worker that answered its next jobs; return those to be written to it, in one go."""
        jobs = staffing.refill(self, worker, now_s)
        if self.needs_staff:
            staffing.staff(self, now_s)
        return jobs

    def failure_came(
        self,
        worker: Worker,
        body: bytes,
        now_s: float,
        sequence: int | None = None,
        cost: tuple[float | None, int | None] | None = None,
    ) -> None:
        """The current job of the worker failed; it lives on. Call `refill` afterwards.

        Raises: `UnexpectedAnswer` when no answer to that request was due; nothing has changed then.
        """
        if worker.loop is not None:
            loops.load_failed(self, worker, worker.loop, body, now_s)
            return
        pipeline = worker.pipeline
        if not pipeline.jobs or sequence not in (None, pipeline.jobs[0].sequence):
            raise UnexpectedAnswer(f"failure of request {sequence}, which was not due")
        job = pipeline.jobs.popleft()
        job.started_s = pipeline.head_since_s
        job.recipe.learn(now_s - pipeline.head_since_s)
        pipeline.head_since_s = now_s
        stops.head_changed(self, worker, now_s)
        if job.worker is worker:
            job.move(a.ERROR_CAME)
            outcomes.judge(self, job, c.FAILURE, body, worker, cost)

    def value_wants_judging(
        self, job: Job, body: Any, worker: Worker, cost: tuple[float | None, int | None] | None
    ) -> None:
        """A value came whose loading, or whose meaning to the retry policy, may take the user's code."""
        outcomes.judge(self, job, c.VALUE, body, worker, cost)

    def skipped(self, worker: Worker, sequence: int, now_s: float) -> None:
        """The worker skipped a recalled request."""
        stops.skipped(self, worker, sequence, now_s)

    def leaves(self, worker: Worker, now_s: float) -> None:
        """The worker ends by itself, and begins nothing more. Call `staff` afterwards."""
        stops.leaves(self, worker, now_s)

    def settled(self, *, succeeded: int = 0, failed: int = 0, cancelled: int = 0, loops: int = 0) -> bool:
        """Handles were settled in these ways, `loops` of them of loops; return whether no one-off is left."""
        self.unsettled -= succeeded + failed + cancelled - loops
        self.unsettled_loops -= loops
        self.succeeded += succeeded
        self.failed += failed
        self.cancelled += cancelled
        if not self.unsettled and not self.unsettled_loops:
            self.next_scan_s = NO_LIMIT  # else an idle machine would wake for the limits of what has ended
        return self.unsettled == 0

    def judged(self, job: Job, delay_s: float | None, now_s: float) -> str:
        """The policy wants another attempt after `delay_s`, or with None no more; returns a ruling of `outcomes`."""
        ruling = outcomes.rule(self, job, delay_s, now_s)
        self._staff_if_needed(now_s)
        return ruling

    def loop_judged(self, loop: Job, worker: Worker | None, delay_s: float | None, now_s: float) -> str:
        """The same for an iteration of a loop; `worker` is the one that waits for the verdict, if one does."""
        ruling = loops.rule(self, loop, worker, delay_s, now_s)
        self._staff_if_needed(now_s)
        return ruling

    def iteration_failed(self, worker: Worker, body: bytes, iterations: int, now_s: float) -> None:
        """An iteration of the worker's loop raised; the worker waits for a verdict."""
        loops.iteration_failed(self, worker, body, iterations, now_s)

    def loop_ended(self, worker: Worker, now_s: float) -> None:
        """The worker's loop saw the stop and ended after its running iteration."""
        loops.ended(self, worker, now_s)

    # -- workers come and go -------------------------------------------------------------------------------

    def staff(self, now_s: float) -> None:
        """Bring waiting jobs and workers together, and start the workers that are missing."""
        staffing.staff(self, now_s)

    def _staff_if_needed(self, now_s: float) -> None:
        if self.needs_staff:
            staffing.staff(self, now_s)

    def said_hello(self, worker: Worker, now_s: float) -> None:
        """A process is ready for work."""
        arrivals.said_hello(self, worker, now_s)

    def process_came(self, worker: Worker, now_s: float) -> None:
        """The worker's process has been started."""
        self.launches.process_came(self, worker, now_s)

    def launch_failed(self, worker: Worker, now_s: float, kind: str = SHORTAGE, why: Any = None) -> None:
        """The worker has no process, because of `why`, of a `kind` of `launches`."""
        arrivals.launch_failed(self, worker, kind, why, now_s)

    def process_ended(self, worker: Worker, now_s: float) -> None:
        """The worker's process has ended; `worker_gone` follows once its pipe is read to the end."""
        arrivals.process_ended(self, worker, now_s)

    def worker_gone(self, worker: Worker, started: int, death: Death, now_s: float) -> None:
        """The worker's process has ended and its pipe is read. `started` is the request it began last."""
        arrivals.worker_gone(self, worker, started, death, now_s)

    def not_sent(self, worker: Worker, job: Job, now_s: float) -> bool:
        """The requests of the worker from this job's on could not be sent, and the worker lives: they go to another.

        Returns False when that has happened too often to this job: then it has ended, and its handle is the caller's
        to settle.
        """
        return arrivals.not_sent(self, worker, job, now_s)

    def initializer_failed(self, worker: Worker, why: Any, now_s: float) -> None:
        """The initializer raised in this worker: it would in the next one, too."""
        launches.break_manager(self, "the initializer failed", why, now_s)

    # -- stopping ------------------------------------------------------------------------------------------

    def cancel(self, job: Job, now_s: float) -> bool:
        """End a job wherever it is; return False when it has ended already. The handle is the caller's to settle."""
        if job.has_settled or job.state == a.RETURNED:
            return False
        worker = job.worker
        is_current = worker is not None and worker.current is job
        outcomes.end(self, job)
        job.worker = None
        if worker is not None and is_current:
            stops.stop(self, worker, c.FOR_CANCEL, now_s)
        return True

    def over_memory(self, worker: Worker, now_s: float) -> None:
        """The worker's tree holds more than its job's `memory_limit`."""
        if worker.is_running:
            stops.stop(self, worker, c.FOR_MEMORY, now_s)

    def sent_garbage(self, worker: Worker, now_s: float) -> None:
        """The worker sent bytes that are no frame, or an unexpected answer; nothing later can be read."""
        if worker.state not in (fleet.DYING, fleet.GONE):
            if worker.stop_reason is None:
                worker.stop_reason = c.FOR_PROTOCOL
            stops.kill(self, worker, now_s)

    def mark_seen(self, worker: Worker, started: int, up_to: int, now_s: float) -> None:
        """A moment after a recall up to `up_to` the worker's mark stands at `started`."""
        stops.mark_seen(self, worker, started, up_to, now_s)
        self._staff_if_needed(now_s)

    def end_loops(self, now_s: float) -> None:
        """Loops end after their running iteration; those added later are not run."""
        loops.end_all(self, now_s)

    def close(self, timeout_s: float | None, now_s: float) -> None:
        """Accept nothing more, end loops, let one-offs finish; past `timeout_s` cancel and stop the rest."""
        if not self.is_closing:
            self.is_closing = True
            loops.end_all(self, now_s)
        if timeout_s is not None:
            self.timers.at(now_s + timeout_s, stops.cut_short)
        stops.drain_if_done(self, now_s)

    def kill_all(self, now_s: float) -> None:
        """During a close: end what still runs at once."""
        stops.kill_all(self, now_s)

    def cancel_queued(self, now_s: float) -> None:
        """Cancel all one-offs that have not begun, now and from now on."""
        stops.cancel_queued(self, now_s)

    def drain_if_done(self, now_s: float) -> None:
        """With the last job settled, the workers leave."""
        stops.drain_if_done(self, now_s)

    @property
    def has_finished(self) -> bool:
        return self.is_draining and not self.workers

    # -- time and memory -----------------------------------------------------------------------------------

    @property
    def next_due_s(self) -> float:
        """When `clock_advanced` has something to do, at the latest."""
        timers = self.timers
        return min(timers.next_due_s, self.next_scan_s) if timers.heap else self.next_scan_s

    def clock_advanced(self, now_s: float, clocks_of: Callable[[Worker], Clocks]) -> None:
        """Act on the timers that are due."""
        while (due := self.timers.take_due(now_s)) is not None:
            act, subject = due
            act(self, subject, now_s)
        if now_s >= self.next_scan_s:
            limits.scan(self, now_s, clocks_of)
        self._staff_if_needed(now_s)

    def look_was_asked(self, worker: Worker, asked_s: float, due_s: float) -> None:
        """The worker was asked to look at the clock, after `asked_s` and before `due_s`."""
        limits.look_was_asked(self, worker, asked_s, due_s)

    def memory_seen(self, free_bytes: int, now_s: float, held_bytes: Mapping[Worker, int] | None = None) -> bool:
        """So much memory is free, and so much is held by the trees of workers that have a reservation; return whether
        to look again.
        """
        wants_more = needy.memory_seen(self, free_bytes, held_bytes or {}, now_s)
        if self.gate is not None:
            wants_more = self.gate.memory_seen(self, free_bytes, now_s) or wants_more
        self.is_memory_watched = wants_more
        self._staff_if_needed(now_s)
        return wants_more

    def memory_not_seen(self, now_s: float) -> None:
        """No thread could be had to watch the memory."""
        memory_not_seen(self, now_s)

    def check(self) -> None:
        """Raise `AssertionError` where an invariant does not hold; see `invariants`."""
        invariants.check(self)
