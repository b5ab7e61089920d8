"""The scheduler's decisions while memory is short: no attempt begins."""

from __future__ import annotations

import pytest

from procbackground._state import commands as c
from procbackground._state.gate import WATCH_AGAIN_S
from procbackground._state.job import SHORT_TASK_S, Recipe
from procbackground._state.ledger import Needs
from procbackground.retry import Retry
from tests.unit.model import World, ending_of, prompt_world, why

PLENTY, LITTLE, MINIMUM = 2000, 500, 1000


PATIENCE_S = 60.0


@pytest.fixture
def world() -> World:
    return prompt_world(min_free_bytes=MINIMUM, memory_patience_s=PATIENCE_S)


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


# -- nothing waits for ever ----------------------------------------------------------------------------------


def test_jobs_fail_when_memory_is_short_for_long_and_none_of_ours_runs(world):
    early = world.submit()
    world.see_memory(LITTLE)
    world.see_memory(LITTLE)
    world.advance(PATIENCE_S / 2)
    late = world.submit()
    world.see_memory(LITTLE)
    world.advance(PATIENCE_S / 2)
    world.see_memory(LITTLE)
    assert world.endings() == {early: "failed"}
    assert why(early) == "starved"
    world.advance(PATIENCE_S / 2)
    world.see_memory(LITTLE)
    assert world.endings()[late] == "failed"
    assert not world.workers()


def test_jobs_of_every_queue_fail_then(world):
    jobs = [
        world.submit(), world.submit(isolate=True), world.submit(needs=Needs(cores=2)), world.submit(is_loop=True),
    ]  # fmt: skip
    world.see_memory(LITTLE)
    world.see_memory(LITTLE)
    world.advance(PATIENCE_S)
    world.see_memory(LITTLE)
    assert [ending_of(job) for job in jobs] == ["failed"] * 4
    world.check()


def test_jobs_wait_on_while_one_of_ours_runs(world):
    running, waiting = world.submit(), None
    world.see_memory(PLENTY)
    waiting = world.submit()
    world.see_memory(LITTLE)
    for _ in range(10):
        world.advance(PATIENCE_S)
        world.see_memory(LITTLE)
    world.answer(running)
    world.see_memory(LITTLE)
    world.advance(PATIENCE_S - 1)
    world.see_memory(LITTLE)
    world.see_memory(PLENTY)
    assert ending_of(waiting) is None
    assert waiting in world.running()


def test_idle_workers_leave_when_memory_is_short_and_none_runs(world):
    first, second, third = (world.submit() for _ in range(3))
    world.see_memory(PLENTY)
    world.see_memory(LITTLE)
    world.answer(first)
    world.see_memory(LITTLE)
    assert len(world.workers()) == 2
    world.answer(second)
    world.see_memory(LITTLE)
    assert not world.workers()  # they have left, with what they held
    world.see_memory(PLENTY)
    assert world.running() == [third]


@pytest.mark.parametrize("how", ["plain", "isolate", "needs"])
def test_one_at_a_time_runs_when_the_queue_itself_is_what_is_missing(world, how):
    limits = {"plain": {}, "isolate": {"isolate": True}, "needs": {"needs": Needs(cores=2)}}[how]
    jobs = [world.submit(payload=bytes(300), **limits) for _ in range(4)]
    free = MINIMUM - 1200
    for number, job in enumerate(jobs):
        for _ in range(4):
            world.see_memory(free)
        assert world.running() == [job], number
        world.answer(job)
        free += 300
        world.check()
    assert all(ending_of(job) == "succeeded" for job in jobs)


def test_a_reservation_is_not_kept_out_by_what_the_queue_holds():
    world = prompt_world(2)
    jobs = [world.submit(payload=bytes(300), needs=Needs(memory=900)) for _ in range(2)]
    world.see_memory(300)
    assert world.running() == [jobs[0]]
    world.see_memory(300)
    assert world.running() == [jobs[0]]
