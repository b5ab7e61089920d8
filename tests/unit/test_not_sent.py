"""Requests that could not be sent, for want of descriptors for their arguments, go elsewhere; nobody dies of it."""

from __future__ import annotations

from procbackground._state.arrivals import SENDS_TO_FAIL
from procbackground._state.job import SETTLED, Job
from tests.unit.model import World, ending_of, prompt_world, short


def fail_to_send(world: World, job: Job) -> bool:
    """Do what the supervisor does when a request cannot be sent; return whether the job goes on."""
    worker = job.worker
    assert worker is not None
    child = world.children[worker]
    child.requests = type(child.requests)(each for each in child.requests if each[2].sequence < job.sequence)
    child.highest = job.sequence - 1
    if child.running is not None and child.running[1] is job:  # the model begins what the pipe never held
        child.running = None
        child.started = job.sequence - 1
        world.begun.pop()
    goes_on = world.scheduler.not_sent(worker, job, world.now_s)
    if not goes_on:
        world.scheduler.settled(failed=1)
        job.handle.ending = "failed"  # type: ignore[attr-defined]
    world.staff()
    return goes_on


def send_together(world: World, count: int) -> list[Job]:
    """Have the one worker of this world run a job, with the others behind it in its pipe; return them."""
    first, *jobs = world.submit_many(1 + count, short())
    world.answer(first)
    assert world.in_flight(world.worker_of(jobs[0])) == jobs
    return jobs


def test_the_task_that_runs_is_neither_stopped_nor_charged():
    world = prompt_world(max_workers=1)
    running, *behind = send_together(world, 3)
    worker = world.worker_of(running)
    assert world.in_flight(worker) == [running, *behind]
    assert fail_to_send(world, behind[0])
    assert world.running_in(worker) is running
    assert world.in_flight(worker) == [running]
    assert running.history is None
    world.check()
    world.answer(running)
    assert ending_of(running) == "succeeded"
    world.run_until_done()
    assert {ending_of(job) for job in world.jobs} == {"succeeded"}
    assert all(job.attempt == 1 for job in world.jobs)
    assert world.count("retried") == world.count("respawned") == 0
    world.check()


def test_the_worker_takes_nothing_more_and_leaves_after_what_it_runs():
    world = prompt_world(max_workers=1)
    running, behind = send_together(world, 2)
    worker = world.worker_of(running)
    fail_to_send(world, behind)
    world.answer(running)
    assert worker not in world.workers()
    assert world.worker_of(behind) is not worker


def test_those_behind_the_one_that_failed_go_elsewhere_in_their_order_and_are_not_charged():
    world = prompt_world(max_workers=1)
    running, *behind = send_together(world, 5)
    fail_to_send(world, behind[1])
    assert list(world.scheduler.queue) == behind[1:]
    assert [job.history is not None for job in behind] == [False, True, False, False]
    world.run_until_done()
    assert world.begun_jobs()[1:] == [running, *behind]
    assert all(ending_of(job) == "succeeded" for job in world.jobs)


def test_a_job_ends_when_it_could_not_be_sent_to_so_many_workers():
    world = prompt_world(max_workers=1)
    job = world.submit()
    workers = set()
    for number in range(1, SENDS_TO_FAIL + 1):
        workers.add(world.worker_of(job))
        goes_on = fail_to_send(world, job)
        assert goes_on == (number < SENDS_TO_FAIL)
        world.check()
    assert len(workers) == SENDS_TO_FAIL
    assert job.state == SETTLED
    assert job.attempt == 1
    assert not job.attempts()
    later = world.submit()
    world.run_until_done()
    assert ending_of(later) == "succeeded"
    world.check()


def test_the_end_of_one_costs_none_of_those_behind_it():
    world = prompt_world(max_workers=1)
    bad = world.submit()
    for _ in range(SENDS_TO_FAIL - 1):
        fail_to_send(world, bad)
    others = world.submit_many(3, short())
    assert not fail_to_send(world, bad)
    world.run_until_done()
    assert [ending_of(job) for job in others] == ["succeeded"] * 3
    world.check()


def test_a_job_cancelled_behind_the_one_that_failed_stays_cancelled():
    world = prompt_world(max_workers=1)
    running, bad, cancelled, last = send_together(world, 4)
    assert world.cancel(cancelled)
    fail_to_send(world, bad)
    world.check()
    world.run_until_done()
    assert ending_of(cancelled) == "cancelled"
    assert [ending_of(job) for job in (running, bad, last)] == ["succeeded"] * 3
    assert cancelled not in world.begun_jobs()
    world.check()
