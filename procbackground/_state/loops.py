"""Loops: tasks of iterations without end, each with a worker of its own."""

from __future__ import annotations

from typing import Any

from procbackground._state import attempt as a
from procbackground._state import commands as c
from procbackground._state import fleet, limits, outcomes, stops
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.outcomes import FINAL, IGNORED
from procbackground._state.state import State

LOOP_RESTART_S = 0.01  # first pause before a loop whose process died gets another; doubles up to MAX
MAX_LOOP_RESTART_S = 1.0


def accept(state: State, loop: Job, now_s: float) -> None:
    """Take in a loop; it is cancelled at once where loops are not run any more."""
    state.count_in(loop)
    if state.refuses_loops:
        outcomes.cancel(state, loop)
        return
    limits.set_deadline(state, loop, now_s)
    state.loops_queue.append(loop)
    state.loops.add(loop)
    state.needs_staff = True


def end_all(state: State, now_s: float) -> None:
    """Loops end after their running iteration; those added later are not run."""
    state.refuses_loops = True
    for loop in list(state.loops):
        worker = loop.worker
        if worker is not None and worker.loop is loop and worker.state == fleet.BUSY:
            state.commands.append(c.EndLoop(worker))
        elif worker is None or worker.state not in (fleet.STOPPING, fleet.DYING):
            outcomes.cancel(state, loop)


def iteration_failed(state: State, worker: Worker, body: bytes, iterations: int, now_s: float) -> None:
    """An iteration of the worker's loop raised; the worker waits for a verdict."""
    loop = worker.loop
    if loop is None or loop.has_settled or worker.state != fleet.BUSY:
        return
    _count_iterations(loop, iterations)
    loop.move(a.ERROR_CAME)
    outcomes.judge(state, loop, c.FAILURE, body, worker, waits=True)


def _count_iterations(loop: Job, iterations: int) -> None:
    """An iteration that failed after others had passed is a new one, with attempts of its own."""
    history = loop.with_history()
    if iterations > history.iterations:
        loop.attempt = 1
        history.attempts = []
        history.first_started_s = None
        history.idle_for_s = 0.0
        history.deaths_in_a_row = 0
    history.iterations = iterations


def load_failed(state: State, worker: Worker, loop: Job, body: bytes, now_s: float) -> None:
    """The loop's function or arguments could not be loaded: no iteration will ever run."""
    worker.loop = None
    loop.move(a.ERROR_CAME)
    outcomes.judge(state, loop, c.FAILURE, body, worker)
    _retire(state, worker, now_s)


def rule(state: State, loop: Job, worker: Worker | None, delay_s: float | None, now_s: float) -> str:
    """The policy's verdict on an iteration of a loop; `worker` is the one that waits for it, if one does.

    Returns RETRY; FINAL, when the failure is to be reported and the loop continues with its next iteration; or IGNORED,
    when the loop has ended.
    """
    if loop.has_settled:
        return IGNORED
    history = loop.with_history()
    if state.refuses_loops:
        # No further iteration. A worker that waits was asked to end the loop, and reports when it has ended.
        state.being_judged.discard(loop)
        if worker is None or worker.loop is not loop:
            outcomes.cancel(state, loop)
        return FINAL if delay_s is None else IGNORED
    if delay_s is not None:
        if worker is not None and worker.state == fleet.BUSY:
            worker.loop = None
            _retire(state, worker, now_s)
        loop.worker = None
        return outcomes.rule(state, loop, delay_s, now_s)
    if now_s >= history.deadline_s:
        return outcomes.rule(state, loop, 0.0, now_s)  # which ends it
    loop.attempt = 1
    if worker is not None and worker.state == fleet.BUSY:
        state.being_judged.discard(loop)
        loop.state = a.SENT  # continued, which is no new dispatch
        loop.worker = worker
        state.commands.append(c.ContinueLoop(worker))
        return FINAL
    # Its process died: a new one, after a pause that grows while not one iteration passes.
    pause_s = min(MAX_LOOP_RESTART_S, LOOP_RESTART_S * 2 ** min(history.deaths_in_a_row, 10))
    history.deaths_in_a_row += 1
    outcomes.wait_for_retry(state, loop, max(loop.recipe.interval_s, pause_s), now_s)
    return FINAL


def ended(state: State, worker: Worker, now_s: float) -> None:
    """The loop saw the stop and ended after its running iteration."""
    loop = worker.loop
    if worker.state == fleet.STOPPING and not state.refuses_loops:
        return  # over a limit, it saw the stop: that is how this iteration ended, and its process will
    worker.loop = None
    if loop is not None and not loop.has_settled:
        outcomes.cancel(state, loop)
    _retire(state, worker, now_s)
    stops.drain_if_done(state, now_s)


def _retire(state: State, worker: Worker, now_s: float) -> None:
    if worker.state == fleet.BUSY:
        stops.retire(state, worker, now_s)


def process_gone(state: State, worker: Worker, loop: Job, started: int) -> None:
    """The process of a loop has ended."""
    worker.loop = None
    if loop.has_settled:
        return
    if loop.state in (a.SENT, a.STOPPING):
        if worker.stop_reason == c.FOR_CLOSE or state.refuses_loops:
            stops.count_stop(state, worker)
            outcomes.cancel(state, loop, worker if worker.stop_reason == c.FOR_CLOSE else None)
        elif not started and loop.state == a.SENT:
            # It had not begun: it goes elsewhere, and is not charged.
            loop.move(a.TAKEN_BACK)
            loop.worker = None
            state.loops_queue.appendleft(loop)
        else:
            loop.move(a.WORKER_DIED)
            _judge_death(state, loop, worker)
    elif state.refuses_loops:
        outcomes.cancel(state, loop)
    else:
        loop.worker = None  # its failed iteration is being judged; the verdict will be ignored


def _judge_death(state: State, loop: Job, worker: Worker) -> None:
    # A loop's process served many iterations: its CPU time is not that of the one it died at.
    cost: tuple[Any, Any] = (None, worker.death.peak_bytes)
    reason = worker.stop_reason
    outcomes.judge(state, loop, reason or c.DIED, outcomes.limit_passed(state, reason), worker, cost)
