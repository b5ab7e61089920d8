"""Holds back new attempts while the machine is short of memory.

The decisions are the scheduler's own; this one only keeps waiting jobs and free workers apart while memory is short,
or before it is known. So a manager without `min_free_memory` pays nothing for it. What runs goes on, and cancels,
deadlines and closes work as ever; with nothing running nothing frees memory from our side, and we look on.
"""

from __future__ import annotations

from typing import Any, Final

from procbackground._state import fleet
from procbackground._state.fleet import JobQueue, Worker
from procbackground._state.job import Job
from procbackground._state.scheduler import AdmissionHeld, AdmissionResumed, LookAtMemory, Scheduler
from procbackground.task import NO_LIMIT

UNKNOWN: Final = "unknown"  # nobody looks, because nothing is to be done
OPEN: Final = "open"
HELD: Final = "held"

LOOK_AGAIN_S = 0.1  # before the next try to have the memory looked at


class AdmittingScheduler(Scheduler):
    """Starts attempts only while `min_free_bytes` of memory are free."""

    def __init__(self, *, min_free_bytes: int, **options: Any) -> None:
        super().__init__(**options)
        self.min_free_bytes = min_free_bytes
        self._admission = UNKNOWN
        self._is_looked_at = False  # somebody tells `memory_seen`, or will
        self._held_since_s = 0.0

    def memory_seen(self, free_bytes: int, now_s: float) -> bool:
        """So much memory is free now; return whether to look again."""
        if not self.unsettled and not self.unsettled_loops:
            self._end_hold(free_bytes, now_s)
            self._admission = UNKNOWN
            self._is_looked_at = False
            return False
        if free_bytes >= self.min_free_bytes:
            self._end_hold(free_bytes, now_s)
            if self._admission != OPEN:
                self._admission = OPEN
                self.staff(now_s)
        elif self._admission != HELD:
            self._admission = HELD
            self._held_since_s = now_s
            self.commands.append(AdmissionHeld(free_bytes))
            for worker in self.workers:
                if worker.state == fleet.BUSY and len(worker.inflight) > 1:
                    self._revoke(worker, now_s)  # what waits in its pipe has not begun either
        return True

    def memory_not_seen(self, now_s: float) -> None:
        """Nobody could be found to look: have somebody look in a while."""
        self._is_looked_at = False
        self._at(now_s + LOOK_AGAIN_S, "staff", None)

    def _end_hold(self, free_bytes: int, now_s: float) -> None:
        if self._admission == HELD:
            self.commands.append(AdmissionResumed(free_bytes, now_s - self._held_since_s))

    # -- what is different while attempts are held back ----------------------------------------------------

    def accept(self, job: Job, now_s: float) -> Worker | None:
        if self._admission == OPEN:
            return super().accept(job, now_s)
        idle, self.idle = self.idle, []
        try:
            super().accept(job, now_s)
        finally:
            self.idle = idle
        self.needs_look = not self._is_looked_at or job.recipe.deadline_s != NO_LIMIT
        return None

    def refill(self, worker: Worker, now_s: float) -> list[Job]:
        if self._admission == OPEN:
            return super().refill(worker, now_s)
        queues = self.queue, self.fresh_queue
        self.queue, self.fresh_queue = JobQueue(), JobQueue()
        try:
            return super().refill(worker, now_s)
        finally:
            self.queue, self.fresh_queue = queues

    def staff(self, now_s: float) -> None:
        if self._admission == OPEN or self.is_draining:
            super().staff(now_s)
        elif not self._is_looked_at and (self.queue.length or self.fresh_queue.length or self.loops_queue):
            self._is_looked_at = True
            self.commands.append(LookAtMemory())

    @property
    def has_room(self) -> bool:
        return self._admission == OPEN and super().has_room
