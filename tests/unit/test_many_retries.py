"""Thousands of failures with a retry each cost a little each, not the more the more there are."""

from __future__ import annotations

import math
import sys
from types import FrameType
from typing import Any

import pytest
from tenacity import stop_after_attempt, wait_fixed

import procbackground._state
from procbackground._state.job import Recipe
from procbackground._state.timers import COMPACT_FROM
from procbackground.retry import Retry
from tests.unit.model import World, ending_of, prompt_world

STATE = procbackground._state.__path__[0]


class Counted(int):
    """A number that counts how often it is compared, as do those that follow from it."""

    compared = 0

    def __add__(self, other: int) -> Counted:
        return Counted(int(self) + other)

    def __lt__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) < int(other)

    def __gt__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) > int(other)


class Lines:
    """Counts the lines of the decisions that run within it."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Lines:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(STATE):
            return None
        self.count += event == "line"
        return self._trace


def fail_and_retry(count: int, wait_s: float) -> World:
    """Have so many jobs fail once and succeed then."""
    world = prompt_world(max_workers=4)
    world.scheduler.accepted = Counted(0)
    recipe = Recipe("task", b"", retry=Retry(stop_after_attempt(2), wait_fixed(wait_s)))
    jobs = world.submit_many(count, recipe)
    while world.count("retried") < count:
        for job in world.running():
            world.answer(job, fails=job.attempt == 1)
    world.run_until_done(limit=10 * count)
    assert all(ending_of(job) == "succeeded" for job in jobs)
    assert all(job.attempt == 2 for job in jobs)
    world.check()
    return world


@pytest.mark.parametrize("wait_s", [0.0, 3600.0])
def test_jobs_that_fail_once_take_a_logarithm_of_comparisons_each(wait_s):
    count = 2000
    Counted.compared = 0
    world = fail_and_retry(count, wait_s)
    assert count < Counted.compared <= 4 * count * math.log2(count)
    assert world.timers() <= COMPACT_FROM


@pytest.mark.parametrize("wait_s", [0.0, 0.001, 3600.0])
def test_four_times_as_many_failures_take_about_four_times_as_many_steps(wait_s):
    steps = []
    for count in (100, 400):
        with Lines() as lines:
            fail_and_retry(count, wait_s)
        steps.append(lines.count)
    assert steps[1] <= 6 * steps[0]  # quadratic work would be 16 times as much
