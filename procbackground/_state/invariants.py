"""Conditions that hold after every step of the scheduler. Checked if PROCBACKGROUND_CHECK is set, as in tests."""

from __future__ import annotations

from collections import Counter

from procbackground._state import attempt as a
from procbackground._state import fleet
from procbackground._state.job import FOLLOWING, JUDGED, LOOKED_UP, WAITING, Job
from procbackground._state.state import State


def check(state: State) -> None:
    """Raise `AssertionError`, naming the invariant that does not hold."""
    _check_places(state)
    _check_workers(state)
    _check_counts(state)


def _check_places(state: State) -> None:
    """A job is in exactly one place: a queue, one pipeline, a loop's worker, between attempts, or settled."""
    places: Counter[Job] = Counter()
    for queue in (state.queue, state.fresh_queue):
        waiting = list(queue)
        assert len(waiting) == queue.length, f"a queue of {len(waiting)} jobs says {queue.length}"
        places.update(waiting)
    places.update(state.loops_queue)
    places.update(state.waiting)
    places.update(state.aside)
    assert all(job.state in (LOOKED_UP, FOLLOWING) for job in state.aside), "a job is aside in another state"
    assert all(job.state == WAITING for job in state.waiting), "a job waits for its retry in another state"
    places.update(job for job in state.being_judged if job.worker is None)
    assert all(job.state == JUDGED for job in state.being_judged), "a job is being judged in another state"
    for worker in state.workers:
        places.update(job for job in worker.pipeline.jobs if job.worker is worker and not job.has_settled)
        if worker.loop is not None and not worker.loop.has_settled:
            places[worker.loop] += 1
    for job, count in places.items():
        assert count == 1, f"{job.recipe.name} is in {count} places ({job.state})"
        assert not job.has_settled, f"{job.recipe.name} has settled and is in a place"
    for loop in state.loops:
        assert places[loop] == 1, f"the loop {loop.recipe.name} is in no place ({loop.state})"


def _check_workers(state: State) -> None:
    slots = 0
    for worker in state.workers:
        assert worker.state != fleet.GONE, f"{worker!r} is still listed"
        sequences = [job.sequence for job in worker.pipeline.jobs if job.worker is worker]
        assert sequences == sorted(set(sequences)), f"{worker!r} has requests {sequences}"
        if worker.uses_slot:
            slots += 1
            assert worker.state in fleet.TAKES_SLOT, f"{worker!r} uses a slot"
            assert worker.loop is None, f"{worker!r} runs a loop and uses a slot"
        assert (worker.state == fleet.IDLE) == (worker in state.idle), f"{worker!r} and the list of idle ones disagree"
        assert (worker.state == fleet.SPARE) == (worker in state.spares), f"{worker!r} and the spares disagree"
        if worker.state in (fleet.IDLE, fleet.SPARE, fleet.STARTING):
            assert not worker.is_running, f"{worker!r} has work"
        for job in worker.pipeline.jobs:
            if job.worker is worker:
                assert job.state in (a.SENT, a.STOPPING), f"{job.recipe.name} is sent, and {job.state}"
    assert slots == state.active <= state.max_workers, f"{slots} workers use slots, counted are {state.active}"
    starting = sum(worker.state == fleet.STARTING for worker in state.workers)
    assert starting == state.starting, f"{starting} workers start, counted are {state.starting}"


def _check_counts(state: State) -> None:
    ended = state.succeeded + state.failed + state.cancelled
    left = state.unsettled + state.unsettled_loops
    assert state.added == ended + left, f"added {state.added}, ended {ended}, left {left}"
    assert min(state.unsettled, state.unsettled_loops, state.holds) >= 0, "a count is below zero"
