"""The transition table of attempts: examples, and every pair of state and event."""

from functools import reduce
from itertools import product

import pytest

from procbackground._state.attempt import (
    DISPATCHED,
    ERROR_CAME,
    LOST,
    QUEUED,
    RAISED,
    RETURNED,
    SENT,
    STOP_ASKED,
    STOPPED,
    STOPPING,
    TAKEN_BACK,
    TRANSITIONS,
    VALUE_CAME,
    WORKER_DIED,
    IllegalTransition,
    next_state,
)

STATES = (QUEUED, SENT, STOPPING, RETURNED, RAISED, STOPPED, LOST)
ENDS = (RETURNED, RAISED, STOPPED, LOST)
EVENTS = (DISPATCHED, TAKEN_BACK, STOP_ASKED, VALUE_CAME, ERROR_CAME, WORKER_DIED)
PAIRS = list(product(STATES, EVENTS))
LEGAL = [(state, event) for state, event in PAIRS if event in TRANSITIONS[state]]
ILLEGAL = [pair for pair in PAIRS if pair not in LEGAL]


def state_after(*events: str) -> str:
    return reduce(next_state, events, QUEUED)


def test_task_that_simply_succeeds_is_queued_sent_and_returned():
    assert state_after(DISPATCHED) is SENT
    assert state_after(DISPATCHED, VALUE_CAME) is RETURNED


def test_task_that_raises_ends_as_raised():
    assert state_after(DISPATCHED, ERROR_CAME) is RAISED


def test_answer_already_sent_beats_the_stop():
    assert state_after(DISPATCHED, STOP_ASKED, VALUE_CAME) is RETURNED
    assert state_after(DISPATCHED, STOP_ASKED, ERROR_CAME) is RAISED


def test_second_stop_changes_nothing():
    assert state_after(DISPATCHED, STOP_ASKED, STOP_ASKED, STOP_ASKED) is STOPPING


def test_death_after_a_stop_is_the_stop_and_without_one_a_loss():
    assert state_after(DISPATCHED, STOP_ASKED, WORKER_DIED) is STOPPED
    assert state_after(DISPATCHED, WORKER_DIED) is LOST


def test_attempt_taken_back_before_it_began_is_queued_again_and_can_still_return():
    assert state_after(DISPATCHED, TAKEN_BACK) is QUEUED
    assert state_after(DISPATCHED, TAKEN_BACK, DISPATCHED, VALUE_CAME) is RETURNED


def test_attempt_taken_back_while_it_was_to_be_stopped_has_stopped():
    assert state_after(DISPATCHED, STOP_ASKED, TAKEN_BACK) is STOPPED


def test_terminal_states_are_the_four_ways_to_end():
    assert {state for state, exits in TRANSITIONS.items() if not exits} == set(ENDS)


def test_table_knows_every_state_and_leads_to_no_other():
    assert set(TRANSITIONS) == set(STATES)
    assert {after for exits in TRANSITIONS.values() for after in exits.values()} <= set(STATES)
    assert {event for exits in TRANSITIONS.values() for event in exits} == set(EVENTS)


@pytest.mark.parametrize(("state", "event"), LEGAL)
def test_legal_pair_leads_to_a_state_of_the_table(state: str, event: str):
    assert next_state(state, event) in TRANSITIONS


@pytest.mark.parametrize(("state", "event"), ILLEGAL)
def test_illegal_pair_raises_and_names_both(state: str, event: str):
    with pytest.raises(IllegalTransition) as caught:
        next_state(state, event)
    assert repr(state) in str(caught.value)
    assert repr(event) in str(caught.value)


@pytest.mark.parametrize("state", sorted(ENDS))
@pytest.mark.parametrize("event", EVENTS)
def test_nothing_happens_after_the_end(state: str, event: str):
    with pytest.raises(IllegalTransition):
        next_state(state, event)


def test_unknown_state_is_illegal_too():
    with pytest.raises(IllegalTransition):
        next_state("no such state", DISPATCHED)


def test_every_state_can_be_reached_and_each_that_a_worker_has_can_end():
    reachable, found = {QUEUED}, {QUEUED}
    while found:
        found = {after for state in found for after in TRANSITIONS[state].values()} - reachable
        reachable |= found
    assert reachable == set(STATES)
    for state in set(STATES) - {QUEUED}:
        assert state in ENDS or set(ENDS) & set(TRANSITIONS[state].values())
