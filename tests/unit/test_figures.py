"""The figures of a run: near the truth, and of a bounded size."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procbackground._figures import HANDFUL, MAX_NAMES, MAX_SLICES, MAX_SPANS, Figures, Histogram, Span, merged

SECONDS = st.floats(min_value=1e-6, max_value=1e6)


@given(st.lists(SECONDS, min_size=1), st.floats(min_value=0.01, max_value=1.0))
def test_a_quantile_is_near_the_truth(values, share):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    truth = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    assert histogram.quantile(share) == pytest.approx(truth, rel=0.035)
    assert histogram.total == pytest.approx(sum(values))
    assert histogram.count == len(values)


def test_no_numbers_have_no_quantile():
    assert Histogram().quantile(0.5) is None


@given(st.lists(st.tuples(st.integers(1, 4), SECONDS, SECONDS), min_size=1, max_size=60))
def test_the_busy_time_is_that_of_all_attempts_at_any_scale(attempts):
    figures = Figures()
    total_s = 0.0
    for pid, began_s, took_s in attempts:
        figures.succeeded(pid, "f", 1, began_s, began_s + took_s)
        figures.end("f", "succeeded")
        total_s += took_s
    assert figures.busy_s == pytest.approx(total_s, rel=1e-6, abs=1e-9 * len(attempts) * 1e3)
    assert len(figures.busy) <= MAX_SLICES + 2
    assert figures.names["f"].ended["succeeded"] == len(attempts)


def test_long_runs_keep_the_long_attempts_only():
    figures = Figures()
    for number in range(5 * MAX_SPANS):
        long_s = 10.0 if number % 100 == 0 else 0.001 * (1 + number % 7)
        figures.succeeded(1, "f", 1, number * 20.0, number * 20.0 + long_s)
    assert len(figures.spans) <= MAX_SPANS
    assert sum(1 for span in figures.spans if span.ended_s - span.began_s > 9) == 5 * MAX_SPANS // 100
    assert 0 < figures.least_span_s < 1
    assert len(figures.busy) <= MAX_SLICES + 2
    assert figures.names["f"].wall.count == 5 * MAX_SPANS


def test_names_without_end_share_one_entry():
    figures = Figures()
    for number in range(3 * MAX_NAMES):
        figures.end(f"task-{number}", "failed", f"error {number}")
    assert len(figures.names) == MAX_NAMES + 1
    assert sum(each.ended["failed"] for each in figures.names.values()) == 3 * MAX_NAMES
    assert all(len(each.errors) <= 3 for each in figures.names.values())


def test_a_copy_does_not_change():
    figures = Figures()
    figures.attempt(7, "f", "raised", 1.0, 2.0, 0.5, 1000)
    figures.end("f", "failed", "ValueError")
    copy = figures.copy()
    figures.attempt(7, "f", "raised", 2.0, 3.0, 0.5, 2000)
    figures.end("f", "failed", "KeyError")
    assert copy.names["f"].attempts == {"raised": 1}
    assert (copy.names["f"].peak_bytes, copy.names["f"].errors) == (1000, ["ValueError"])
    assert (len(copy.spans), copy.ended_s, copy.busy_s) == (1, 2.0, pytest.approx(1.0))


def test_what_is_noted_is_in_every_copy_and_takes_no_room():
    figures = Figures()
    for number in range(2 * HANDFUL + 1):
        figures.note_waited("f", 1.0, 2)
        assert figures.copy().names["f"].waited.count == 2 * (number + 1)
        figures.note_succeeded(1, "f", 1, 1.0, 2.0, None, None, 1)
        assert len(figures._successes) < HANDFUL
    assert figures.copy().names["f"].ended["succeeded"] == 2 * HANDFUL + 1


def test_a_copy_has_a_handful_of_its_own():
    figures = Figures()
    copy = figures.copy()
    figures.note_succeeded(1, "f", 1, 1.0, 2.0, None, None, 1)
    assert not copy.copy().names


def test_an_attempt_that_ended_before_it_began_is_no_time():
    figures = Figures()
    figures.attempt(7, "f", "raised", 5.0, 4.0)  # the clock was set back between parent and child
    assert figures.busy_s == 0.0


def test_neighbours_of_one_name_become_one_bar():
    spans = [
        Span(1, "a", 0.0, 1.0, "succeeded", None),
        Span(1, "a", 1.001, 2.0, "succeeded", None),
        Span(1, "b", 2.0, 3.0, "succeeded", None),
        Span(1, "b", 3.0, 4.0, "raised", None),
        Span(1, "b", 9.0, 9.5, "raised", None),
    ]
    assert [(span.name, span.began_s, span.ended_s) for span in merged(reversed(spans), 0.01)] == [
        ("a", 0.0, 2.0),
        ("b", 2.0, 3.0),
        ("b", 3.0, 4.0),
        ("b", 9.0, 9.5),
    ]
