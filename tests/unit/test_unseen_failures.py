"""Which failures that were never retrieved get a record of their own, decided without a clock."""

from __future__ import annotations

from procbackground._supervisor.unseen import SHOWN, SHOWN_AGAIN_S, UnseenFailures


def test_likeness_is_shown_again_after_a_while_with_the_number_of_those_between():
    failures = UnseenFailures(lambda act: None)
    assert failures._decide(("task", "ValueError: x"), 0.0) == (0, True)
    assert failures._decide(("task", "ValueError: x"), 1.0) == (0, False)
    assert failures._decide(("task", "ValueError: y"), 2.0) == (0, True)
    assert failures._decide(("other", "ValueError: x"), 3.0) == (0, True)
    assert failures._decide(("task", "ValueError: x"), SHOWN_AGAIN_S) == (0, False)
    assert failures._decide(("task", "ValueError: x"), SHOWN_AGAIN_S + 1) == (2, True)
    assert failures._decide(("task", "ValueError: x"), SHOWN_AGAIN_S + 2) == (0, False)


def test_no_more_are_shown_in_that_time_than_a_number():
    failures = UnseenFailures(lambda act: None)
    assert sum(failures._decide(("task", str(each)), 0.0)[1] for each in range(100)) == SHOWN
