"""Races of two events, such as an answer and a stop, or a verdict and a close."""

from __future__ import annotations

from tenacity import stop_never

from procbackground import Retry
from procbackground._state.fleet import Worker
from procbackground._state.job import Job, Recipe
from tests.unit.model import CANCELLED, World, ending_of, short


def piped(world: World, *recipes: Recipe) -> tuple[Worker, list[Job]]:
    """Return the only worker, at the first of these jobs with the others in its pipe, and the jobs.

    From here on the world moves only as it is told.
    """
    blocker = world.submit("blocker", short())
    jobs = [world.submit(f"job {number}", recipe) for number, recipe in enumerate(recipes, 1)]
    worker = world.worker_of(blocker)
    world.begin(worker)
    world.finish(worker)
    assert [job.worker for job in jobs] == [worker] * len(jobs)
    world.begin(worker)
    world.is_obedient = False
    return worker, jobs


def begun(world: World, job: Job) -> Worker:
    """Have the job begin in a world that moves only as it is told from here on; return its worker."""
    worker = world.worker_of(job)
    world.begin(worker)
    world.is_obedient = False
    return worker


def obey(world: World) -> None:
    world.is_obedient = True
    world.settle_down()


def test_cancel_of_a_job_that_has_answered_spares_the_next():
    world = World(1)
    recipe = short()
    worker, (first, _, _) = piped(world, recipe, recipe, recipe)
    world.finish(worker)  # the answer is in the pipe, unread
    world.begin(worker)
    world.cancel(first)
    world.hear(worker)
    world.advance(0.002)  # the look at the mark
    assert not world.children[worker].is_asked_to_stop


def test_timeout_holds_for_a_job_that_was_sent_behind_one_without():
    world = World(1)
    worker, _ = piped(world, short("free"), short("limited", timeout_s=0.1))
    world.finish(worker)
    world.hear(worker)
    world.begin(worker)
    world.advance(0.2)
    assert world.children[worker].is_asked_to_stop


def test_no_attempt_follows_one_that_fails_while_the_close_stops_it():
    world = World(1)
    job = world.submit("job", Recipe("stubborn", b"", retry=Retry(stop=stop_never)))
    worker = begun(world, job)
    world.close(0.0)
    world.advance(0.0)
    world.finish(worker, fails=True)
    world.hear(worker)
    obey(world)
    world.begin_all()
    assert len(world.begun) == 1
    assert world.has_finished


def test_no_attempt_follows_one_that_timed_out_when_the_close_ran_out_of_time():
    world = World(1)
    job = world.submit("job", Recipe("hanging", b"", timeout_s=1, retry=Retry(stop=stop_never)))
    begun(world, job)
    world.advance(1.1)
    world.close(0.0)
    world.advance(0.0)
    obey(world)
    assert world.begin_all() == []
    assert world.has_finished


def test_job_that_a_close_stops_before_it_began_is_cancelled():
    world = World(1)
    recipe = short(retry=Retry.of_attempts(2))
    blocker = world.submit("blocker", short())
    jobs = [world.submit(f"job {number}", recipe) for number in range(3)]
    worker = begun(world, blocker)
    world.finish(worker)
    world.hear(worker)
    world.close(0.0)
    world.advance(0.0)
    world.begin(worker)  # skips all of them
    world.hear(worker)
    obey(world)
    assert [ending_of(job) for job in jobs] == [CANCELLED] * 3


def test_loop_goes_on_after_an_iteration_that_ended_when_its_timeout_stopped_it():
    world = World(1)
    loop = world.submit("loop", Recipe("loop", b"", is_loop=True, timeout_s=1))
    worker = begun(world, loop)
    world.advance(1.1)
    world.end_loop(worker)  # it looked at `stopping`
    world.hear(worker)
    assert ending_of(loop) is None
    obey(world)
    assert world.failed_iterations["loop"] == 1


def test_loop_ends_at_a_deadline_that_passed_while_the_policy_thought():
    world = World(1)
    loop = world.submit("loop", Recipe("loop", b"", is_loop=True, deadline_s=1))
    worker = begun(world, loop)
    world.fail_iteration(worker)
    world.hear(worker)
    world.advance(1.5)
    obey(world)
    assert ending_of(loop) == "failed"


def a_deadline_in_the_pipe(world: World) -> tuple[Worker, Job]:
    """Return a worker in whose pipe a job waits whose deadline has passed; its verdict is out."""
    worker, (_, late) = piped(world, short(), short("late", deadline_s=0.03))
    world.advance(0.05)
    return worker, late


def test_death_of_the_worker_leaves_a_job_alone_whose_deadline_passed_in_its_pipe():
    world = World(1)
    worker, late = a_deadline_in_the_pipe(world)
    world.die(worker)
    world.bury(worker)
    obey(world)
    assert ending_of(late) == "failed"


def test_answer_of_a_job_whose_deadline_passed_in_the_pipe_is_dropped():
    world = World(1)
    worker, late = a_deadline_in_the_pipe(world)
    world.finish(worker)
    world.begin(worker)
    world.finish(worker)
    world.hear(worker)
    obey(world)
    assert ending_of(late) == "failed"


def test_break_reaches_jobs_that_come_back_later():
    world = World(1, keeps_spare=True)
    recipe = short()
    worker, (_, behind) = piped(world, recipe, recipe)
    (spare,) = set(world.children) - {worker}
    world.fail_initializer(spare)
    world.die(worker)
    world.bury(worker)
    obey(world)
    assert ending_of(behind) == "broke"


def test_break_ends_a_loop_that_waits_for_a_verdict():
    world = World(1)
    worker = begun(world, world.submit("loop", Recipe("loop", b"", is_loop=True)))
    world.fail_iteration(worker)
    world.hear(worker)
    (spare,) = set(world.children) - {worker}
    world.fail_initializer(spare)
    obey(world)
    world.close()
    world.advance(10)
    assert world.has_finished


def test_cancelling_what_is_queued_spares_what_has_run():
    world = World(1)
    job = world.submit("job", Recipe("failing", b""))
    worker = begun(world, job)
    world.finish(worker, fails=True)
    world.hear(worker)
    world.cancel_queued()
    obey(world)
    assert ending_of(job) == "failed"


def test_worker_that_comes_late_takes_what_waits_behind_a_long_task():
    world = World(2, is_obedient=False)
    recipe = short()
    jobs = [world.submit(recipe=recipe) for _ in range(4)]
    world.staff()
    first, second = world.workers()
    world.hello(first)
    world.hear(first)
    world.begin(first)
    world.finish(first)
    world.hear(first)
    world.begin(first)
    assert all(job.worker is first for job in jobs[1:])
    world.hello(second)
    world.hear(second)
    world.advance(0.01)
    assert all(job.worker is second for job in jobs[2:])
