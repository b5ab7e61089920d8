"""The scheduler's decisions on tasks with needs: places, slots and memory; who waits, and for whom others wait."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procbackground._state import commands as c
from procbackground._state import fleet
from procbackground._state.job import Job, Recipe
from procbackground._state.ledger import Kind, Ledger, Needs
from procbackground._state.needy import HOLD_BACK_AFTER_S
from procbackground.retry import Retry
from tests.unit.model import World, ending_of, prompt_world, short, slow_world

GPU = Needs(slots=(("gpu", 1),))
TWO_GPUS = Needs(slots=(("gpu", 2),))


def of_needs(needs: Needs, name: str = "needy", **limits: object) -> Recipe:
    return Recipe(name, b"", needs=needs, **limits)  # type: ignore[arg-type]


def slots_of(world: World, job: Job) -> tuple[int, ...]:
    """Return the numbers of the only slot's name that the job's process has."""
    kind = world.worker_of(job).kind
    assert kind is not None
    ((_, numbers),) = kind.slots
    return numbers


def oldest(jobs: list[Job]) -> Job:
    return min(jobs, key=lambda job: job.number)


@pytest.fixture
def world() -> World:
    return prompt_world(4, slots={"gpu": 2})


# -- places --------------------------------------------------------------------------------------------------


def test_task_of_several_cores_takes_as_many_places(world):
    broad = world.submit(recipe=of_needs(Needs(cores=3)))
    others = world.submit_many(3)
    assert set(world.running()) == {broad, others[0]}
    assert world.active == 4
    world.answer(broad)
    assert set(world.running()) == set(others)
    assert world.active == 3


def test_its_process_has_so_many_threads_and_is_kept_for_the_next(world):
    first = world.submit(recipe=of_needs(Needs(cores=3)))
    worker = world.worker_of(first)
    assert worker.kind == Kind(3, ())
    world.answer(first)
    second = world.submit(recipe=of_needs(Needs(cores=3)))
    assert world.worker_of(second) is worker
    other = world.submit(recipe=of_needs(Needs(cores=1, slots=(("gpu", 1),))))
    assert world.worker_of(other) is not worker


def test_idle_workers_make_place_and_come_back_to_it(world):
    small = world.submit_many(4)
    for job in small:
        world.answer(job)
    idle = set(world.idle())
    broad = world.submit(recipe=of_needs(Needs(cores=4)))
    assert world.running() == [broad]
    assert not world.idle()
    world.answer(broad)
    assert set(world.idle()) == idle
    again = world.submit_many(4)
    assert {world.worker_of(job) for job in again} == idle


def test_small_tasks_pass_for_a_while_and_are_then_held_back(world):
    running = world.submit_many(4)
    broad = world.submit(recipe=of_needs(Needs(cores=4)))
    later = world.submit_many(40)
    passed = 0
    while broad not in world.running() and passed < 40:
        world.answer(oldest(world.running()), after_s=HOLD_BACK_AFTER_S / 5)
        passed += 1
    assert broad in world.running()
    assert 4 < passed <= 5 + 4
    assert not set(world.running()) & set(later)
    world.answer(broad)
    world.run_until_done()
    assert all(ending_of(job) == "succeeded" for job in (*running, broad, *later))


def test_large_task_that_comes_to_the_head_later_is_waited_for_too(world):
    before = world.submit_many(20)
    broad = world.submit(recipe=of_needs(Needs(cores=4)))
    world.submit_many(100)
    for _ in range(60):
        if broad in world.running():
            break
        world.answer(oldest(world.running()), after_s=HOLD_BACK_AFTER_S / 10)
    assert world.running() == [broad]
    assert all(job in world.endings() for job in before)


def test_prefetched_tasks_do_not_keep_a_large_one_out(world):
    first = world.submit(recipe=(recipe := short()))
    world.answer(first)
    world.submit_many(4, recipe)
    broad = world.submit(recipe=of_needs(Needs(cores=4)))
    world.submit_many(2000, recipe)
    world.advance(HOLD_BACK_AFTER_S)
    for _ in range(400):
        running = [job for job in world.running() if job is not broad]
        if broad in world.running():
            break
        world.answer(oldest(running))
    assert broad in world.running()


def test_task_that_was_held_for_and_is_cancelled_lets_the_others_go_on(world):
    world.submit_many(3)
    broad = world.submit(recipe=of_needs(Needs(cores=4)))
    world.advance(HOLD_BACK_AFTER_S)
    later = world.submit()
    assert later not in world.running()
    world.cancel(broad)
    assert later in world.running()


def test_large_task_of_higher_priority_is_waited_for_at_once(world):
    running = world.submit_many(4)
    later = world.submit_many(4)
    broad = world.submit(recipe=of_needs(Needs(cores=2), priority=1))
    world.answer(running[0])
    world.answer(running[1])
    assert broad in world.running()
    assert not set(world.running()) & set(later)


def test_tasks_with_needs_come_in_turn_among_the_others():
    world = prompt_world(1, slots={"gpu": 1})
    before = world.submit_many(3)
    needy = world.submit(recipe=of_needs(GPU))
    after = world.submit_many(3)
    urgent = world.submit(recipe=of_needs(Needs(slots=(("gpu", 1),)), priority=1))
    world.run_until_done()
    begun = world.begun_jobs()
    assert begun.index(urgent) <= 2  # its process was started meanwhile
    assert all(begun.index(job) < begun.index(needy) for job in before)
    assert all(begun.index(needy) < begun.index(job) for job in after)


# -- slots ---------------------------------------------------------------------------------------------------


def test_running_tasks_have_different_slots_and_the_next_waits_for_one(world):
    jobs = world.submit_many(3, of_needs(GPU))
    assert world.running() == jobs[:2]
    assert {slots_of(world, job) for job in jobs[:2]} == {(0,), (1,)}
    worker = world.worker_of(jobs[1])
    world.answer(jobs[1])
    assert world.worker_of(jobs[2]) is worker


def test_process_keeps_its_slots_for_further_tasks(world):
    seen = set()
    for _ in range(5):
        job = world.submit(recipe=of_needs(GPU))
        seen.add(world.worker_of(job))
        world.answer(job)
    assert len(seen) == 1


def test_slots_of_kept_processes_are_taken_back_once_these_have_ended():
    world = slow_world(4, slots={"gpu": 2})
    small = world.submit_many(2, of_needs(GPU))
    for worker in world.workers():
        world.hello(worker)
    for job in small:
        world.answer(job)
    kept = world.workers()
    large = world.submit(recipe=of_needs(TWO_GPUS))
    assert world.commands(c.Dismiss) == [c.Dismiss(worker) for worker in kept]
    assert world.workers() == kept  # nobody is launched who would have the slots of a process that lives
    world.die(kept[0])
    assert world.workers() == [kept[1]]
    world.die(kept[1])
    (worker,) = world.workers()
    world.hello(worker)
    assert world.running() == [large]
    assert slots_of(world, large) == (0, 1)


def test_small_tasks_do_not_starve_one_of_many_slots(world):
    first, second = world.submit_many(2, of_needs(GPU))
    large = world.submit(recipe=of_needs(TWO_GPUS))
    small = world.submit_many(50, of_needs(GPU, "small"))
    world.answer(first)
    assert small[0] in world.running()
    world.advance(HOLD_BACK_AFTER_S)
    world.answer(second)
    world.answer(small[0])
    assert world.running() == [large]
    world.run_until_done()
    assert all(ending_of(job) == "succeeded" for job in small)


def test_task_without_needs_is_not_held_back_for_one_that_waits_for_slots(world):
    world.submit_many(2, of_needs(GPU))
    world.submit(recipe=of_needs(TWO_GPUS))
    world.advance(2 * HOLD_BACK_AFTER_S)
    job = world.submit()
    assert job in world.running()


@pytest.mark.parametrize("how", ["death", "cancel", "timeout", "failure", "retry", "isolate"])
def test_what_was_taken_comes_back_after(how, world):
    needs = Needs(2, 100, (("gpu", 2),))
    limits: dict[str, object] = {"timeout": {"timeout_s": 1.0}, "isolate": {"isolate": True}}.get(how, {})  # type: ignore[assignment]
    if how in ("retry", "death"):
        limits = {"retry": Retry.of_attempts(2)}
    job = world.submit(recipe=of_needs(needs, **limits))
    world.see_memory(1000)
    worker = world.worker_of(job)
    assert world.scheduler.ledger.reserved == 100
    if how == "death":
        world.die(worker)
    elif how == "cancel":
        world.cancel(job)
    elif how == "timeout":
        world.advance(1.0)
    else:
        world.answer(job, fails=how in ("failure", "retry"))
    if how in ("retry", "death"):
        world.see_memory(1000)
        assert world.worker_of(job) is not worker  # each retry runs in a fresh process
        world.answer(job)
    assert ending_of(job) is not None
    world.check()
    assert world.active == world.scheduler.ledger.reserved == 0
    assert not any(worker.state == fleet.BUSY for worker in world.workers())
    other = world.submit(recipe=of_needs(needs))
    world.see_memory(1000)
    assert other in world.running()


def test_worker_whose_launch_fails_returns_its_slots(world):
    world.launches_fail = True
    job = world.submit(recipe=of_needs(TWO_GPUS))
    assert world.scheduler.ledger.taken_slots() == {"gpu": set()}
    world.launches_fail = False
    world.advance(3.0)
    assert world.running() == [job]


def test_close_ends_processes_that_are_kept(world):
    job = world.submit(recipe=of_needs(GPU))
    world.answer(job)
    world.answer(world.submit(recipe=of_needs(Needs(cores=2))))
    world.close()
    assert world.has_finished
    assert world.scheduler.ledger.taken_slots() == {"gpu": set()}


def test_processes_that_are_kept_are_bounded():
    world = prompt_world(2, slots={"gpu": 8})
    for count in range(1, 9):
        world.answer(world.submit(recipe=of_needs(Needs(slots=(("gpu", count),)))))
        assert len(world.workers()) <= 2


# -- memory --------------------------------------------------------------------------------------------------


def test_task_begins_when_its_memory_is_free(world):
    job = world.submit(recipe=of_needs(Needs(memory=500)))
    assert len(world.commands(c.WatchMemory)) == 1
    assert not world.running()
    assert world.see_memory(400)
    assert not world.running()
    world.see_memory(500)
    assert world.running() == [job]
    assert not world.see_memory(0)  # nobody waits for memory


def test_memory_that_is_reserved_is_not_given_twice_and_what_is_held_counts_once(world):
    recipe = of_needs(Needs(memory=400))
    jobs = world.submit_many(3, recipe)
    world.see_memory(1000)
    assert set(world.running()) == set(jobs[:2])
    first, second = (world.worker_of(job) for job in jobs[:2])
    world.see_memory(1000)
    assert set(world.running()) == set(jobs[:2])
    # They hold all that they reserved, so what is free is free.
    world.see_memory(399, {first: 400, second: 400})
    assert set(world.running()) == set(jobs[:2])
    world.see_memory(400, {first: 400, second: 700})
    assert set(world.running()) == set(jobs)


def test_memory_of_a_task_that_ended_is_given_to_the_next(world):
    first, second = world.submit_many(2, of_needs(Needs(memory=600)))
    world.see_memory(1000)
    world.answer(first)
    assert second not in world.running()
    world.see_memory(1000)
    assert world.running() == [second]


def test_small_reservations_do_not_starve_a_large_one(world):
    world.submit_many(2, of_needs(Needs(memory=300)))
    world.see_memory(1000)
    large = world.submit(recipe=of_needs(Needs(memory=900)))
    later = world.submit_many(20, of_needs(Needs(memory=300), "later"))
    passed = 0
    while large not in world.running() and passed < 20:
        world.see_memory(1000)
        world.answer(oldest(world.running()), after_s=HOLD_BACK_AFTER_S / 4)
        world.see_memory(1000)
        passed += 1
    assert world.running() == [large]
    assert 4 <= passed <= 4 + 4
    world.answer(large)
    assert ending_of(later[-1]) is None


def test_task_that_lacks_what_other_programs_hold_does_not_hold_back_small_ones(world):
    large = world.submit(recipe=of_needs(Needs(memory=900)))
    small = world.submit_many(6, of_needs(Needs(memory=300), "small"))
    for _ in range(6):
        world.advance(2 * HOLD_BACK_AFTER_S)
        world.see_memory(500)
        assert large not in world.running()
        world.answer(world.running()[0])
    assert all(ending_of(job) == "succeeded" for job in small)
    world.see_memory(900)
    assert world.running() == [large]


def test_idle_workers_leave_for_a_reservation_that_does_not_fit(world):
    world.answer(world.submit())
    (worker,) = world.idle()
    job = world.submit(recipe=of_needs(Needs(memory=900)))
    for _ in range(10):
        world.see_memory(800)
    assert worker not in world.workers()
    assert len(world.commands(c.Launch)) <= 2  # one that has run nothing may stay
    world.see_memory(900)
    assert world.running() == [job]


def test_task_that_only_needs_memory_runs_in_a_worker_of_the_pool(world):
    world.answer(world.submit())
    (worker,) = world.idle()
    job = world.submit(recipe=of_needs(Needs(memory=10)))
    world.see_memory(1000)
    assert world.worker_of(job) is worker
    world.answer(job)
    assert world.idle() == [worker]


def test_jobs_with_needs_wait_for_free_memory_as_others_do():
    world = prompt_world(2, min_free_bytes=1000, slots={"gpu": 1})
    job = world.submit(recipe=of_needs(GPU))
    world.see_memory(500)
    assert not world.running()
    world.see_memory(1000)
    assert world.running() == [job]


# -- all together --------------------------------------------------------------------------------------------

NEEDS = [
    None, Needs(cores=2), Needs(cores=3), GPU, TWO_GPUS, Needs(memory=700), Needs(2, 400, (("gpu", 1),)),
]  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(
    kinds=st.lists(st.tuples(st.sampled_from(NEEDS), st.integers(0, 1), st.booleans()), max_size=30),
    fails=st.lists(st.booleans(), max_size=10),
)
def test_all_come_to_their_end_whatever_they_need(kinds, fails):
    world = prompt_world(3, slots={"gpu": 2})
    jobs = [
        world.submit(recipe=Recipe("job", b"", needs=needs, priority=priority, isolate=isolate))
        for needs, priority, isolate in kinds
    ]
    outcomes = list(fails)
    for _ in range(1000):
        world.check()
        if world.wants_memory:
            world.see_memory(1000)
        running = world.running()
        if not running:
            break
        assert sum(job.recipe.needs.cores if job.recipe.needs else 1 for job in running) <= 3
        assert sum(job.recipe.needs.memory for job in running if job.recipe.needs) <= 1000
        world.answer(running[0], fails=bool(outcomes and outcomes.pop()), after_s=0.3)
    assert all(ending_of(job) is not None for job in jobs)
    world.close()
    assert world.has_finished


def test_ledger_gives_the_lowest_numbers_that_are_free():
    ledger = Ledger({"gpu": 3, "disk": 1})
    kind = ledger.kind_for(Needs(slots=(("disk", 1), ("gpu", 2))))
    assert kind == Kind(0, (("disk", (0,)), ("gpu", (0, 1))))
    ledger.take_slots(kind)
    assert ledger.kind_for(Needs(slots=(("disk", 1),))) is None
    assert ledger.kind_for(GPU) == Kind(0, (("gpu", (2,)),))
    ledger.return_slots(kind)
    assert ledger.taken_slots() == {"gpu": set(), "disk": set()}


def test_stopped_process_keeps_what_its_task_took_until_it_has_ended():
    world = World(4, slots={"gpu": 2}, is_obedient=False)
    broad = world.submit(recipe=of_needs(Needs(cores=4)))
    world.tick()
    (worker,) = world.workers()
    world.hello(worker)
    world.hear(worker)
    world.begin(worker)
    world.close(0.0)
    world.tick()
    assert world.state_of(worker) == fleet.STOPPING
    world.finish(worker)  # it answers amid its stop
    world.hear(worker)
    assert ending_of(broad) == "succeeded"
    world.check()
    assert world.active == 4
    world.die(worker)
    world.bury(worker)
    assert world.active == 0
    assert world.has_finished
