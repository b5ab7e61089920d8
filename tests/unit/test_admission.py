"""The scheduler's decisions while memory is short: no attempt begins."""

from __future__ import annotations

import pytest

from procbackground._state import commands as c
from procbackground._state.gate import WATCH_AGAIN_S
from procbackground._state.job import SHORT_TASK_S, Recipe
from procbackground.retry import Retry
from tests.unit.model import World, prompt_world

PLENTY, LITTLE, MINIMUM = 2000, 500, 1000


@pytest.fixture
def world() -> World:
    return prompt_world(min_free_bytes=MINIMUM)


def test_nothing_begins_before_the_memory_is_known(world):
    job = world.submit()
    assert len(world.commands(c.WatchMemory)) == 1
    assert not world.workers()
    assert world.see_memory(PLENTY)
    assert world.running() == [job]
    assert not world.commands(c.AdmissionHeld)


def test_attempts_wait_while_memory_is_short_and_begin_when_it_is_not(world):
    jobs = [world.submit() for _ in range(3)]
    assert world.see_memory(LITTLE)
    assert world.see_memory(LITTLE)
    assert not world.workers()
    assert world.commands(c.AdmissionHeld) == [c.AdmissionHeld(LITTLE)]
    world.advance(3.0)
    assert world.see_memory(MINIMUM)
    assert world.running() == jobs[:2]
    assert world.commands(c.AdmissionResumed) == [c.AdmissionResumed(MINIMUM, 3.0)]


def test_what_runs_goes_on_and_the_next_waits(world):
    first, second, third = (world.submit() for _ in range(3))
    world.see_memory(PLENTY)
    world.see_memory(LITTLE)
    world.answer(first)
    world.answer(second)
    assert world.endings() == {first: "succeeded", second: "succeeded"}
    assert world.running() == []
    fourth = world.submit()  # though workers are idle
    assert world.running() == []
    world.see_memory(PLENTY)
    assert set(world.running()) == {third, fourth}


def test_what_waits_in_a_pipe_is_fetched_back():
    world = prompt_world(1, min_free_bytes=MINIMUM)
    blocker = world.submit()
    world.see_memory(PLENTY)
    recipe = Recipe("short", b"")
    recipe.learn(SHORT_TASK_S / 10)
    jobs = world.submit_many(4, recipe)
    world.answer(blocker)
    assert world.running() == [jobs[0]]
    assert len(world.waiting_in(world.worker_of(jobs[0]))) == 3
    world.see_memory(LITTLE)
    world.advance(1.0)
    world.answer(jobs[0])
    assert world.running() == []
    assert world.count_queued() == 3
    world.see_memory(PLENTY)
    for job in jobs[1:]:
        world.answer(job)
    assert all(world.endings()[job] == "succeeded" for job in jobs)


def test_a_retry_waits_too(world):
    job = world.submit(retry=Retry.of_attempts(2))
    world.see_memory(PLENTY)
    world.see_memory(LITTLE)
    world.answer(job, fails=True)
    world.advance(5.0)
    assert world.running() == []
    world.see_memory(PLENTY)
    assert world.running() == [job]
    assert job.attempt == 2


def test_a_loop_waits_too(world):
    loop = world.submit(is_loop=True)
    world.see_memory(LITTLE)
    assert world.running() == []
    world.see_memory(PLENTY)
    assert world.running() == [loop]


def test_cancel_deadline_and_close_work_while_nothing_begins(world):
    cancelled, late, left = world.submit(), world.submit(deadline_s=1.0), world.submit()
    world.see_memory(LITTLE)
    assert world.cancel(cancelled)
    world.advance(1.0)
    world.close(timeout_s=2.0)
    assert world.endings() == {cancelled: "cancelled", late: "failed"}
    world.advance(2.0)
    assert world.endings()[left] == "cancelled"
    assert not world.see_memory(LITTLE)
    assert world.has_finished


def test_memory_is_not_looked_at_while_there_are_no_tasks_and_is_for_the_next_one(world):
    job = world.submit()
    world.see_memory(PLENTY)
    world.answer(job)
    assert not world.see_memory(PLENTY)
    other = world.submit()
    assert world.running() == []  # what was seen then is not what is now
    assert len(world.commands(c.WatchMemory)) == 2
    assert world.see_memory(LITTLE)
    world.cancel(other)
    assert not world.see_memory(LITTLE)  # a hold ends when nobody waits
    assert len(world.commands(c.AdmissionHeld)) == len(world.commands(c.AdmissionResumed)) == 1


def test_a_look_at_memory_that_was_impossible_is_asked_for_again(world):
    world.submit()
    world.fail_to_see_memory()
    world.advance(WATCH_AGAIN_S)
    assert len(world.commands(c.WatchMemory)) == 2
