"""How jobs end, wait for their next attempt, or go back to the queue."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from procbackground._state import attempt as a
from procbackground._state import commands as c
from procbackground._state.fleet import Worker
from procbackground._state.job import JUDGED, SETTLED, WAITING, Job, recipe_of
from procbackground._state.queue import JobQueue
from procbackground._state.state import State
from procbackground.report import Outcome

# Rulings on a verdict.
RETRY = "retry"
FINAL = "final"
IGNORED = "ignored"


def judge(
    state: State,
    job: Job,
    kind: str,
    body: Any,
    worker: Worker | None,
    cost: tuple[float | None, int | None] | None = None,
    *,
    waits: bool = False,
) -> None:
    """Have the end of an attempt classified and the policy asked; `waits`: the loop's worker waits for the verdict."""
    job.state = JUDGED
    job.worker = worker if waits else None
    state.being_judged.add(job)
    state.commands.append(c.Judge(job, kind, body, worker, cost, waits))


def end(state: State, job: Job) -> None:
    """Settle the job: whatever comes for it later is ignored."""
    withdraw(state, job)
    job.state = SETTLED


def withdraw(state: State, job: Job) -> None:
    """Remove the job from where it waits; it gets no further attempt."""
    was_queued = job.state == a.QUEUED and bool(job.number)
    if job.recipe.is_loop:
        state.loops.discard(job)
        if was_queued and job in state.loops_queue:
            state.loops_queue.remove(job)
    elif was_queued:
        state.note_ended(job)
    state.being_judged.discard(job)
    state.waiting.discard(job)
    state.aside.discard(job)
    end_timers(state, job)
    if job.worker is None:
        job.payload = b""  # else its request may be unwritten yet; the job is dropped with its answer


def end_timers(state: State, job: Job) -> None:
    """Nothing is due for this job any more."""
    if job.history is not None:
        state.timers.cancel(job.history.deadline_timer)
        state.timers.cancel(job.history.retry_timer)


def cancel(state: State, job: Job, worker: Worker | None = None) -> None:
    """End a job and have its handle cancelled; `worker` is the one whose death that is."""
    if state.is_closing and worker is None and not job.recipe.is_loop:
        state.cancelled_by_close += 1
    end(state, job)
    state.commands.append(c.Cancelled([job], worker))


def cancel_queue(state: State, queue: JobQueue) -> None:
    """End all jobs of a queue, of which there may be 100,000, and have their handles cancelled."""
    jobs = queue.take_all()
    for job in jobs:
        job.state = SETTLED
        job.payload = b""
        end_timers(state, job)
    if state.is_closing:
        state.cancelled_by_close += len(jobs)
    state.commands.append(c.Cancelled(jobs))


def fail_as_broken(state: State, job: Job) -> None:
    """End a job because no worker can be started."""
    end(state, job)
    state.commands.append(c.Broke(job))


def requeue(state: State, job: Job) -> None:
    """Put back a job that was sent to a worker and did not begin there; it is in no place now."""
    job.worker = None
    if _may_queue(state, job):
        state.queue_of(job).push_back(job)


def _may_queue(state: State, job: Job) -> bool:
    """Whether jobs are queued now; if not, the job is ended."""
    if not state.cancels_queue and state.broken_by is None:
        return True
    job.state = SETTLED  # first, as it is in no queue from which it could be withdrawn
    if state.cancels_queue:
        cancel(state, job)
    else:
        fail_as_broken(state, job)
    return False


def admit(state: State, jobs: Sequence[Job]) -> None:
    """Queue jobs that were aside, for the first time."""
    state.aside.difference_update(jobs)
    if state.cancels_queue or state.broken_by is not None:
        for job in jobs:
            _may_queue(state, job)
        return
    for recipe, group in groupby(jobs, recipe_of):
        if recipe.retry is not None or recipe.isolate:
            state.keeps_spare = True
        queued = list(group)
        for job in queued:
            job.state = a.QUEUED
        if recipe.needs is None and not recipe.isolate:
            state.queue.extend(recipe.priority, queued)
        else:
            for job in queued:
                state.queue_of(job).push(job)
    state.needs_staff = True


def rule(state: State, job: Job, delay_s: float | None, now_s: float) -> str:
    """The policy wants another attempt after `delay_s`, or with None no more.

    Returns RETRY; FINAL, when the handle is the caller's to settle; or IGNORED, when the job has ended meanwhile.
    """
    if job.has_settled:
        return IGNORED
    if state.is_cut_short and delay_s is not None:
        cancel(state, job)
        return IGNORED
    if delay_s is None or state.broken_by is not None:
        end(state, job)
        return FINAL
    if job.history is not None and now_s >= job.history.deadline_s:
        # The deadline passed while the policy was asked: that ends the job, whatever failed before.
        state.commands.append(c.Judge(job, c.FOR_DEADLINE, b"", None, None))
        return IGNORED
    job.attempt += 1
    state.retried += 1
    state.keeps_spare = True
    history = job.with_history()
    history.idle_for_s += delay_s
    history.stalled_since_s = None
    wait_for_retry(state, job, delay_s, now_s)
    return RETRY


def wait_for_retry(state: State, job: Job, delay_s: float, now_s: float) -> None:
    """Have the job's next attempt begin in `delay_s`."""
    state.being_judged.discard(job)
    job.state = WAITING
    job.worker = None
    state.waiting.add(job)
    if delay_s > 0:
        job.with_history().retry_timer = state.timers.at(now_s + delay_s, try_again, job)
    else:
        try_again(state, job, now_s)


def try_again(state: State, job: Job, now_s: float) -> None:
    """A job's wait for its next attempt is over."""
    if job.state != WAITING:
        return
    state.waiting.discard(job)
    job.state = a.QUEUED
    if job.recipe.is_loop:
        state.loops_queue.append(job)
    else:
        state.queue_of(job).push_back(job)
    state.needs_staff = True


def limit_passed(state: State, reason: str | None) -> Any:
    """Return the body of the judgement of an attempt that was stopped: the limit, where its recipe has it not."""
    return state.launches.start_timeout_s if reason == c.FOR_LOADING else b""


_OUTCOMES = {
    c.FOR_TIMEOUT: Outcome.TIMED_OUT,
    c.FOR_LOADING: Outcome.TIMED_OUT,
    c.FOR_DEADLINE: Outcome.TIMED_OUT,
    c.FOR_MEMORY: Outcome.OVER_MEMORY,
    c.FOR_CANCEL: Outcome.CANCELLED,
    c.FOR_CLOSE: Outcome.CANCELLED,
}


def outcome_of(kind: str) -> Outcome:
    """Return the outcome of an attempt that ended in this way."""
    return _OUTCOMES.get(kind, Outcome.DIED)
