"""New attempts wait while memory is short: decided event by event."""

from __future__ import annotations

import pytest

from procbackground._state import scheduler as s
from procbackground._state.admission import LOOK_AGAIN_S, AdmittingScheduler
from procbackground._state.job import SHORT_TASK_S, Recipe
from procbackground.retry import Retry
from tests.unit.world import World

PLENTY, LITTLE, MINIMUM = 2000, 500, 1000


@pytest.fixture
def world() -> World:
    world = World()
    world.scheduler = AdmittingScheduler(min_free_bytes=MINIMUM, max_workers=2, wall=lambda at_s: at_s)
    return world


def see(world: World, free_bytes: int) -> bool:
    assert isinstance(world.scheduler, AdmittingScheduler)
    goes_on = world.scheduler.memory_seen(free_bytes, world.now_s)
    world.obey()
    return goes_on


def test_nothing_begins_before_the_memory_is_known(world):
    job = world.add()
    assert len(world.seen(s.LookAtMemory)) == 1
    assert not world.children
    assert see(world, PLENTY)
    assert world.running() == [job]
    assert not world.seen(s.AdmissionHeld)


def test_attempts_wait_while_memory_is_short_and_begin_when_it_is_not(world):
    jobs = [world.add() for _ in range(3)]
    assert see(world, LITTLE)
    assert see(world, LITTLE)
    assert not world.children
    assert world.seen(s.AdmissionHeld) == [s.AdmissionHeld(LITTLE)]
    world.advance(3.0)
    assert see(world, MINIMUM)
    assert world.running() == jobs[:2]
    assert world.seen(s.AdmissionResumed) == [s.AdmissionResumed(MINIMUM, 3.0)]


def test_what_runs_goes_on_and_the_next_waits(world):
    first, second, third = (world.add() for _ in range(3))
    see(world, PLENTY)
    see(world, LITTLE)
    world.answer(first)
    world.answer(second)
    assert world.ended == {first: "succeeded", second: "succeeded"}
    assert world.running() == []
    fourth = world.add()  # though workers are idle
    assert world.running() == []
    see(world, PLENTY)
    assert set(world.running()) == {third, fourth}


def test_what_waits_in_a_pipe_is_fetched_back(world):
    world.scheduler.max_workers = 1
    blocker = world.add()
    see(world, PLENTY)
    recipe = Recipe("short", b"")
    recipe.learn(SHORT_TASK_S / 10)
    jobs = world.add_many(4, recipe)
    world.answer(blocker)
    assert world.running() == [jobs[0]]
    assert len(world.children[world.worker_of(jobs[0])].requests) == 3
    see(world, LITTLE)
    world.advance(1.0)
    world.answer(jobs[0])
    assert world.running() == []
    assert world.scheduler.count_queued() == 3
    see(world, PLENTY)
    for job in jobs[1:]:
        world.answer(job)
    assert all(world.ended[job] == "succeeded" for job in jobs)


def test_a_retry_waits_too(world):
    job = world.add(retry=Retry.of_attempts(2))
    see(world, PLENTY)
    see(world, LITTLE)
    world.answer(job, is_failure=True)
    world.advance(5.0)
    assert world.running() == []
    see(world, PLENTY)
    assert world.running() == [job]
    assert job.attempt == 2


def test_a_loop_waits_too(world):
    loop = world.add(is_loop=True)
    see(world, LITTLE)
    assert world.running() == []
    see(world, PLENTY)
    assert world.running() == [loop]


def test_cancel_deadline_and_close_work_while_nothing_begins(world):
    cancelled, late, left = world.add(), world.add(deadline_s=1.0), world.add()
    see(world, LITTLE)
    assert world.cancel(cancelled)
    world.advance(1.0)
    world.close(timeout_s=2.0)
    assert world.ended == {cancelled: "cancelled", late: "failed"}
    world.advance(2.0)
    assert world.ended[left] == "cancelled"
    assert not see(world, LITTLE)
    assert world.scheduler.has_finished


def test_nobody_looks_while_nothing_is_to_be_done_and_the_next_task_asks_again(world):
    job = world.add()
    see(world, PLENTY)
    world.answer(job)
    assert not see(world, PLENTY)
    other = world.add()
    assert world.running() == []  # what was seen then is not what is now
    assert len(world.seen(s.LookAtMemory)) == 2
    assert see(world, LITTLE)
    world.cancel(other)
    assert not see(world, LITTLE)  # a hold ends when nobody waits
    assert len(world.seen(s.AdmissionHeld)) == len(world.seen(s.AdmissionResumed)) == 1


def test_when_nobody_can_look_somebody_is_asked_again(world):
    world.add()
    assert isinstance(world.scheduler, AdmittingScheduler)
    world.scheduler.memory_not_seen(world.now_s)
    world.advance(LOOK_AGAIN_S)
    assert len(world.seen(s.LookAtMemory)) == 2
