"""The life of a job: the table agrees with that of attempts, and every way leads to an end.

`conftest` has each unit test check the moves of its jobs against the table.
"""

from __future__ import annotations

import pytest

from procbackground._state import attempt
from procbackground._state.job import LIFE, SETTLED, Job, Recipe


def test_each_move_of_an_attempt_is_one_of_its_job():
    for state, after in attempt.TRANSITIONS.items():
        assert set(after.values()) - {state} <= set(LIFE[state]), state


def test_every_state_is_reached_and_can_end():
    reached, new = {attempt.QUEUED}, {attempt.QUEUED}
    while new:
        new = {after for state in new for after in LIFE[state]} - reached
        reached |= new
    assert reached == set(LIFE)
    ends = {SETTLED, attempt.RETURNED}  # a plain value ends a job as it comes
    while found := {state for state in LIFE if set(LIFE[state]) & ends} - ends:
        ends |= found
    assert ends == set(LIFE)


def test_a_move_that_the_table_lacks_fails_the_test_that_makes_it():
    job = Job(None, Recipe("long", b""), b"")  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="queued to lost"):
        job.state = attempt.LOST
