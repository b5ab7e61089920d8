"""Figures of all workers' process trees, for `processes()` and for observers of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from procbackground._state import fleet
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor import monitor
from procbackground._supervisor.inbox import Inbox
from procbackground.report import ProcessInfo


class _Row(NamedTuple):
    worker: Worker
    job: Job | None
    sequence: int
    attempt: int | None
    since_s: float


class Sampler:
    """Takes the figures in the thread that asks for them: reading /proc is nothing for the supervisor."""

    def __init__(
        self, scheduler: Scheduler, inbox: Inbox, wall: Callable[[float], float], monitor_: monitor.Monitor | None
    ) -> None:
        self._scheduler = scheduler
        self._inbox = inbox
        self._wall = wall
        self._monitor = monitor_  # that keeps what was seen of running tasks; None where nobody needs it

    def sample(self) -> list[tuple[ProcessInfo, Job | None]]:
        """Return the figures of the workers that are ready, each with the job that it runs."""
        rows = self._inbox.ask(self._rows)
        figures = monitor.sample([row.worker.pid for row in rows])
        samples = []
        for row in rows:
            seen = figures.get(row.worker.pid)
            if seen is None:
                continue
            if row.job is not None and self._monitor is not None:
                self._monitor.note(row.worker, row.sequence, seen)
            task = None if row.job is None else row.job.handle.task
            cpu_percent = 100 * seen.cpu_s / seen.age_s
            since = self._wall(row.since_s)
            samples.append(
                (ProcessInfo(row.worker.pid, task, row.attempt, since, seen.rss_bytes, cpu_percent), row.job)
            )
        return samples

    def _rows(self) -> list[_Row]:
        rows = []
        for worker in self._scheduler.workers:
            if worker.pid and worker.state not in (fleet.STARTING, fleet.DYING):
                job = worker.current
                if job is None:
                    rows.append(_Row(worker, None, 0, None, worker.since_s))
                else:
                    rows.append(_Row(worker, job, job.sequence, job.attempt, worker.pipeline.head_since_s))
        return rows
