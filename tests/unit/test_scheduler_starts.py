"""Workers that never get as far as a first task: how long they are waited for, and when the manager gives up."""

from __future__ import annotations

from procbackground._state import scheduler as s
from procbackground.retry import Retry
from tests.unit.world import World

START_S = 10.0


def starting_world(**options: object) -> World:
    return World(is_prompt=False, **{"max_workers": 1, "start_timeout_s": START_S, **options})


def test_start_that_hangs_is_asked_for_its_stack_and_breaks_the_manager():
    world = starting_world()
    job = world.add()
    (worker,) = world.children
    world.advance(START_S)
    assert world.seen(s.Terminate) == [s.Terminate(worker, True)]
    world.advance(s.STACK_WAIT_S)
    assert world.seen(s.Kill) == [s.Kill(worker)]
    assert not world.ended
    world.die(worker)
    assert world.ended == {job: "failed"}
    assert world.seen(s.Refuse)
    assert not world.children


def test_start_that_hangs_once_others_were_ready_is_tried_again():
    world = starting_world(max_workers=2)
    jobs = world.add_many(2)
    ready, late = list(world.children)
    world.say_hello(ready)
    world.advance(START_S)
    world.die(late)
    (again,) = (worker for worker in world.children if worker is not ready)
    world.say_hello(again)
    assert sorted(world.running(), key=lambda job: job.number) == jobs


def test_starts_that_hang_three_times_in_a_row_break_a_manager_that_worked():
    world = starting_world()
    first = world.add()
    world.say_hello(next(iter(world.children)))
    world.answer(first)
    world.die(world.scheduler.idle[0])
    job = world.add()
    for _ in range(s.DEATHS_TO_BREAK):
        assert job not in world.ended
        (worker,) = world.children
        world.advance(START_S)
        world.die(worker)
    assert world.ended[job] == "failed"


def test_worker_that_is_ready_in_time_is_left_alone_for_good():
    world = starting_world()
    job = world.add()
    (worker,) = world.children
    world.advance(START_S / 2)
    world.say_hello(worker)
    world.advance(100 * START_S)
    assert world.running() == [job]
    assert not world.seen(s.Terminate)


def test_launches_without_end_leave_one_timer_behind():
    world = World(start_timeout_s=START_S)
    for _ in range(1000):
        world.answer(world.add(isolate=True))
    assert len(world.scheduler._timers) < 1000 * 2 + 10  # the kill of each that left, and hardly more
    assert len(world.scheduler._launched) < 10


def test_workers_that_die_before_their_first_task_slow_the_manager_and_break_it():
    world = World(is_prompt=False, max_workers=1)
    job = world.add()
    for count in range(1, s.IDLE_DEATHS_TO_BREAK + 1):
        assert job not in world.ended
        (worker,) = world.children
        world.say_hello(worker)
        world.children[worker].started = 0
        world.die(worker)
        assert bool(world.children) == (count == 1)  # one may be bad luck; then there are pauses
        world.advance(s.MAX_IDLE_DEATH_PAUSE_S)
    assert world.ended == {job: "failed"}
    assert not world.children


def test_deaths_of_spares_break_nothing_while_tasks_settle():
    world = World(max_workers=1)
    world.answer(world.add(retry=Retry.of_attempts(2)))
    for _ in range(3 * s.IDLE_DEATHS_TO_BREAK):
        (spare,) = world.scheduler.spares
        world.die(spare)
        world.answer(world.add())
        world.advance(s.MAX_IDLE_DEATH_PAUSE_S)
    assert world.scheduler.broken_by is None


def test_deaths_of_spares_that_lived_for_long_break_nothing():
    world = World(max_workers=1)
    world.answer(world.add(retry=Retry.of_attempts(2)))
    for _ in range(3 * s.IDLE_DEATHS_TO_BREAK):
        (spare,) = world.scheduler.spares
        world.advance(2 * s.QUICK_DEATH_S)
        world.die(spare)
    assert world.scheduler.broken_by is None


def test_job_that_comes_in_amid_the_break_fails_too():
    world = starting_world()
    world.add()
    (worker,) = world.children
    world.scheduler.initializer_failed(worker, b"", world.now_s)
    world.obey()
    late = world.add()  # before the supervisor refuses it
    world.die(worker)
    assert world.ended[late] == "failed"
