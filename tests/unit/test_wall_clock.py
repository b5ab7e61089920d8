"""Monotonic times keep the wall-clock time that they had, whatever happens to the clock later."""

from __future__ import annotations

import pytest

from procbackground._supervisor import clock
from procbackground._supervisor.clock import MAX_STEPS, STEP_S, WallClock


class Clocks:
    """Stands for the module `time`, with both clocks set by the test."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.offset_s = 1_000_000.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s + self.offset_s


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(clock, "time", clocks)
    return clocks


@pytest.mark.parametrize("step_s", [3600.0, -3600.0, 0.06])
def test_times_before_a_step_of_the_clock_keep_the_old_offset(clocks, step_s):
    """A suspend is such a step: the monotonic clock stands still meanwhile, and the other one does not."""
    wall = WallClock()
    clocks.now_s = 200.0
    clocks.offset_s += step_s
    wall.note(clocks.now_s)
    assert wall(150.0) == 1_000_150.0
    assert wall(200.0) == 1_000_200.0 + step_s
    assert wall(250.0) == 1_000_250.0 + step_s


def test_each_time_goes_by_the_offset_of_its_day(clocks):
    wall = WallClock()
    for number in range(1, 6):
        clocks.now_s = 100.0 + 100 * number
        clocks.offset_s = 1_000_000.0 + 10 * number
        wall.note(clocks.now_s)
    assert [wall(150.0 + 100 * number) - 150.0 - 100 * number for number in range(6)] == [
        1_000_000.0 + 10 * number for number in range(6)
    ]


def test_a_clock_that_is_slewed_is_followed_once_it_is_a_step_away(clocks):
    wall = WallClock()
    for _ in range(100):
        clocks.now_s += 1.0
        clocks.offset_s += STEP_S / 50
        wall.note(clocks.now_s)
        assert abs(wall(clocks.now_s) - clocks.time()) <= STEP_S
    assert len(wall._since_s) <= 3


def test_of_very_many_steps_the_latest_are_remembered(clocks):
    wall = WallClock()
    steps = 3 * MAX_STEPS
    for number in range(1, steps + 1):
        clocks.now_s = 100.0 + number
        clocks.offset_s = 1_000_000.0 + number
        wall.note(clocks.now_s)
    assert len(wall._since_s) == len(wall._offset_s) == MAX_STEPS
    assert wall(100.5 + steps) == 1_000_100.5 + 2 * steps
    assert wall(100.5 + steps - 10) == 1_000_100.5 + 2 * (steps - 10)
    assert wall(0.0) == wall._offset_s[0]  # those before the oldest go by that
