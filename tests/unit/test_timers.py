"""Timers are taken in order, and cancelled ones do not pile up."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from procbackground._state.timers import COMPACT_FROM, Timers
from procbackground.task import NO_LIMIT


def act(state: Any, subject: Any, now_s: float) -> None:
    raise AssertionError("nobody calls it here")


def take_all(timers: Timers, now_s: float) -> list[Any]:
    taken = []
    while (due := timers.take_due(now_s)) is not None:
        assert due[0] is act
        taken.append(due[1])
    return taken


def test_timers_are_taken_in_order_of_their_time_then_of_their_creation():
    timers = Timers()
    for due_s, subject in [(3, "c"), (1, "a"), (2, "b1"), (2, "b2"), (9, "later")]:
        timers.at(due_s, act, subject)
    assert take_all(timers, 0.5) == []
    assert take_all(timers, 3) == ["a", "b1", "b2", "c"]
    assert timers.next_due_s == 9


def test_a_cancelled_timer_is_not_taken_and_lets_go_of_its_subject():
    timers = Timers()
    first, second = timers.at(1, act, "first"), timers.at(2, act, "second")
    timers.cancel(first)
    assert "first" not in first
    assert timers.next_due_s == 2
    assert take_all(timers, 5) == ["second"]
    timers.cancel(first)  # once more, one that was due, and none: nothing happens
    timers.cancel(second)
    timers.cancel(None)
    assert timers.next_due_s == NO_LIMIT
    assert len(timers) == 0


def test_a_million_timers_that_are_set_and_cancelled_keep_the_heap_small():
    """As a stream with a deadline has them: a thousand tasks are out at a time."""
    timers, out = Timers(), deque[list[Any]]()
    most = 0
    for number in range(1_000_000):
        out.append(timers.at(number + 600_000_000, act, number))
        if len(out) > 1000:
            timers.cancel(out.popleft())
        most = max(most, len(timers))
    assert most <= 2 * 1001 + COMPACT_FROM
    assert sorted(timer[3] for timer in timers) == list(range(999_000, 1_000_000))


def test_timers_cancelled_in_any_order_keep_the_heap_small():
    timers, chance = Timers(), random.Random(5)
    kept: list[list[Any]] = []
    for number in range(100_000):
        kept.append(timers.at(chance.random(), act, number))
        if len(kept) > 500:
            place = chance.randrange(len(kept))
            kept[place], kept[-1] = kept[-1], kept[place]
            timers.cancel(kept.pop())
        assert len(timers) <= 2 * 501 + COMPACT_FROM
    expected = [timer[3] for timer in sorted(kept, key=lambda timer: timer[:2])]
    assert take_all(timers, 1) == expected


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("at"), st.integers(0, 20)),
        st.tuples(st.just("cancel"), st.integers(0, 200)),
        st.tuples(st.just("take"), st.integers(0, 20)),
    ),
    max_size=300,
)


@given(STEPS)
def test_timers_do_as_a_sorted_list_does(steps):
    timers, made = Timers(), list[list[Any]]()
    model: list[tuple[int, int]] = []  # due time, and number, which is the subject as well
    for what, number in steps:
        if what == "at":
            model.append((number, len(made)))
            made.append(timers.at(number, act, len(made)))
        elif what == "cancel" and made:
            subject = number % len(made)
            timers.cancel(made[subject])
            model = [each for each in model if each[1] != subject]
        elif what == "take":
            due = sorted(each for each in model if each[0] <= number)
            assert take_all(timers, number) == [subject for _, subject in due]
            model = [each for each in model if each[0] > number]
        assert timers.next_due_s == min((due_s for due_s, _ in model), default=NO_LIMIT)
        assert sorted(timer[3] for timer in timers) == sorted(subject for _, subject in model)
