"""Takes in what callers ask for: every job passes here once, whichever way it comes, as do cancels and closes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from procbackground._state.fleet import Worker
from procbackground._state.job import SETTLED, Job, KeyedJob
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor.acceptance import Acceptance
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.inbox import Inbox
from procbackground._supervisor.machine import free_memory_bytes
from procbackground._supervisor.pending_bytes import PendingBytes
from procbackground._supervisor.settle import Settler
from procbackground._supervisor.submit_gate import SubmitQueueGate
from procbackground.handle import TaskHandle

if TYPE_CHECKING:
    from procbackground._supervisor.keyed import KeyedJobs
    from procbackground._supervisor.overview import ArrivalMarks

# Requests that are taken before the workers are looked at again: many while the queue is short, few once it has enough
# for all workers. With many always, four threads that only submit left the workers 200 tasks a second.
BATCH = 1000
SMALL_BATCH = 100
ENOUGH = 1000


class Intake:
    """The supervisor's end of the inbox."""

    def __init__(
        self,
        scheduler: Scheduler,
        inbox: Inbox,
        events: Events,
        settler: Settler,
        acceptance: Acceptance,
        send: Callable[[Worker, list[Job]], None],
        max_pending: int | None,
        max_pending_bytes: float | None,
        refuses_when_full: bool,
        keyed: KeyedJobs | None,
        show_gate: Callable[[SubmitQueueGate | None], None],
    ) -> None:
        self._scheduler = scheduler
        self._inbox = inbox
        self._events = events
        self._settler = settler
        self._acceptance = acceptance
        self._send = send
        self._keyed = keyed
        self.marks: ArrivalMarks | None = None  # with a status socket
        self.close_began_s: float | None = None
        self.settled_at_close: tuple[int, int] = (0, 0)  # succeeded and failed
        self._pending = PendingBytes(scheduler, max_pending_bytes, free_memory_bytes)
        self.gate = SubmitQueueGate(
            max_pending,
            self._pending,
            inbox,
            scheduler.count_queued,
            lambda: scheduler.has_room,
            lambda job: self.take_in(job, time.monotonic()),
            lambda: scheduler.staff(time.monotonic()),
            show_gate,
            max_pending is not None or max_pending_bytes not in (None, math.inf),
            refuses_when_full,
        )
        self.gate.open()

    def process(self) -> None:
        """Take the requests that are in the inbox."""
        scheduler, requests = self._scheduler, self._inbox.requests
        now_s = time.monotonic()
        is_plain = self._is_plain
        if self.marks is not None:
            self.marks.note(now_s, scheduler.added)
        plain: list[Job] = []
        for _ in range(BATCH if scheduler.queue.length < ENOUGH else SMALL_BATCH):
            if not requests:
                break
            request = requests.popleft()
            if is_plain and isinstance(request, Job) and not request.recipe.is_loop:
                if request.state != SETTLED:  # else it was cancelled before it came, see `take_in`
                    plain.append(request)
                continue
            if plain:
                self._take_in_plain(plain, now_s)  # first, as they came first
            if isinstance(request, Job):
                self.take_in(request, now_s)
            else:
                request()
                is_plain = self._is_plain
        if plain:
            self._take_in_plain(plain, now_s)
        if scheduler.needs_staff:
            scheduler.staff(now_s)
        if scheduler.payload_bytes > self._pending.limit:
            self.gate.note_arrivals()

    def _take_in_plain(self, jobs: list[Job], now_s: float) -> None:
        """Do `take_in` without its questions, whose answers are known; empties the list."""
        if self._keyed is not None:
            self._keyed.take_in(jobs, now_s)  # type: ignore[arg-type]  # with a journal, all one-offs have keys
        elif len(jobs) == 1:
            worker = self._scheduler.accept(jobs[0], now_s, not self._inbox.requests)
            if worker is not None:
                self._send(worker, [jobs[0]])
        else:
            self._scheduler.accept_all(jobs, now_s)
        jobs.clear()

    @property
    def _is_plain(self) -> bool:
        """Whether nothing but the scheduler, and the journal, is concerned with a one-off that comes in."""
        return not (self._scheduler.is_draining or self._scheduler.cancels_queue or self._events.wanted)

    def take_in(self, job: Job, now_s: float) -> None:
        """Take in a job, of whichever kind; one that was cancelled before its caller had posted it has ended."""
        scheduler = self._scheduler
        if job.has_settled:
            return
        if scheduler.is_draining or scheduler.cancels_queue:
            self.refuse_late(job)  # its caller had found the manager open
            return
        if self._events.wanted:
            self._events.task("on_task_added", job)
        if job.recipe.is_loop:
            scheduler.accept_loop(job, now_s)
            return
        if self._keyed is not None and isinstance(job, KeyedJob):
            self._keyed.take_in([job], now_s)
            return
        worker = scheduler.accept(job, now_s, not self._inbox.requests)
        if worker is not None:
            self._send(worker, [job])

    def take_in_failed(self, job: Job, error: BaseException) -> None:
        """Take in a job that could not be pickled: it fails as any other."""
        self._scheduler.take_in_ended(job)
        self._events.task("on_task_added", job)
        self._settler.fail(job, error)

    def take_in_row(self, job: Job, kind: str, failure: bytes | BaseException) -> None:
        """Take in a row of a chunk that failed, as a job of its own after its first attempt."""
        if self._scheduler.is_draining:
            self.refuse_late(job)
        else:
            self._scheduler.adopt(job, kind, failure, time.monotonic())

    def refuse_late(self, job: Job) -> None:
        """Cancel a job whose caller had found the manager open; after the end in the caller's thread."""
        if job.has_settled:
            return
        self._scheduler.take_in_ended(job)
        self._events.task("on_task_added", job)
        if self._acceptance.failure is not None:
            self._settler.fail(job, self._acceptance.failure_error(job.handle))
        else:
            self._settler.cancel(job)

    def cancel(self, handle: TaskHandle[Any]) -> bool:
        """End the job of a handle wherever it is; return False when it has ended."""
        job = handle._job
        if job is None:
            return False
        if self._keyed is not None:
            job = self._keyed.job_to_cancel(job)
        if not job.number and not job.has_settled:  # its caller waits for room, is about to post it, or was interrupted
            self.refuse_late(job)
            return True
        worker = job.worker
        if not self._scheduler.cancel(job, time.monotonic()):
            return False
        self._settler.cancel(job, worker)
        return True

    def begin_close(self, timeout_s: float | None, now_s: float) -> None:
        """Begin a close: count the tasks that end from now on, and refuse new ones."""
        if self.close_began_s is None:
            self.close_began_s = now_s
            self.settled_at_close = (self._scheduler.succeeded, self._scheduler.failed)
        self.gate.refuse_line(self._acceptance.closed_error)
        self._scheduler.close(timeout_s, now_s)
        self._settler.log_records.bound(None if timeout_s is None else now_s + timeout_s)

    def cancel_queued(self) -> None:
        """Cancel all one-offs that have not begun."""
        self._acceptance.cancels_queue = True
        self._scheduler.cancel_queued(time.monotonic())
