"""The states of a worker: what the table allows happens, and nothing else does."""

from __future__ import annotations

import itertools

import pytest

from procbackground._state import fleet
from procbackground._state.attempt import IllegalTransition
from procbackground._state.fleet import TRANSITIONS, Worker

PAIRS = list(itertools.product(TRANSITIONS, TRANSITIONS))
LEGAL = [(state, after) for state, after in PAIRS if after in TRANSITIONS[state]]
ILLEGAL = [pair for pair in PAIRS if pair not in LEGAL]


def worker_in(state: str) -> Worker:
    worker = Worker(1, 0, lambda monotonic_s: monotonic_s, 0.0)
    worker.state = state
    return worker


@pytest.mark.parametrize(("state", "after"), LEGAL)
def test_what_the_table_has_is_legal(state, after):
    worker = worker_in(state)
    worker.enter(after, 7.0)
    assert worker.state == after
    # A dead worker tells of its last living state: since when it was in it, and which one it was.
    assert worker.since_s == (0.0 if after in (fleet.DYING, fleet.GONE) else 7.0)
    assert worker.state_at_end == (state if after == fleet.DYING else fleet.STARTING)


@pytest.mark.parametrize(("state", "after"), ILLEGAL)
def test_what_the_table_lacks_raises_and_changes_nothing(state, after):
    worker = worker_in(state)
    with pytest.raises(IllegalTransition, match=f"cannot become {after}"):
        worker.enter(after, 7.0)
    assert (worker.state, worker.since_s) == (state, 0.0)


def test_every_state_is_reached_from_the_first_and_leads_to_the_last():
    reached, new = {fleet.STARTING}, {fleet.STARTING}
    while new:
        new = {after for state in new for after in TRANSITIONS[state]} - reached
        reached |= new
    assert reached | {fleet.IDLE} == set(TRANSITIONS)
    for state in set(TRANSITIONS) - {fleet.GONE}:
        assert {fleet.DYING, fleet.GONE} & TRANSITIONS[state]
