"""Durations: any number of seconds, of any kind and length, everywhere; anything else is refused at once."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
import tenacity

from procbackground import Manager, Retry, Task, TaskType, current
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import plain

LONG = [86400.0 * 30, 1e10, 1e300, math.inf, 10**30, 10**400, Decimal("1e20"), Fraction(10**30, 7)]


def wait_long(seconds: float) -> bool:
    return current().wait(seconds)


def fail_at_first() -> int:
    if current().attempt == 1:
        raise ValueError("once")
    return 1


@pytest.mark.parametrize("seconds", LONG, ids=lambda seconds: str(seconds)[:12])
def test_any_duration_is_as_good_as_none(make_manager, seconds):
    manager: Manager = make_manager(max_workers=3, grace=0.2, start_timeout=seconds)
    for field in ("timeout", "deadline", "stalled_threshold"):
        task = Task(plain.square, args=(3,), **{field: seconds})
        assert manager.run_task(task).result(seconds) == 9
    assert list(manager.map(plain.square, range(3), timeout=seconds)) == [0, 1, 4]
    assert manager.wait(seconds)
    waiting = manager.run(wait_long, seconds)
    paused = manager.run_task(Task(plain.square, args=(3,), type=TaskType.LOOP, interval=seconds))
    retried = manager.run_task(Task(fail_at_first, retry=Retry(wait=lambda state: seconds)))
    wait_until(lambda: waiting.running() and paused.running() and len(retried.attempts) == 1, "all three wait")
    assert manager.run(plain.square, 4).exception(seconds) is None
    assert manager.cancel(seconds)
    assert paused.attempts == []  # no iteration has failed
    assert waiting.cancel()
    assert retried.cancel()
    assert manager.close(seconds).leftovers == ()


def test_short_durations_of_any_kind_are_kept(manager):
    for seconds in (Decimal("0.05"), Fraction(1, 20), 5e-324):
        assert isinstance(manager.run_task(Task(plain.pause, args=(60,), timeout=seconds)).exception(20), TimeoutError)
    retry = Retry(wait=lambda state: Decimal("0.01"), stop=tenacity.stop_after_attempt(2))
    assert manager.run_task(Task(fail_at_first, retry=retry)).result(Decimal(20)) == 1
    assert manager.close(Decimal(PATIENCE_S)).is_clean


@pytest.mark.parametrize(
    ("seconds", "error", "words"),
    [
        ("5", TypeError, "timeout takes a number of seconds"),
        (timedelta(minutes=2), TypeError, "timeout=120"),
        ([1], TypeError, "timeout takes a number of seconds"),
        (0, ValueError, "more than 0"),
        (-1, ValueError, "more than 0"),
        (-(10**400), ValueError, "more than 0"),
        (math.nan, ValueError, "more than 0"),
    ],
)
def test_what_is_no_duration_is_refused_at_once(seconds, error, words):
    with pytest.raises(error, match=words):
        Task(plain.square, timeout=seconds)
    with pytest.raises(error, match=words):
        Manager(timeout=seconds)


def test_waiting_outside_of_tasks_takes_any_duration():
    assert current().wait(-(10.0**300)) is False
    assert current().wait(0) is False
    assert current().wait(Decimal("0.001")) is False


def test_a_text_is_no_time_to_wait(make_manager):
    manager = make_manager(max_workers=1)
    for call in (manager.wait, manager.cancel, manager.close):
        with pytest.raises(TypeError, match="timeout takes a number of seconds, such as timeout=30, not '3'"):
            call("3")
    assert manager.wait(-1)  # what is left until a time that is over
