"""Workers that fail before their first task: how long the manager waits for them, and when it gives up."""

from __future__ import annotations

import pytest

from procbackground._state import commands as c
from procbackground._state import launches, stops
from procbackground.retry import Retry
from tests.unit.model import BROKE, World, ending_of, prompt_world, slow_world

START_S = 10.0


def starting_world(**options: object) -> World:
    return slow_world(**{"max_workers": 1, "start_timeout_s": START_S, **options})


def test_start_that_hangs_is_asked_for_its_stack_and_breaks_the_manager():
    world = starting_world()
    job = world.submit()
    (worker,) = world.workers()
    world.advance(START_S)
    assert world.commands(c.Terminate) == [c.Terminate(worker, True)]
    world.advance(stops.STACK_WAIT_S)
    assert world.commands(c.Kill) == [c.Kill(worker)]
    assert not world.endings()
    world.die(worker)
    assert world.endings() == {job: BROKE}
    assert world.commands(c.Refuse)
    assert not world.workers()


def test_start_that_hangs_once_others_were_ready_is_tried_again():
    world = starting_world(max_workers=2)
    jobs = world.submit_many(2)
    ready, late = world.workers()
    world.hello(ready)
    world.advance(START_S)
    world.die(late)
    (again,) = (worker for worker in world.workers() if worker is not ready)
    world.hello(again)
    assert sorted(world.running(), key=lambda job: job.number) == jobs


def test_starts_that_hang_three_times_in_a_row_break_a_manager_that_worked():
    world = starting_world()
    first = world.submit()
    world.hello(world.workers()[0])
    world.answer(first)
    world.die(world.idle()[0])
    job = world.submit()
    for _ in range(launches.DEATHS_TO_BREAK):
        assert job not in world.endings()
        (worker,) = world.workers()
        world.advance(START_S)
        world.die(worker)
    assert world.endings()[job] == BROKE


def test_worker_that_is_ready_in_time_is_left_alone_for_good():
    world = starting_world()
    job = world.submit()
    (worker,) = world.workers()
    world.advance(START_S / 2)
    world.hello(worker)
    world.advance(100 * START_S)
    assert world.running() == [job]
    assert not world.commands(c.Terminate)


def test_no_timer_is_left_once_all_workers_are_ready():
    world = starting_world(max_workers=2)
    jobs = world.submit_many(2)
    for worker in world.workers():
        world.hello(worker)
    for job in jobs:
        world.answer(job)
    assert not list(world.scheduler.timers)


def test_launches_without_end_leave_one_timer_behind():
    world = prompt_world(start_timeout_s=START_S)
    for _ in range(1000):
        world.answer(world.submit(isolate=True))
    assert world.timers() < 1000 * 2 + 10  # the kill of each that left, and hardly more
    assert world.launches_kept() < 10


def test_launches_without_end_are_forgotten_after_one_that_failed():
    """Also without a `start_timeout`, which would look at them now and then."""
    world = prompt_world()
    world.launches_fail = True
    first = world.submit()
    world.launches_fail = False
    world.advance(launches.MAX_LAUNCH_RETRY_S)
    world.answer(first)
    for _ in range(100):
        world.answer(world.submit(isolate=True))
    assert world.launches_kept() < 10


def test_tasks_that_come_while_no_process_can_be_had_add_no_timers():
    world = prompt_world()
    world.launches_fail = True
    jobs = world.submit_many(1000)
    assert world.timers() < 10
    world.launches_fail = False
    world.advance(launches.MAX_LAUNCH_RETRY_S)
    world.run_until_done()
    assert all(ending_of(job) == "succeeded" for job in jobs)


def test_workers_that_die_before_their_first_task_slow_the_manager_and_break_it():
    world = slow_world(1)
    world.begins_at_once = False
    job = world.submit()
    for count in range(1, launches.IDLE_DEATHS_TO_BREAK + 1):
        assert job not in world.endings()
        (worker,) = world.workers()
        world.hello(worker)
        world.die(worker)
        assert bool(world.workers()) == (count == 1)  # one may be bad luck; then there are pauses
        world.advance(launches.MAX_IDLE_DEATH_PAUSE_S)
    assert world.endings() == {job: BROKE}
    assert not world.workers()


def test_starting_workers_that_are_killed_slow_a_manager_that_has_worked_and_never_break_it():
    world = slow_world(1)
    first = world.submit()
    world.hello(world.workers()[0])
    world.answer(first)
    world.die(world.idle()[0])
    job = world.submit()
    pauses = 0
    for _ in range(10 * launches.DEATHS_TO_BREAK):
        (worker,) = world.workers()
        world.die(worker)
        pauses += not world.workers()
        world.advance(launches.MAX_IDLE_DEATH_PAUSE_S)
    assert pauses == 10 * launches.DEATHS_TO_BREAK
    world.hello(world.workers()[0])
    assert world.running() == [job]


def test_starting_workers_that_end_by_themselves_break_a_manager_that_has_worked():
    world = slow_world(1)
    first = world.submit()
    world.hello(world.workers()[0])
    world.answer(first)
    world.die(world.idle()[0])
    job = world.submit()
    for _ in range(launches.DEATHS_TO_BREAK):
        assert job not in world.endings()
        (worker,) = world.workers()
        world.die(worker, exit_code=1)
        world.advance(launches.MAX_IDLE_DEATH_PAUSE_S)
    assert world.endings()[job] == BROKE


@pytest.mark.parametrize("has_worked", [False, True])
@pytest.mark.parametrize("kind", [launches.SHORTAGE, launches.LOST, launches.KILLED, launches.FINAL])
def test_starts_that_fail_are_tried_again_as_long_as_that_may_help(kind, has_worked):
    world = slow_world(1)
    if has_worked:
        first = world.submit()
        world.hello(world.workers()[0])
        world.answer(first)
        world.die(world.idle()[0])
    job = world.submit()
    tries = 0
    while job not in world.endings() and tries < 100:
        (worker,) = world.workers()
        world.fail_launch(worker, kind=kind, why=OSError())
        world.advance(launches.MAX_LAUNCH_RETRY_S)
        tries += 1
    limits = {launches.FINAL: 1, launches.LOST: launches.LOSSES_TO_BREAK, launches.SHORTAGE: 100}
    if not has_worked:
        limits[launches.KILLED] = launches.LOSSES_TO_BREAK
    assert tries == limits.get(kind, 100)


def test_worker_whose_process_comes_too_late_is_stopped():
    world = starting_world()
    world.submit()
    (worker,) = world.workers()
    worker.pid = 0  # as long as it is being started
    world.advance(START_S)
    assert not world.commands(c.Terminate)
    worker.pid = 1
    world.scheduler.process_came(worker, world.now_s)
    world.advance(0)
    assert world.commands(c.Terminate) == [c.Terminate(worker, True)]


def test_deaths_of_spares_break_nothing_while_tasks_settle():
    world = prompt_world(1)
    world.answer(world.submit(retry=Retry.of_attempts(2)))
    for _ in range(3 * launches.IDLE_DEATHS_TO_BREAK):
        (spare,) = world.spares()
        world.die(spare)
        world.answer(world.submit())
        world.advance(launches.MAX_IDLE_DEATH_PAUSE_S)
    assert not world.is_broken


def test_deaths_of_spares_that_lived_for_long_break_nothing():
    world = prompt_world(1)
    world.answer(world.submit(retry=Retry.of_attempts(2)))
    for _ in range(3 * launches.IDLE_DEATHS_TO_BREAK):
        (spare,) = world.spares()
        world.advance(2 * launches.QUICK_DEATH_S)
        world.die(spare)
    assert not world.is_broken


def test_job_that_comes_in_amid_the_break_fails_too():
    world = starting_world()
    world.submit()
    (worker,) = world.workers()
    world.fail_initializer(worker)
    late = world.submit()  # before the supervisor refuses it
    world.die(worker)
    assert world.endings()[late] == BROKE
