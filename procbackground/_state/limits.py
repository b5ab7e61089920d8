"""Timeouts, deadlines and silence: when to check a running attempt, and what follows."""

from __future__ import annotations

from collections.abc import Callable

from procbackground._state import attempt as a
from procbackground._state import commands as c
from procbackground._state import fleet, outcomes, stops
from procbackground._state.commands import Clocks
from procbackground._state.fleet import Worker
from procbackground._state.job import JUDGED, LOADING_LOOK_S, LOOK_AFTER_S, Job
from procbackground._state.launches import SLOW_START_S
from procbackground._state.state import State
from procbackground.task import NO_LIMIT

LOOK_AGAIN_S = 0.050  # between two looks at a chunk that has had its first


def set_deadline(state: State, job: Job, now_s: float) -> None:
    """The job was accepted at `now_s`: its deadline counts from here."""
    if job.recipe.deadline_s != NO_LIMIT:
        history = job.with_history()
        history.deadline_s = now_s + job.recipe.deadline_s
        history.deadline_timer = state.timers.at(history.deadline_s, _deadline_passed, job)


def _deadline_passed(state: State, job: Job, now_s: float) -> None:
    if job.has_settled or job.state in (a.RETURNED, JUDGED):
        return  # ended, or about to: the verdict looks at the deadline itself
    worker = job.worker
    if worker is not None and worker.current is job:
        stops.stop(state, worker, c.FOR_DEADLINE, now_s)
        return
    # Where it waits in a worker's pipe it ends all the same, and the worker's answer is ignored.
    outcomes.withdraw(state, job)
    outcomes.judge(state, job, c.FOR_DEADLINE, b"", None)


def scan(state: State, now_s: float, clocks_of: Callable[[Worker], Clocks]) -> None:
    """Look at every running attempt's limits, and find out when to look next."""
    state.next_scan_s = NO_LIMIT
    for worker in list(state.workers):
        job = worker.current
        if worker.state != fleet.BUSY or job is None or job.state != a.SENT:
            continue
        clocks = clocks_of(worker)
        if clocks.is_loading:
            _look_after_loading(state, worker, job, now_s)
            state.next_scan_s = min(state.next_scan_s, _report_silence(state, worker, job, clocks, now_s))
            continue
        exact = _exact(state, worker, job, clocks, now_s)
        if exact is None:
            continue
        if job.recipe.is_chunk:
            state.next_scan_s = min(state.next_scan_s, now_s + LOOK_AGAIN_S)
        timeout_s = exact.began_s + job.recipe.timeout_s
        if now_s >= timeout_s:
            stops.stop(state, worker, c.FOR_TIMEOUT, now_s)
        else:
            state.next_scan_s = min(state.next_scan_s, timeout_s, _report_silence(state, worker, job, exact, now_s))


def _look_after_loading(state: State, worker: Worker, job: Job, now_s: float) -> None:
    """The worker loads the function, for which it has the time of a start.

    It does not say when it is done. If that was now, the attempt is over its timeout that much later, and not before.
    """
    since_s, start_timeout_s = worker.pipeline.head_since_s, state.launches.start_timeout_s
    if now_s >= since_s + start_timeout_s:
        stops.stop(state, worker, c.FOR_LOADING, now_s)
        return
    history = job.with_history()
    if history.slow_since_s != since_s and now_s >= since_s + SLOW_START_S:
        history.slow_since_s = since_s
        state.commands.append(c.SlowStart(worker, job, now_s - since_s, start_timeout_s))
    look_s = min(job.recipe.timeout_s, LOADING_LOOK_S)
    if job.recipe.is_chunk:
        # Its rows are looked at soon after they begin: later by an eighth of what the load took, at the most.
        look_s = min(look_s, max(LOOK_AFTER_S, (now_s - since_s) / 8))
    state.next_scan_s = min(state.next_scan_s, since_s + start_timeout_s, now_s + look_s)


def _exact(state: State, worker: Worker, job: Job, clocks: Clocks, now_s: float) -> Clocks | None:
    """Return the times of the row that runs; None if its worker must read the clock first."""
    if clocks.is_exact:
        return clocks
    if clocks.began_s > worker.look_asked_s:
        ask_s = clocks.began_s + min(LOOK_AFTER_S, job.recipe.timeout_s)
        if now_s >= ask_s:
            state.commands.append(c.AskForLook(worker))
        else:
            state.next_scan_s = min(state.next_scan_s, ask_s)
        return None
    # It has not looked since: the row that runs is the one that ran then. A little late is better than to charge it
    # with what those before it took.
    began_s = worker.look_due_s
    return Clocks(began_s, max(clocks.sign_s, began_s))


def _report_silence(state: State, worker: Worker, job: Job, clocks: Clocks, now_s: float) -> float:
    """Report an attempt that has been silent for too long, once; return when to look again."""
    stalled_s = job.recipe.stalled_s
    if stalled_s == NO_LIMIT:
        return NO_LIMIT
    history = job.with_history()
    # An iteration or row has its own begin. That of a plain call moves once, when its function is loaded.
    is_one_of_many = job.recipe.is_loop or job.recipe.is_chunk
    reported_s = history.stalled_since_s
    if reported_s is None or (is_one_of_many and reported_s != clocks.began_s):
        if now_s < clocks.sign_s + stalled_s:
            return clocks.sign_s + stalled_s
        history.stalled_since_s = clocks.began_s
        state.commands.append(c.Stalled(job, worker, now_s - clocks.sign_s))
    return now_s + stalled_s if job.recipe.is_loop else NO_LIMIT  # a loop's next iteration may stall, too


def look_was_asked(state: State, worker: Worker, asked_s: float, due_s: float) -> None:
    """The worker was asked to look at the clock, after `asked_s` and before `due_s`."""
    worker.look_asked_s, worker.look_due_s = asked_s, due_s
    if worker.pipeline.jobs:
        state.next_scan_s = min(state.next_scan_s, due_s + worker.pipeline.jobs[0].recipe.watch_s)
