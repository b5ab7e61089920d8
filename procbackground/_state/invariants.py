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
    _check_needs(state)
    _check_counts(state)


def _check_places(state: State) -> None:
    """A job is in exactly one place: a queue, one pipeline, a loop's worker, between attempts, or settled."""
    places: Counter[Job] = Counter()
    assert all(queue.length for queue in state.needy.values()), "a queue of jobs with needs is empty"
    for queue in state.queues():
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
            slots += worker.places
            assert worker.state in fleet.TAKES_SLOT, f"{worker!r} uses a slot"
            assert worker.loop is None, f"{worker!r} runs a loop and uses a slot"
        is_kept = worker in state.kept
        assert not is_kept or worker.state in (fleet.IDLE, fleet.SPARE), f"{worker!r} is kept"
        assert not (is_kept and worker.uses_slot), f"{worker!r} is kept and uses a slot"
        is_idle = worker.state == fleet.IDLE and not is_kept
        assert is_idle == (worker in state.idle), f"{worker!r} and the list of idle ones disagree"
        is_spare = worker.state == fleet.SPARE and not is_kept
        assert is_spare == (worker in state.spares), f"{worker!r} and the spares disagree"
        if worker.state in (fleet.IDLE, fleet.SPARE, fleet.STARTING):
            assert not worker.is_running, f"{worker!r} has work"
        for job in worker.pipeline.jobs:
            if job.worker is worker:
                assert job.state in (a.SENT, a.STOPPING), f"{job.recipe.name} is sent, and {job.state}"
    assert slots == state.active <= state.max_workers, f"{slots} places are used, counted are {state.active}"
    starting = sum(worker.state == fleet.STARTING and worker.kind is None for worker in state.workers)
    assert starting == state.starting, f"{starting} workers start, counted are {state.starting}"


def _check_needs(state: State) -> None:
    """What is taken is what running jobs with needs, and processes of a kind, have."""
    reserved = 0
    slots: Counter[tuple[str, int]] = Counter()
    for worker in state.workers:
        job = worker.current
        if worker.needs is not None:
            reserved += worker.needs.memory
            assert worker.uses_slot, f"{worker!r} has needs and no place"
            assert worker.places == worker.needs.cores, f"{worker!r} has {worker.places} places"
            if job is None:  # it answered while it was stopped; its process keeps its needs until it ends
                assert worker.state == fleet.STOPPING, f"{worker!r} has needs and no job"
            else:
                assert job.recipe.needs == worker.needs, f"{worker!r} has the needs of another job"
            is_suited = worker.kind.suits(worker.needs) if worker.kind else not worker.needs.takes_own_kind
            assert is_suited, f"{worker!r} is of another kind"
        elif worker.state != fleet.DYING:  # what a process had is free once it has ended
            assert job is None or job.recipe.needs is None, f"{worker!r} runs a job whose needs are not counted"
        if worker.kind is not None:
            slots.update((name, number) for name, numbers in worker.kind.slots for number in numbers)
    assert reserved == state.ledger.reserved, f"{reserved} bytes are reserved, counted are {state.ledger.reserved}"
    assert all(count == 1 for count in slots.values()), f"processes share slots: {slots}"
    taken = {(name, number) for name, numbers in state.ledger.taken_slots().items() for number in numbers}
    assert taken == set(slots), f"processes have the slots {set(slots)}, counted are {taken}"


def _check_counts(state: State) -> None:
    ended = state.succeeded + state.failed + state.cancelled
    left = state.unsettled + state.unsettled_loops
    assert state.added == ended + left, f"added {state.added}, ended {ended}, left {left}"
    assert min(state.unsettled, state.unsettled_loops, state.holds) >= 0, "a count is below zero"
