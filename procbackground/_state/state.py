"""All data of one scheduler, and the moves that keep its counts right. The other modules decide what to do with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING

from procbackground._figures import Figures
from procbackground._state import fleet
from procbackground._state.commands import Command, WatchMemory
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.ledger import Ledger, Needs
from procbackground._state.queue import JobQueue
from procbackground._state.timers import Timers
from procbackground.task import NO_LIMIT

if TYPE_CHECKING:
    from typing import Any

    from procbackground._state.gate import MemoryGate
    from procbackground._state.launches import Launches
    from procbackground._state.timers import Timer


class HeldBack:
    """The job with needs for which others are held back, because it has waited for long; or will be."""

    __slots__ = ("is_due", "job", "places", "since_s", "timer_s")

    def __init__(self) -> None:
        self.job: Job | None = None  # the first in order, while its needs are not met
        self.since_s: float = 0.0  # it is
        self.is_due: bool = False  # it has waited for long enough
        self.places: int = 0  # that come free are kept for it
        self.timer_s: float = 0.0  # when the last timer for that is due


class State:
    """The data, which is why `__init__` is long. Methods here move workers between lists, and count; none decides."""

    gate: MemoryGate | None
    launches: Launches

    may_rescue: bool = True  # whether tasks may wait behind another in a worker's pipe

    def __init__(
        self,
        *,
        max_workers: int,
        wall: Callable[[float], float],
        max_tasks_per_child: int | None,
        grace_s: float,
        keeps_spare: bool,
        slots: Mapping[str, int] | None = None,
    ) -> None:
        self.max_workers: int = max_workers
        self.max_tasks_per_child: int | None = max_tasks_per_child
        self.grace_s: float = grace_s
        self.wall: Callable[[float], float] = wall
        self.commands: list[Command] = []
        self.timers: Timers = Timers()
        # Jobs. Each that has not settled is in one of these, or in a worker.
        self.queue: JobQueue = JobQueue()
        self.fresh_queue: JobQueue = JobQueue()  # of jobs whose next attempt needs a fresh process
        self.needy: dict[Needs, JobQueue] = {}  # of jobs with needs, by these; none is empty
        self.loops_queue: deque[Job] = deque()
        self.being_judged: set[Job] = set()  # an attempt has ended, and its verdict is on the way
        self.waiting: set[Job] = set()  # for the time of their next attempt
        self.aside: set[Job] = set()  # that wait for the journal, or for another job of their key
        self.loops: set[Job] = set()  # running, waiting or being judged
        # Workers.
        self.workers: set[Worker] = set()
        self.idle: list[Worker] = []  # the one that was busy last is warmest, and goes first
        self.spares: list[Worker] = []
        self.kept: list[Worker] = []  # idle or spare, without a place: those of a kind, others while places are short
        self.active: int = 0  # places of `max_workers` that workers use
        self.starting: int = 0  # those of a kind not included
        self.ledger: Ledger = Ledger(slots or {})
        self.held_back: HeldBack = HeldBack()
        self.keeps_spare: bool = keeps_spare
        # Parts of the state that need a decision at the next step.
        self.needs_staff: bool = False  # a job was accepted, so `staff` must be called
        self.next_scan_s: float = NO_LIMIT  # when a running attempt must be checked
        self.is_memory_watched: bool = False  # `memory_seen` is called, or soon will be
        self.rescue_timer: Timer | None = None
        # Counters.
        self.accepted: int = 0  # number of the latest job
        self.payload_bytes: int = 0  # of the jobs that wait, at most: see `_supervisor.pending_bytes`
        self.unsettled: int = 0  # one-offs whose handle is not done
        self.unsettled_loops: int = 0
        self.holds: int = 0  # maps that are about to submit more rows
        self.added: int = 0
        self.succeeded: int = 0
        self.failed: int = 0
        self.cancelled: int = 0
        self.retried: int = 0
        self.respawned: int = 0
        self.cancelled_by_close: int = 0  # one-offs that did not run then
        self.stopped = self.killed = 0  # running tasks ended by a close
        self.figures: Figures = Figures()  # for the report of the run
        # The manager's own course.
        self.is_closing: bool = False
        self.cancels_queue: bool = False  # what has not begun will not
        self.is_cut_short: bool = False  # the closing's timeout has passed: no attempt begins any more
        self.is_draining: bool = False  # no jobs are left; workers are leaving
        self.refuses_loops: bool = False
        self.broken_by: tuple[str, Any] | None = None  # what keeps workers from starting

    # -- jobs ----------------------------------------------------------------------------------------------

    def count_in(self, job: Job) -> None:
        """Number and count a job that was accepted; every job passes here once."""
        self.accepted += 1
        job.number = self.accepted
        self.added += 1
        self.payload_bytes += len(job.payload)
        if job.recipe.is_loop:
            self.unsettled_loops += 1
        else:
            self.unsettled += 1

    @property
    def is_settled(self) -> bool:
        """Whether no one-off is left, nor will follow from one."""
        return self.unsettled == 0 and self.holds == 0

    def queue_of(self, job: Job) -> JobQueue:
        """Return the queue in which a one-off waits for its next attempt."""
        needs = job.recipe.needs
        if needs is None:
            return self.fresh_queue if job.needs_fresh_worker else self.queue
        queue = self.needy.get(needs)
        if queue is None:
            queue = self.needy[needs] = JobQueue()
        return queue

    def note_ended(self, job: Job) -> None:
        """A one-off has ended where it waited; its state says so already."""
        queue = self.queue_of(job)
        queue.note_ended()
        if job.recipe.needs is not None:
            self.needs_staff = True  # others may have been held back for it
            if not queue.length:
                del self.needy[job.recipe.needs]

    def queues(self) -> list[JobQueue]:
        """Return the queues of one-offs."""
        return [self.queue, self.fresh_queue, *self.needy.values()]

    def queued(self) -> Iterator[Job]:
        """Return the one-offs that wait in a queue."""
        return chain.from_iterable(self.queues())

    # -- workers -------------------------------------------------------------------------------------------

    def take_slot(self, worker: Worker) -> None:
        worker.uses_slot = True
        self.active += worker.places

    def take_out(self, worker: Worker) -> None:
        """Remove the worker from the lists of those that are free, or will be."""
        if worker.state == fleet.STARTING:
            if worker.kind is None:
                self.starting -= 1
        elif worker in self.kept:
            self.kept.remove(worker)
        elif worker.state == fleet.SPARE:
            self.spares.remove(worker)
        elif worker.state == fleet.IDLE and worker in self.idle:
            self.idle.remove(worker)

    def leave_slot(self, worker: Worker) -> None:
        """The worker gives back the places that it uses, and what else the needs of its job took."""
        if worker.uses_slot:
            worker.uses_slot = False
            self.active -= worker.places
        if worker.needs is not None:
            self.ledger.release(worker.needs)
            worker.needs = None
            worker.is_kept = False

    def forget(self, worker: Worker) -> None:
        """The worker's process is gone, or there was none."""
        self.timers.cancel(worker.kill_timer)
        worker.kill_timer = None
        self.workers.discard(worker)
        if worker.kind is not None:
            self.ledger.return_slots(worker.kind)
        self.launches.free_lines.append(worker.line)

    def watch_memory(self) -> None:
        """Have the free memory measured from now on, if it is not."""
        if not self.is_memory_watched:
            self.is_memory_watched = True
            self.commands.append(WatchMemory())

    # -- figures -------------------------------------------------------------------------------------------

    def count_running(self) -> int:
        return sum(1 for worker in self.workers if worker.is_running)

    def count_queued(self) -> int:
        """Return how many jobs wait, in a queue, behind another in a worker's pipe, or for their next attempt."""
        behind = sum(len(worker.pipeline.jobs) - 1 for worker in self.workers if worker.pipeline.jobs)
        queued = self.queue.length + self.fresh_queue.length + len(self.loops_queue)
        if self.needy:
            queued += sum(queue.length for queue in self.needy.values())
        return queued + behind + len(self.waiting) + len(self.aside)

    @property
    def runs_one_offs(self) -> bool:
        """Whether a worker has a one-off that it may have begun."""
        return any(worker.pipeline.jobs for worker in self.workers)

    def count_payload_bytes(self) -> int:
        """Return how many bytes the arguments of the jobs have that wait, as `count_queued` does."""
        waiting = chain(self.queued(), self.loops_queue, self.waiting, self.aside)
        behind = (job for worker in self.workers for job in islice(worker.pipeline.jobs, 1, None))
        return sum(len(job.payload) for job in chain(waiting, behind))

    def all_jobs(self) -> Iterable[Job]:
        """Every job that has not settled, for the case that the supervisor itself fails."""
        jobs = [*self.queued(), *self.loops, *self.waiting, *self.being_judged, *self.aside]
        for worker in self.workers:
            jobs.extend(job for job in worker.pipeline.jobs if not job.has_settled)
        return dict.fromkeys(jobs)
