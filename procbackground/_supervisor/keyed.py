"""Jobs with a key, in a manager with a journal: looked up before they run, recorded before their handles are settled.

The first job of a key that is under way is the leader; later ones follow it, and end as it does. Everything here is
called in the supervisor thread, but `_deliver`, which posts to it.

    taken in → looked up → stored: settled
                         → queued, run, judged → recorded → settled, and the followers with it
"""

from __future__ import annotations

import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from procbackground._journal import records as r
from procbackground._journal import values
from procbackground._journal.statements import Found
from procbackground._journal.writer import Writer
from procbackground._log import logger
from procbackground._state.fleet import Worker
from procbackground._state.job import FOLLOWING, LOOKED_UP, Job, KeyedJob
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.page import Page
from procbackground._supervisor.settle import PLAIN_LIMIT, Settler
from procbackground._supervisor.usercode import UserCodeRunner
from procbackground._wire import frames as wire
from procbackground._wire.page import RECORDED
from procbackground._wire.parcel import ReceivedParcel
from procbackground._wire.plain import EXTENSION_CODES, STACK_GLOBAL, is_plain
from procbackground.errors import SerializationError, repr_of
from procbackground.report import Outcome


class KeyedJobs:
    """The supervisor's end of a journal."""

    def __init__(
        self,
        writer: Writer,
        scheduler: Scheduler,
        settler: Settler,
        events: Events,
        user_code: UserCodeRunner,
        post: Callable[[Callable[[], object]], None],
        name: str,
    ) -> None:
        self._writer = writer
        self._scheduler = scheduler
        self._settler = settler
        self._user_code = user_code
        self._post = post  # to the supervisor
        self._name = name
        self._leaders: dict[str, KeyedJob] = {}
        # Numbers of answers that are not recorded, in order. A dict looks for its first key behind all that have gone.
        self._kept: dict[Worker, OrderedDict[int, None]] = {}
        self._successes: list[r.Success] = []  # that came, and were not given to the writer
        self.is_over: bool = False  # after a bug: all handles are done
        settler.keyed = self
        events.note_started = self._note_started
        events.has_started = True

    def start(self, page: Page) -> None:
        """Start the journal's thread. Raises: `RuntimeError` when the system has none to give."""
        self._page = page
        self._writer.start(self._deliver, self._name)

    def stop(self, timeout_s: float) -> list[str]:
        """Have everything written; return what could not be, in words."""
        if not self._writer.stop(timeout_s):
            return [f"the journal {self._writer.path!r}, which has not written everything"]
        if self._writer.lost:
            why = f" ({self._writer.error})" if self._writer.error is not None else ""
            return [f"{self._writer.lost} results that the journal does not have{why}"]
        return []

    # -- before the run ------------------------------------------------------------------------------------

    def take_in(self, jobs: Iterable[KeyedJob], now_s: float) -> None:
        """Take in jobs: ask the journal, or let each follow the one of its key that is under way."""
        leaders = self._leaders
        asked: list[KeyedJob] = []
        for job in jobs:
            leader = leaders.setdefault(job.facts[0], job)
            if leader is job:
                asked.append(job)
                continue
            self._ask(asked, now_s)  # first, as they came first
            asked = []
            self._scheduler.set_aside([job], FOLLOWING, now_s)
            if leader.followers:
                leader.followers.append(job)
            else:
                leader.followers = [job]
        self._ask(asked, now_s)

    def _ask(self, jobs: list[KeyedJob], now_s: float) -> None:
        if jobs:
            self._scheduler.set_aside(jobs, LOOKED_UP, now_s)
            self._writer.put(r.Asked([job.facts for job in jobs], jobs))

    def _deliver(self, asked: list[KeyedJob], answers: dict[str, Found], ended: list[r.Succeeded | r.Ended]) -> None:
        self._post(lambda: self._act_on(asked, answers, ended))

    def _act_on(self, asked: list[KeyedJob], answers: dict[str, Found], ended: list[r.Succeeded | r.Ended]) -> None:
        """A group of entries is committed."""
        if self.is_over:
            return
        for entry in ended:
            if isinstance(entry, r.Succeeded):
                self._settle_together(entry.tasks)
            else:
                entry.subject()
        # Others were cancelled, or their deadline has passed.
        to_run = [job for job in asked if job.state == LOOKED_UP]
        if answers:
            to_run = [job for job in to_run if not self._use_answer(job, answers.get(job.facts.key))]
        self._admit(to_run)

    def _use_answer(self, job: KeyedJob, found: Found | None) -> bool:
        """Use what an earlier run has left of a job; return whether that is its result."""
        if found is None:
            return False
        if found.form is not None:
            self._give_stored(job, found)
            return True
        job.with_history().checkpoint = found.checkpoint
        job.flags |= wire.HAS_SAVED
        return False

    def _admit(self, jobs: list[KeyedJob]) -> None:
        if not jobs:
            return
        for job in jobs:
            job.is_entered = True
        self._scheduler.admit(jobs)
        if self._scheduler.needs_staff:  # once, for all: a worker gets several at once
            self._scheduler.staff(time.monotonic())

    def _give_stored(self, job: KeyedJob, found: Found) -> None:
        """Settle a job with the result of an earlier run; if that cannot be loaded any more, run it."""
        if found.function != job.facts.function:
            text = "the key %r has a result of %s in the journal, and %s gets it"
            self._user_code.put(logger.warning, text, job.facts.key, found.function, job.facts.function)

        def settle(value: Any) -> None:
            if job.state == LOOKED_UP:
                self._settle_all(job, lambda: (form, found.data), value)

        def run_again(error: BaseException) -> None:
            if job.state == LOOKED_UP:
                text = "the stored result of %s cannot be loaded, so it runs again: %r"
                self._user_code.put(logger.warning, text, job.facts.command, error)
                self._admit([job])

        assert found.form is not None
        form = found.form
        load: Callable[[], Any] = partial(values.load, form, found.data)
        if found.form == values.NONE or (found.form == values.PICKLE and _is_plain_data(found.data)):
            settle(load())
        else:
            self._load_aside(load, settle, run_again)

    def _load_aside(
        self, load: Callable[[], Any], use: Callable[[Any], None], refuse: Callable[[BaseException], None]
    ) -> None:
        """Load a value in a thread for user code, and use it here."""

        def load_and_report() -> None:
            try:
                value = load()
            except BaseException as error:
                failure = error
                self._post(lambda: refuse(failure))
            else:
                self._post(lambda: use(value))

        self._user_code.put(load_and_report)

    # -- during the run ------------------------------------------------------------------------------------

    def _note_started(self, job: Job, worker: Worker) -> None:
        if isinstance(job, KeyedJob):
            started = worker.wall(max(job.started_s, worker.pipeline.head_since_s))
            self._writer.put(r.Started(job.facts, job.attempt, worker.pid, started))

    def note_retry(self, job: Job) -> None:
        """An attempt has ended, and another one will follow."""
        self._forget_answer(job)
        if isinstance(job, KeyedJob) and job.history is not None and job.history.attempts:
            self._writer.put(r.Retrying(job.facts, job.history.attempts[-1]))

    def note_saved(self, job: Job, state: bytes) -> None:
        """The running attempt saved its state."""
        if isinstance(job, KeyedJob):
            self._writer.put(r.Saved(job.facts, job.attempt, time.time(), state))

    def job_to_cancel(self, job: Job) -> Job:
        """Return the job that ends when the handle of this one is cancelled.

        While others follow it, that is one of those: the two change handles, and the work goes on for the others.
        """
        if not isinstance(job, KeyedJob) or self._leaders.get(job.facts.key) is not job:
            return job
        if job.is_recorded:
            return job
        # The last one: the next that is cancelled, one of them after the other, is then not this job again.
        while job.followers and job.followers[-1].has_settled:
            job.followers.pop()
        if not job.followers:
            return job
        heir = job.followers.pop()
        heir.handle, job.handle = job.handle, heir.handle
        heir.handle._job, job.handle._job = heir, job
        return heir

    # -- after the run -------------------------------------------------------------------------------------

    def takes_value(
        self, job: Job, body: bytes, worker: Worker, cost: tuple[float | None, int | None] | None, now_s: float
    ) -> bool:
        """Have a plain value recorded, and its handle settled afterwards; return whether that is how this job ends."""
        if not isinstance(job, KeyedJob):
            return False
        self.note_answer(job, worker)
        wall = self._scheduler.wall
        if job.history is None:  # the usual case. The general one below costs the supervisor 10 µs more a task.
            cpu_seconds, peak_memory = cost or (None, None)
            success = (wall(job.started_s), wall(now_s), worker.pid, cpu_seconds, peak_memory)
            job.handle._success = success
            job.is_recorded = True
            started, ended, pid = success[:3]
            self._successes.append((job.facts, pid, started, ended, cpu_seconds, peak_memory, body, job))
            return True
        job.record(Outcome.SUCCEEDED, now_s, wall, pid=worker.pid, cost=cost)

        def settle() -> None:
            self._settle_all(job, lambda: _form_of(body), pickle.loads(body) if body else None)

        self._record(job, r.SUCCEEDED, body, None, settle)
        return True

    def record_successes(self) -> None:
        """Have the values recorded that came in this round, together: each entry wakes the journal's thread."""
        if self._successes:
            self._writer.put(r.Succeeded(self._successes))
            self._successes = []

    def note_answer(self, job: Job, worker: Worker) -> None:
        """A worker has answered, and keeps the result until it is recorded."""
        if isinstance(job, KeyedJob):
            job.answered_by = worker
            kept = self._kept.get(worker)
            if kept is None:
                kept = self._kept[worker] = OrderedDict()
            kept[job.sequence] = None

    def _forget_answer(self, job: Job) -> None:
        """A result is recorded, or is none: its worker need not keep it any more."""
        if isinstance(job, KeyedJob):
            self._forget_answers([job])

    def _forget_answers(self, jobs: Iterable[KeyedJob]) -> None:
        """As `_forget_answer`, for several, in the order of their answers."""
        last: dict[Worker, int] = {}
        for job in jobs:
            worker = job.answered_by
            kept = self._kept.get(worker) if worker is not None else None
            if worker is not None and kept is not None:
                job.answered_by = None
                kept.pop(job.sequence, None)
                last[worker] = job.sequence
        for worker, sequence in last.items():
            kept = self._kept[worker]
            self._page.write(worker, RECORDED, next(iter(kept)) - 1 if kept else sequence)

    def note_gone(self, worker: Worker) -> None:
        """A worker has ended: what it kept is not needed once all that came from it is recorded."""
        self._kept.pop(worker, None)
        self._writer.put(r.Gone(worker.pid))

    def takes_judged_value(self, job: Job, value: Any, body: bytes | ReceivedParcel) -> bool:
        """As `takes_value`, for a value that was loaded and judged, its attempt recorded."""
        if not isinstance(job, KeyedJob):
            return False
        self._record(job, r.SUCCEEDED, body, None, lambda: self._settle_all(job, lambda: _form_of(body), value))
        return True

    def takes_failure(self, job: Job, error: BaseException) -> bool:
        """Have a failure recorded, and its handle settled afterwards; return whether that is how this job ends."""
        if not isinstance(job, KeyedJob) or job.is_recorded or self._leaders.get(job.facts.key) is not job:
            return False

        def settle() -> None:
            self._forget_answer(job)
            for each in (job, *self._dismiss(job)):
                self._settler.fail(each, error)

        if job.is_entered:
            self._record(job, r.FAILED, None, error, settle)
        else:
            self._withdraw(job, r.FAILED, error)
            settle()
        return True

    def note_cancelled(self, job: Job) -> None:
        """A job is being cancelled: so are those that follow it."""
        if not isinstance(job, KeyedJob) or self._leaders.get(job.facts.key) is not job:
            return
        self._forget_answer(job)
        followers = self._dismiss(job)
        if job.is_entered and not job.is_recorded:
            self._record(job, r.CANCELLED, None, None, None)
        elif not job.is_recorded:
            self._withdraw(job, r.CANCELLED, None)
        for each in followers:
            self._settler.cancel(each)

    def _withdraw(self, job: KeyedJob, state: str, error: BaseException | None) -> None:
        """Have the end of a job recorded that has ended before the journal has answered: nobody waits for the disk."""
        job.is_recorded = True
        self._writer.put(r.Withdrawn(job.facts, state, error))

    def _record(
        self,
        job: KeyedJob,
        state: str,
        body: bytes | ReceivedParcel | None,
        error: BaseException | None,
        settle: Callable[[], None] | None,
    ) -> None:
        job.is_recorded = True
        history = job.history
        attempt = history.attempts[-1] if history is not None and history.attempts else None
        has_checkpoint = history is not None and history.checkpoint is not None
        self._writer.put(r.Ended(job.facts, state, attempt, body, error, settle, has_checkpoint))

    def _settle_together(self, successes: list[r.Success]) -> None:
        """Settle jobs that have succeeded at once."""
        alone: list[tuple[Job, Any]] = []
        self._forget_answers([success[7] for success in successes])
        for _, _, _, _, _, _, body, job in successes:
            value = pickle.loads(body) if body else None
            if job.followers:
                self._settle_all(job, partial(_form_of, body), value)
            else:
                self._leaders.pop(job.facts[0], None)
                alone.append((job, value))
        self._settler.succeed_at_once(alone)

    def _settle_all(self, job: KeyedJob, copy: Callable[[], tuple[str, bytes]], value: Any) -> None:
        """Settle a job with its value, and each that follows it with a copy."""
        self._forget_answer(job)
        if job.state == LOOKED_UP:
            self._scheduler.end_aside(job)
        followers = self._dismiss(job)
        form, data = copy() if followers else ("", b"")  # before the caller can change a value that shares memory
        self._settler.succeed(job, value)
        for each in followers:
            load = partial(values.load, form, data)
            self._load_aside(load, partial(self._settler.succeed, each), partial(self._refuse, each))

    def _refuse(self, job: KeyedJob, error: BaseException) -> None:
        failure = SerializationError(
            f"the result could not be loaded in the parent: {repr_of(error)}", task=job.handle.task
        )
        failure.__cause__ = error
        self._settler.fail(job, failure)

    def _dismiss(self, job: KeyedJob) -> list[KeyedJob]:
        """The job of a key is done: return those that followed it, which are for the caller to settle."""
        self._leaders.pop(job.facts.key, None)
        followers = [each for each in job.followers if not each.has_settled]
        job.followers = ()
        for each in followers:
            self._scheduler.end_aside(each)
        return followers


def _is_plain_data(pickled: bytes) -> bool:
    """Whether loading this is quick and runs none of the user's code."""
    return not EXTENSION_CODES and len(pickled) <= PLAIN_LIMIT and (STACK_GLOBAL not in pickled or is_plain(pickled))


def _form_of(body: bytes | ReceivedParcel) -> tuple[str, bytes]:
    form, data = values.stored_form(body)
    return form, data or b""
