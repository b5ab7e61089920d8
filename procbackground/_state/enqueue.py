"""Many jobs at once are taken in: they go to the queue, or aside."""

from __future__ import annotations

from collections.abc import Sequence

from procbackground._state.job import Job, Recipe
from procbackground._state.state import State


def enqueue(state: State, recipe: Recipe, jobs: list[Job], now_s: float) -> None:
    """Take in and queue new one-offs of one recipe: for a third of what `Scheduler.accept` costs, each."""
    for job in jobs:
        job.started_s = now_s  # of its wait, until it is sent
    _count_in(state, jobs)
    if recipe.retry is not None:
        state.keeps_spare = True
    state.queue.extend(recipe.priority, jobs)
    note_queued(state)


def set_aside(state: State, jobs: Sequence[Job], job_state: str, now_s: float) -> None:
    """Take in one-offs that wait for the journal, or for another job of their key."""
    for job in jobs:
        job.started_s = job.started_s or now_s  # of its wait, which includes the journal's answer
        job.state = job_state
    _count_in(state, jobs)
    state.aside.update(jobs)


def _count_in(state: State, jobs: Sequence[Job]) -> None:
    """Do `State.count_in` for one-offs together."""
    number, size = state.accepted, 0
    for job in jobs:
        number += 1
        job.number = number
        size += len(job.payload)
    state.accepted = number
    state.added += len(jobs)
    state.unsettled += len(jobs)
    state.payload_bytes += size


def note_queued(state: State) -> None:
    """Jobs were queued: note whether the queue could use more workers than there are and will be."""
    if not state.needs_staff:
        starting = state.starting
        state.needs_staff = (
            bool(state.idle)
            or (state.active + starting < state.max_workers and starting < state.queue.length)
            or state.fresh_queue.length > 0
            or (state.gate is not None and state.gate.is_shut)
        )
