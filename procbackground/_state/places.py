"""Decisions for workers that are places on other machines: what their nodes and the engine report."""

from __future__ import annotations

from procbackground._state import attempt as a
from procbackground._state import commands as c
from procbackground._state import fleet, launches, outcomes, stops
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.scheduler import Scheduler


class PlaceScheduler(Scheduler):
    """The scheduler of a manager with an engine. Each worker is a place, which has one attempt at a time."""

    may_rescue = False

    def stopped_on_node(self, worker: Worker, reason: str, now_s: float) -> None:
        """The node has stopped what the worker ran, for `reason`; `worker_gone` follows."""
        if worker.state == fleet.BUSY:
            stops.begin_stop(self, worker, reason)
            worker.enter(fleet.STOPPING, now_s)

    def lost_by_engine(self, worker: Worker, error: BaseException, now_s: float) -> None:
        """The engine has lost what the worker runs, with `error`; the worker lives on. Call `refill` afterwards."""
        job = worker.current
        if job is None:
            return
        if worker.loop is not None:
            worker.loop = None
        else:
            worker.pipeline.jobs.popleft()
        if job.worker is worker and job.state in (a.SENT, a.STOPPING):
            job.move(a.ERROR_CAME)
            outcomes.judge(self, job, c.LOST, error, worker)

    def engine_failed(self, why: Exception, now_s: float) -> None:
        """The engine runs nothing any more: fail what waits, and refuse what comes."""
        launches.break_manager(self, str(why), why, now_s)

    def answers_came(
        self, worker: Worker, count: int, last: int, now_s: float, pace_s: float | None = None
    ) -> list[Job]:
        jobs = super().answers_came(worker, count, last, now_s, pace_s)
        for job in jobs:
            job.recipe.depth = 1  # nothing waits behind another in a place, however short: it waits at the engine
        return jobs

    # -- what waits at the engine has not begun ------------------------------------------------------------

    def count_running(self) -> int:
        return sum(1 for worker in self.workers if worker.is_running and worker.pid)

    def count_queued(self) -> int:
        return super().count_queued() + self._count_unbegun()

    @property
    def has_room(self) -> bool:
        return super().has_room and not self._count_unbegun()

    def _count_unbegun(self) -> int:
        return sum(1 for worker in self.workers if worker.is_running and not worker.pid)
