"""Workers come and go: what becomes of them, and of the jobs that they had."""

from __future__ import annotations

from typing import Any

from procbackground._state import attempt as a
from procbackground._state import commands as c
from procbackground._state import fleet, loops, outcomes, staffing, stops
from procbackground._state.fleet import Death, Worker
from procbackground._state.job import SETTLED, Job
from procbackground._state.state import State

SENDS_TO_FAIL = 3  # of the arguments of one job, each to another worker


def said_hello(state: State, worker: Worker, now_s: float) -> None:
    """A process is ready for work."""
    if worker.state == fleet.DYING and worker.state_at_end == fleet.STARTING:
        worker.state_at_end = fleet.SPARE  # it was ready, and has died since
        state.launches.succeeded(state, worker)
    if worker.state != fleet.STARTING:
        return
    state.take_out(worker)
    state.launches.succeeded(state, worker)
    state.commands.append(c.ProcessReady(worker))
    worker.enter(fleet.SPARE, now_s)
    (state.spares if worker.kind is None else state.kept).append(worker)
    if state.is_draining:
        stops.retire(state, worker, now_s)
        return
    staffing.staff(state, now_s)
    if worker.state == fleet.SPARE and state.active < state.max_workers:
        staffing.want_rescue(state, now_s)


def launch_failed(state: State, worker: Worker, kind: str, why: Any, now_s: float) -> None:
    """The worker has no process, because of `why`, of a `kind` of `launches`."""
    state.take_out(worker)
    worker.enter(fleet.GONE, now_s)
    state.forget(worker)
    state.launches.failed(state, kind, why, now_s)
    stops.drain_if_done(state, now_s)


def process_ended(state: State, worker: Worker, now_s: float) -> None:
    """The worker's process has ended; `worker_gone` follows once its pipe is read to the end."""
    if worker.state in (fleet.DYING, fleet.GONE):
        return
    state.take_out(worker)
    worker.enter(fleet.DYING, now_s)
    state.leave_slot(worker)
    state.timers.cancel(worker.kill_timer)


def worker_gone(state: State, worker: Worker, started: int, death: Death, now_s: float) -> None:
    """The worker's process has ended and its pipe is read. `started` is the request it began last."""
    process_ended(state, worker, now_s)
    if worker.state == fleet.GONE:
        return
    worker.death = death
    worker.enter(fleet.GONE, now_s)
    state.forget(worker)
    state.launches.died(state, worker, started, now_s)
    state.commands.append(c.ProcessGone(worker))
    if worker.loop is not None:
        loops.process_gone(state, worker, worker.loop, started)
    jobs = worker.pipeline.empty()
    head = jobs[0] if jobs else None
    for job in reversed(jobs):
        if job.worker is not worker:
            if worker.stop_reason == c.FOR_CANCEL:
                stops.count_stop(state, worker)
        elif job.state == a.STOPPING or (job is head and job.sequence <= started):
            _record_death_as_attempt(state, worker, job)
        else:
            # It had not begun: it goes elsewhere, before all that came after it, and is not charged.
            job.move(a.TAKEN_BACK)
            outcomes.requeue(state, job)
    if worker.state_at_end in (fleet.BUSY, fleet.RECALLING, fleet.STOPPING) and not state.is_draining:
        state.respawned += 1
    staffing.staff(state, now_s)
    stops.drain_if_done(state, now_s)


def _record_death_as_attempt(state: State, worker: Worker, job: Job) -> None:
    job.started_s = worker.pipeline.head_since_s
    job.move(a.WORKER_DIED)
    reason = worker.stop_reason if job.state == a.STOPPED else None
    if reason == c.FOR_CLOSE:
        stops.count_stop(state, worker)
        outcomes.cancel(state, job, worker)
        return
    outcomes.judge(state, job, reason or c.DIED, outcomes.limit_passed(state, reason), worker, worker.death.cost)


def not_sent(state: State, worker: Worker, job: Job, now_s: float) -> bool:
    """The requests of the worker from this job's on could not be sent, and the worker lives: they go to another.

    Returns False when that has happened too often to this job: then it has ended, and its handle is the caller's
    to settle.
    """
    may_try_again = True
    for each in worker.pipeline.take_back_unsent(job):
        if each.worker is not worker:
            continue  # it was cancelled
        each.move(a.TAKEN_BACK)
        if each is job:
            history = job.with_history()
            history.send_failures += 1
            may_try_again = history.send_failures < SENDS_TO_FAIL
        if each is job and not may_try_again:
            job.worker = None
            job.state = SETTLED  # first, as it is in no queue from which it could be withdrawn
            outcomes.end(state, job)
        else:
            outcomes.requeue(state, each)
    worker.is_last = True  # it leaves after what it runs
    if worker.state == fleet.BUSY and not worker.is_running:
        stops.retire(state, worker, now_s)
    state.needs_staff = True
    return may_try_again
