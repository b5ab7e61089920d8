"""Sending a worker one job, as most do not come: a first one, a loop, one with needs."""

from __future__ import annotations

from procbackground._state import attempt as a
from procbackground._state import commands as c
from procbackground._state import fleet
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.state import State


def send_alone(state: State, worker: Worker, job: Job, now_s: float) -> None:
    """Have a worker that runs nothing run this job, which is in no queue any more."""
    worker.enter(fleet.BUSY, now_s)
    worker.pipeline.head_since_s = now_s
    if job.attempt == 1 and not job.recipe.is_loop:
        state.figures.waited(job.recipe.name, now_s - job.started_s)
    worker.pipeline.sent += 1
    job.sequence = worker.pipeline.sent
    job.worker = worker
    job.started_s = now_s
    job.move(a.DISPATCHED)
    if job.recipe.is_loop:
        worker.loop = job
        job.with_history().iterations = 0
    else:
        worker.pipeline.jobs.append(job)
    state.next_scan_s = min(state.next_scan_s, now_s + job.recipe.watch_s)
    state.commands.append(c.Send(worker, [job]))
