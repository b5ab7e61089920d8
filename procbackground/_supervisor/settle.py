"""Settles handles and counts: seventh stop of a task. In the supervisor thread, which wakes the callers last.

What takes the user's code goes to `usercode` and comes back as a verdict, by the inbox.
"""

from __future__ import annotations

import pickle
import time
from _thread import LockType
from collections import Counter
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from typing import TYPE_CHECKING, Any

from procbackground._figures import Figures
from procbackground._log import logger
from procbackground._named import NamedTuple
from procbackground._state import commands as c
from procbackground._state import outcomes
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor.acceptance import Acceptance
from procbackground._supervisor.breakage import explain
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.inbox import Inbox
from procbackground._supervisor.judge import Verdict, is_plain_end, pass_verdict
from procbackground._supervisor.relay import RecordRelay
from procbackground._supervisor.unseen import UnseenFailures
from procbackground._supervisor.usercode import UserCodeRunner
from procbackground._sync import Sleeper
from procbackground._wire.parcel import ReceivedParcel
from procbackground._wire.plain import EXTENSION_CODES, STACK_GLOBAL, is_plain
from procbackground.report import Attempt, Outcome

if TYPE_CHECKING:
    from procbackground._supervisor.exiting import Losses
    from procbackground._supervisor.keyed import KeyedJobs


PLAIN_LIMIT = 65536  # bytes of a value that are loaded on the spot; more would delay other tasks


class ResultBatch(NamedTuple):
    """Values that came from a worker together."""

    worker: Worker
    jobs: list[Job]
    values: list[Any]  # bytes, or parcels
    cost: tuple[float | None, int | None] | None  # of the first of them
    since_s: float
    now_s: float


class Settler:
    """How all jobs of one manager end, for those who gave them."""

    def __init__(
        self,
        scheduler: Scheduler,
        events: Events,
        user_code: UserCodeRunner,
        acceptance: Acceptance,
        figures: Figures,
        inbox: Inbox,
        unseen: UnseenFailures,
        log_records: RecordRelay,
    ) -> None:
        self.batches: list[ResultBatch] = []  # that came, and whose handles are not settled
        self.keyed: KeyedJobs | None = None  # those whose end the journal records first
        self._scheduler = scheduler
        self._wall = scheduler.wall
        self._events = events
        self._user_code = user_code
        self._acceptance = acceptance
        self._figures = figures
        self._post = inbox.put
        self._unseen = unseen
        self.losses: Losses | None = None  # where to note what is dropped, while the interpreter exits
        self.log_records = log_records
        self._waiters: list[tuple[Callable[[], bool], LockType]] = []
        self.sleepers: list[Sleeper] = []  # of callers whose results are there

    # -- values --------------------------------------------------------------------------------------------

    def settle_results(self) -> None:
        """Settle what all workers returned in this round; the workers have their next tasks already."""
        count = 0
        while self.batches:
            count += self._settle_batch(self.batches[0])
            del self.batches[0]
        if self.keyed is not None:
            self.keyed.record_successes()
        if count and self._scheduler.settled(succeeded=count):
            self.note_all_settled()

    def wake_callers(self) -> None:
        """Wake the threads that wait for what was settled; called just before the supervisor waits itself.

        So they find it in the poller instead of waiting for the GIL: a twelfth of a round trip. One wake-up for all
        handles of a round, rather than one for each worker at its first handle, is worth a tenth of a burst.
        """
        while self.sleepers:
            self.sleepers.pop().release()

    def _settle_batch(self, batch: ResultBatch) -> int:
        """Settle the handles of plain values and return how many those are; others are judged."""
        worker, jobs, values, cost, since_s, now_s = batch
        has_event = self._events.has_succeeded
        may_extend = bool(EXTENSION_CODES)
        keyed = self.keyed
        relayed = worker.process.relayed
        pid = worker.pid
        row_recipe, in_a_row, tasks, row_since_s = jobs[0].recipe, 0, 0, since_s  # answers in a row, for the figures
        each_s = (now_s - since_s) / len(jobs)
        note = self._figures.note_succeeded
        is_end = self.keyed is None  # else all jobs have a key, and are counted when they are recorded
        # They came together; when each of them began is not known.
        success = (self._wall(since_s), self._wall(now_s), pid, None, None)
        count = 0
        for job, body in zip(jobs, values, strict=True):
            if job.worker is not worker:
                continue  # it was cancelled
            recipe = job.recipe
            if recipe.needs_verdict or (relayed and job.sequence in relayed) or (body and (
                may_extend or type(body) is ReceivedParcel or len(body) > PLAIN_LIMIT
                or (STACK_GLOBAL in body and not is_plain(body))
            )):  # fmt: skip
                if keyed is not None:
                    keyed.note_answer(job, worker)
                self._scheduler.value_wants_judging(job, body, worker, cost)
                cost = None
                continue
            if keyed is not None and keyed.takes_value(job, body, worker, cost, now_s):
                cost = None  # its handle is settled once it is recorded
            else:
                handle: Any = job.handle
                handle._success = success if cost is None else (*success[:3], *cost)
                if job.history is not None:
                    outcomes.end_timers(self._scheduler, job)
                    if job.history.attempts:
                        job.record(Outcome.SUCCEEDED, now_s, self._wall, pid=pid, cost=cost)
                        handle._success = None
                        handle._history = tuple(job.history.attempts)
                cost = None
                value = pickle.loads(body) if body else None
                if handle._settle(FINISHED, value, None, self.sleepers):
                    self._user_code.put(handle._invoke_callbacks)
                if has_event:
                    self._events.task("on_task_succeeded", job, result=value)
                count += 1
            if recipe is not row_recipe:
                if in_a_row:
                    row_end_s = row_since_s + in_a_row * each_s
                    ended = tasks if is_end else 0
                    note(pid, row_recipe.name, tasks, row_since_s, row_end_s, None, None, ended)
                    row_since_s = row_end_s
                row_recipe, in_a_row, tasks = recipe, 0, 0
            in_a_row += 1
            tasks += job.handle.plain_rows() if recipe.is_chunk else 1  # type: ignore[attr-defined]
        if in_a_row:
            ended = tasks if is_end else 0
            note(pid, row_recipe.name, tasks, row_since_s, now_s, *(batch.cost or (None, None)), ended)
        return count

    # -- verdicts ------------------------------------------------------------------------------------------

    def judge(self, command: c.Judge) -> None:
        """Have the end of an attempt classified, after its log records are with the handlers."""
        if _wants_records_first(command.job, command.worker):
            self.log_records.after_records(lambda: self._judge(command))
        else:
            self._judge(command)

    def _judge(self, command: c.Judge) -> None:
        if is_plain_end(command):
            self._take_verdict(command, self._classify(command))
        else:
            self._user_code.put(self._judge_aside, command)

    def _judge_aside(self, command: c.Judge) -> None:
        verdict = self._classify(command)
        self._post(lambda: self._take_verdict(command, verdict))

    def _classify(self, command: c.Judge) -> Verdict:
        try:
            return pass_verdict(command, self._wall, time.monotonic())
        except BaseException as bug:  # not the user's code, which is guarded one by one: still only this task fails
            logger.exception("the end of an attempt of %r could not be judged", command.job.recipe.name)
            return Verdict(None, bug, None, True)

    def _take_verdict(self, command: c.Judge, verdict: Verdict) -> None:
        now_s = time.monotonic()
        job, error = command.job, verdict.error
        self._note_attempt(job)
        attempt = job.attempt
        is_iteration = job.recipe.is_loop and not verdict.ends_loop
        if is_iteration:
            waiting = command.worker if command.waits else None
            ruling = self._scheduler.loop_judged(job, waiting, verdict.delay_s, now_s)
        else:
            ruling = self._scheduler.judged(job, verdict.delay_s, now_s)
        if ruling == outcomes.RETRY:
            self._figures.of(job.recipe.name).retried += 1
            if self.keyed is not None:
                self.keyed.note_retry(job)
            self._events.task("on_task_retrying", job, attempt, error=error, delay=verdict.delay_s)
        elif ruling == outcomes.FINAL:
            if is_iteration:
                assert error is not None
                self._note_end(job, "failed", error)
                self._events.task("on_task_failed", job, attempt, error=error)
            elif error is not None:
                self.fail(job, error)
            elif self.keyed is None or not self.keyed.takes_judged_value(job, verdict.value, command.body):
                self.succeed(job, verdict.value)

    def _note_attempt(self, job: Job) -> None:
        """Add the attempt that was just recorded to the figures."""
        attempts = job.history.attempts if job.history is not None else []
        if attempts and (ended := attempts[-1]).outcome is not None and ended.ended is not None:
            began_s = job.started_s
            self._figures.attempt(
                ended.pid, job.recipe.name, ended.outcome, began_s, began_s + ended.ended - ended.started,
                ended.cpu_seconds, ended.peak_memory,
            )  # fmt: skip

    def _note_end(self, job: Job, how: str, error: BaseException | None = None) -> None:
        """Add the end of a task to the figures. The rows of a chunk that failed go on as tasks of their own."""
        if not job.recipe.is_chunk:
            self._figures.end(job.recipe.name, how, None if error is None else type(error).__name__)
        elif how == "succeeded":
            self._figures.rows(job.recipe.name, job.handle.plain_rows(), 0.0)  # type: ignore[attr-defined]

    def succeed(self, job: Job, value: Any) -> None:
        """Settle the handle of a job with its value."""
        handle = job.handle
        handle._history = tuple(job.history.attempts) if job.history is not None else ()
        has_callbacks = handle._settle(FINISHED, value, None)
        self._note_end(job, "succeeded")
        self._events.task("on_task_succeeded", job, result=value)
        self._count(job, has_callbacks, succeeded=1)

    def succeed_at_once(self, ended: list[tuple[Job, Any]]) -> None:
        """Settle the handles of keyed jobs that have no history."""
        names: Counter[str] = Counter()
        has_event = self._events.has_succeeded
        for job, value in ended:
            handle = job.handle
            if handle._settle(FINISHED, value, None, self.sleepers):
                self._user_code.put(handle._invoke_callbacks)
            if has_event:
                self._events.task("on_task_succeeded", job, result=value)
            names[job.recipe.name] += 1
        for name, count in names.items():
            self._figures.end(name, "succeeded", count=count)
        if ended and self._scheduler.settled(succeeded=len(ended)):
            self.note_all_settled()

    def fail(self, job: Job, error: BaseException) -> None:
        """Settle the handle of a job with an error."""
        if self.keyed is not None and self.keyed.takes_failure(job, error):
            return
        handle = job.handle
        handle._history = tuple(job.history.attempts) if job.history is not None else ()
        if not (self._events.has_failed or job.recipe.is_chunk):
            handle._guard = self._unseen.guard(job.recipe.name, error)  # before a thread that waits may look
        has_callbacks = handle._settle(FINISHED, None, error)
        if has_callbacks:
            handle._look()
        self._note_end(job, "failed", error)
        self._events.task("on_task_failed", job, error=error)
        self._count(job, has_callbacks, failed=1)

    def cancel(self, job: Job, worker: Worker | None = None) -> None:
        """Settle the handle of a job as cancelled; `worker` is the one that ran it, if one did."""
        if self.keyed is not None:
            self.keyed.note_cancelled(job)
        handle = job.handle
        attempts: list[Attempt] = list(job.history.attempts) if job.history is not None else []
        if worker is not None and worker.pid and not job.recipe.is_loop:
            attempts.append(
                Attempt(
                    job.attempt, worker.pid, self._wall(job.started_s), time.time(), Outcome.CANCELLED,
                    worker.death.exit_code, None, *worker.death.cost, handle.output,
                )
            )  # fmt: skip
        handle._history = tuple(attempts)
        has_callbacks = handle._settle(CANCELLED_AND_NOTIFIED, None, None)
        self._note_end(job, "cancelled")
        self._events.task("on_task_cancelled", job)
        self._count(job, has_callbacks, cancelled=1)

    def drop(self, jobs: list[Job], worker: Worker | None) -> None:
        """Cancel jobs because the manager, or its loops, end; `worker` is the one that was stopped for the only one."""
        if self.losses is not None and (worker is not None or not self._acceptance.cancels_queue):
            for job in jobs:
                self.losses.note(job, worker)
        if len(jobs) != 1:
            self._cancel_all(jobs)
        elif _wants_records_first(jobs[0], worker or jobs[0].worker):
            self.log_records.after_records(lambda: self.cancel(jobs[0], worker))
        else:
            self.cancel(jobs[0], worker)

    def _cancel_all(self, jobs: list[Job]) -> None:
        """Settle the handles of jobs that were in a queue, in a third of the time that `cancel` takes for each."""
        has_event = "on_task_cancelled" in self._events.wanted
        names: Counter[str] = Counter()
        for job in jobs:
            if self.keyed is not None:
                self.keyed.note_cancelled(job)
            handle = job.handle
            if job.history is not None:
                handle._history = tuple(job.history.attempts)
            if handle._settle(CANCELLED_AND_NOTIFIED, None, None, self.sleepers):
                self._user_code.put(handle._invoke_callbacks)
            if has_event:
                self._events.task("on_task_cancelled", job)
            if not job.recipe.is_chunk:
                names[job.recipe.name] += 1
        for name, count in names.items():
            self._figures.end(name, "cancelled", count=count)
        if jobs and self._scheduler.settled(cancelled=len(jobs)):
            self.note_all_settled()

    def fail_as_broken(self, job: Job) -> None:
        """Fail a job because no worker can be started. The words for it may take the user's code."""
        if self.losses is not None:
            self.losses.not_startable[job.recipe.name] += 1

        def find_words() -> None:
            self.explain_break()
            assert self._acceptance.breakage is not None
            error = self._acceptance.breakage.error(job)
            self._post(lambda: self.fail(job, error))

        self._user_code.put(find_words)

    def explain_break(self) -> None:
        """Put into words why no worker can be started. In a thread for user code, or at the end of all."""
        assert self._scheduler.broken_by is not None
        if not self._acceptance.has_full_story:
            try:
                self._acceptance.breakage = explain(*self._scheduler.broken_by, self._acceptance.has_initializer)
            except BaseException:  # of the user's code; the first words have to do, as jobs wait to be failed
                logger.exception("why no worker can be started could not be explained")
            self._acceptance.has_full_story = True

    # -- counting and waiting ------------------------------------------------------------------------------

    def _count(self, job: Job, has_callbacks: bool, **settled: int) -> None:
        is_loop = job.recipe.is_loop
        if self._scheduler.settled(**settled, loops=int(is_loop)) or is_loop:
            self.note_all_settled()
        if has_callbacks:
            self._user_code.put(job.handle._invoke_callbacks)

    def note_all_settled(self) -> None:
        """No one-off, or no loop, may be left: wake those who wait for that, and let a close continue."""
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for is_so, lock in waiters:
                if is_so():
                    lock.release()
                else:
                    self._waiters.append((is_so, lock))
        self._scheduler.drain_if_done(time.monotonic())

    def add_waiter(self, is_so: Callable[[], bool], lock: LockType) -> None:
        """Have `lock` released once `is_so()`; asked whenever the last task or loop settles."""
        if is_so():
            lock.release()
        else:
            self._waiters.append((is_so, lock))

    def remove_waiter(self, lock: LockType) -> None:
        """The wait for this lock is over."""
        self._waiters = [waiter for waiter in self._waiters if waiter[1] is not lock]


def _wants_records_first(job: Job, worker: Worker | None) -> bool:
    """Whether the attempt of `job` in `worker`, which has ended, has sent records or output that come first."""
    process = None if worker is None else worker.process
    if process is None or job.sequence not in process.relayed:
        return False
    process.relayed.discard(job.sequence)
    return True
