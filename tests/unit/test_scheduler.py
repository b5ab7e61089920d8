"""The scheduler's decisions, one event at a time, with a clock set by the test."""

from __future__ import annotations

import pytest
from tenacity import stop_after_attempt, wait_fixed

from procbackground._state import commands as c
from procbackground._state import launches, loops, pipeline, staffing
from procbackground._state.fleet import Worker
from procbackground._state.job import (
    LOOK_AFTER_S,
    MAX_PREFETCH_DEPTH,
    PREFETCH_DEPTH,
    PREFETCHED_S,
    SHORT_TASK_S,
    Job,
    Recipe,
)
from procbackground.retry import Retry
from procbackground.task import NO_LIMIT
from tests.unit.model import BROKE, World, ending_of, prompt_world, short, slow_world


def with_prefetch(world: World, count: int) -> list[Job]:
    """Have the only worker run the first of `count` short jobs with the others in its pipe behind it."""
    blocker = world.submit()
    jobs = world.submit_many(count, short())
    world.answer(blocker)
    assert world.running() == [jobs[0]]
    return jobs


def frozen_with(world: World, count: int) -> tuple[Worker, list[Job]]:
    """Have the only worker, which begins none of them, hold `count` short jobs in its pipe; return both."""
    blocker = world.submit()
    worker = world.worker_of(blocker)
    jobs = world.submit_many(count, short())
    world.freeze(worker)
    world.answer(blocker)
    assert world.running() == []
    assert world.waiting_in(worker) == jobs
    return worker, jobs


def retry_after(delay_s: float, attempts: int) -> Retry:
    return Retry(stop=stop_after_attempt(attempts), wait=wait_fixed(delay_s))


def sent_ahead(world: World) -> list[Job]:
    return [job for worker in world.workers() for job in world.waiting_in(worker)]


def test_job_that_succeeds_runs_once_and_leaves_an_idle_worker():
    world = prompt_world()
    job = world.submit()
    assert world.running() == [job]
    world.answer(job)
    assert world.endings() == {job: "succeeded"}
    assert len(world.idle()) == 1


def test_idle_worker_gets_the_next_job_without_a_command():
    world = prompt_world()
    world.answer(world.submit())
    before = len(world.log)
    job = world.submit()
    assert world.running() == [job]
    assert len(world.log) == before


def test_never_more_workers_than_allowed_run_one_offs():
    world = prompt_world(3)
    jobs = world.submit_many(10)
    assert world.running() == jobs[:3]
    while world.running():
        world.answer(world.running()[0], after_s=1)
    assert world.most_active == 3
    assert world.begun_jobs() == jobs


def test_higher_priority_goes_first_and_equals_in_the_order_they_came():
    world = prompt_world(1)
    first = world.submit()
    low, high, middle = world.submit(priority=-1), world.submit(priority=5), world.submit()
    high_too, middle_too = world.submit(priority=5), world.submit()
    while world.running():
        world.answer(world.running()[0], after_s=1)
    assert world.begun_jobs() == [first, high, high_too, middle, middle_too, low]


def test_failure_without_a_policy_ends_the_job_and_not_its_worker():
    world = prompt_world(1)
    job, other = world.submit_many(2)
    worker = world.worker_of(job)
    world.answer(job, fails=True)
    assert world.endings() == {job: "failed"}
    assert world.worker_of(other) is worker


def test_retry_goes_to_a_worker_that_has_run_nothing():
    world = prompt_world(1)
    job = world.submit(retry=Retry.of_attempts(3))
    used = [world.worker_of(job)]
    for _ in range(2):
        world.answer(job, fails=True)
        used.append(world.worker_of(job))
        assert world.begun_in(used[-1]) == [job]
    world.answer(job, fails=True)
    assert world.endings() == {job: "failed"}
    assert len(set(used)) == 3
    assert world.most_active == 1
    assert world.count("retried") == 2


def test_retry_waits_for_its_delay_and_holds_no_worker_meanwhile():
    world = prompt_world(1)
    job = world.submit(retry=retry_after(10, attempts=2))
    world.answer(job, fails=True)
    assert world.running() == []
    other = world.submit()
    assert world.running() == [other]
    world.answer(other)
    world.advance(9.9)
    assert world.running() == []
    world.advance(0.2)
    assert world.running() == [job]


def test_retry_goes_before_what_came_later():
    world = prompt_world(1)
    job = world.submit(retry=Retry.of_attempts(2))
    later = world.submit_many(3)
    world.answer(job, fails=True)
    # The worker took the next one while the policy was asked; then it is the retry's turn.
    assert world.running() == [later[0]]
    world.answer(later[0])
    assert world.running() == [job]


def test_isolated_job_has_a_worker_of_its_own():
    world = prompt_world(1)
    plain = world.submit()
    isolated = world.submit_many(2, isolate=True)
    after = world.submit()
    while world.running():
        world.answer(world.running()[0])
    assert world.begun_jobs() == [plain, *isolated, after]
    dismissed = [command.worker for command in world.commands(c.Dismiss)]
    assert len(set(dismissed)) == 3  # of the first plain job, to make room, and of both isolated ones
    assert world.most_active == 1


def test_worker_leaves_after_its_number_of_tasks():
    world = prompt_world(1, max_tasks_per_child=2)
    jobs = world.submit_many(5)
    workers = []
    for job in jobs:
        workers.append(world.worker_of(job))
        world.answer(job)
    assert [workers.index(worker) for worker in workers] == [0, 0, 2, 2, 4]


def test_prefetch_does_not_go_past_the_number_of_tasks_per_child():
    world = prompt_world(1, max_tasks_per_child=4)
    jobs = with_prefetch(world, 10)
    assert sent_ahead(world) == jobs[1:3]


def test_unknown_and_long_tasks_are_not_sent_ahead():
    world = prompt_world(1)
    jobs = world.submit_many(40)
    assert sent_ahead(world) == []
    world.answer(jobs[0], after_s=2 * SHORT_TASK_S)
    assert sent_ahead(world) == []


def test_short_tasks_are_sent_ahead_up_to_a_depth_and_refilled_at_half():
    world = prompt_world(1)
    jobs = with_prefetch(world, 3 * PREFETCH_DEPTH)
    assert len(sent_ahead(world)) == PREFETCH_DEPTH - 1
    lengths = []
    for job in jobs[: PREFETCH_DEPTH // 2]:
        world.answer(job, after_s=SHORT_TASK_S / 10)
        lengths.append(len(sent_ahead(world)))
    assert lengths[:-1] == list(range(PREFETCH_DEPTH - 2, PREFETCH_DEPTH // 2 - 1, -1))
    assert lengths[-1] == PREFETCH_DEPTH - 1


@pytest.mark.parametrize(
    ("duration_s", "depth"),
    [
        (1e-6, MAX_PREFETCH_DEPTH),
        (PREFETCHED_S / MAX_PREFETCH_DEPTH, MAX_PREFETCH_DEPTH),
        (PREFETCHED_S / 40, 40),
        (SHORT_TASK_S / 10, PREFETCH_DEPTH),
        (SHORT_TASK_S, 1),
    ],
)
def test_the_shorter_tasks_are_the_more_are_sent_ahead(duration_s, depth):
    world = prompt_world(1)
    recipe = Recipe("short", b"")
    recipe.learn(duration_s)
    blocker = world.submit()
    jobs = world.submit_many(3 * MAX_PREFETCH_DEPTH, recipe)
    world.answer(blocker)
    assert sent_ahead(world) == jobs[1:depth]


def test_what_a_worker_waits_for_the_parent_makes_no_task_longer():
    recipe = Recipe("short", b"")
    recipe.learn(duration_s=5 * SHORT_TASK_S)
    assert recipe.depth == 1
    for _ in range(10):
        recipe.learn(duration_s=5 * SHORT_TASK_S, pace_s=PREFETCHED_S / MAX_PREFETCH_DEPTH / 2)
    assert recipe.depth == MAX_PREFETCH_DEPTH


def test_short_queue_is_shared_instead_of_piling_up_behind_one_worker():
    world = prompt_world(4)
    recipe = short()
    blockers = world.submit_many(4)
    world.submit_many(8, recipe)
    world.answer(blockers[0])
    assert len(sent_ahead(world)) == 2  # of 8 among 4: with the one that runs, a share and one


def test_cancel_of_a_queued_job_touches_no_worker():
    world = prompt_world(1)
    first, second, third = world.submit_many(3)
    assert world.cancel(second)
    assert not world.commands(c.Terminate)
    world.answer(first)
    assert world.running() == [third]
    assert second not in world.begun_jobs()


def test_cancel_of_a_queued_job_lets_go_of_its_arguments():
    world = prompt_world(1)
    _, queued = world.submit_many(2)
    assert queued.payload
    assert world.cancel(queued)
    assert not queued.payload


def test_cancel_of_a_running_job_stops_its_worker_and_the_next_job_gets_another():
    world = prompt_world(1)
    job, other = world.submit_many(2)
    worker = world.worker_of(job)
    assert world.cancel(job)
    assert [command.worker for command in world.commands(c.Terminate)] == [worker]
    assert world.endings() == {job: "cancelled"}
    assert world.running() == [other]


def test_cancel_of_a_running_job_puts_those_behind_it_elsewhere_uncharged_and_in_order():
    world = prompt_world(1)
    jobs = with_prefetch(world, 4)
    world.cancel(jobs[0])
    assert not world.commands(c.Terminate)  # the signal might hit the next one
    world.advance(pipeline.READ_MARK_S)
    assert len(world.commands(c.Terminate)) == 1
    while world.running():
        world.answer(world.running()[0])
    assert world.begun_jobs()[-3:] == jobs[1:]
    assert [job.attempt for job in jobs] == [1, 1, 1, 1]


def test_cancel_of_a_prefetched_job_stops_nothing_unless_it_proves_long():
    world = prompt_world(1)
    jobs = with_prefetch(world, 3)
    assert world.cancel(jobs[1])
    assert not world.commands(c.Terminate)
    world.answer(jobs[0])
    world.answer(jobs[1])
    world.answer(jobs[2])
    assert world.endings()[jobs[1]] == "cancelled"
    assert not world.commands(c.Terminate)


def test_cancelled_job_that_runs_long_all_the_same_is_stopped():
    world = prompt_world(1)
    jobs = with_prefetch(world, 3)
    world.cancel(jobs[1])
    world.answer(jobs[0])
    world.advance(staffing.RESCUE_AFTER_S + pipeline.READ_MARK_S)
    assert len(world.commands(c.Terminate)) == 1
    assert world.running() == [jobs[2]]


def test_jobs_behind_one_that_runs_long_go_to_an_idle_worker_uncharged_and_once():
    world = prompt_world(2)
    recipe = short()
    blockers = world.submit_many(2)
    jobs = world.submit_many(6, recipe)
    world.answer(blockers[0])
    long, behind = jobs[0], sent_ahead(world)
    assert behind == jobs[1:4]
    long_worker = world.worker_of(long)
    world.answer(blockers[1])
    other_worker = world.worker_of(jobs[4])
    while other_worker not in world.idle():
        world.finish(other_worker)
    world.advance(2 * staffing.RESCUE_AFTER_S + pipeline.READ_MARK_S)
    assert world.worker_of(behind[0]) is other_worker
    while world.running_in(other_worker) is not None:
        world.finish(other_worker)
    assert world.running() == [long]
    assert world.worker_of(long) is long_worker
    assert [world.begun_jobs().count(job) for job in behind] == [1, 1, 1]
    assert [job.attempt for job in behind] == [1, 1, 1]
    assert not world.commands(c.Terminate)


def test_job_behind_one_that_runs_long_gets_a_new_worker_where_the_other_died():
    world = prompt_world(2)
    recipe = short()
    blockers = world.submit_many(2)
    long, behind = world.submit_many(2, recipe)
    world.answer(blockers[0])
    assert sent_ahead(world) == [behind]
    world.die(world.worker_of(blockers[1]))  # nothing is queued
    world.advance(2 * staffing.RESCUE_AFTER_S + pipeline.READ_MARK_S)
    assert world.running() == [long, behind]
    assert world.begun_jobs().count(behind) == 1


def test_job_behind_one_that_runs_long_gets_a_new_worker_though_a_launch_failed():
    world = slow_world(2)
    recipe = short()
    blocker = world.submit()
    (first,) = world.workers()
    world.hello(first)
    long, behind = world.submit_many(2, recipe)
    (other,) = set(world.workers()) - {first}
    world.answer(blocker)
    assert sent_ahead(world) == [behind]
    world.fail_launch(other)  # nothing is queued
    world.advance(1.0)
    (third,) = set(world.workers()) - {first}
    world.hello(third)
    assert world.running() == [long, behind]
    assert world.begun_jobs().count(behind) == 1


def test_ended_job_cannot_be_cancelled():
    world = prompt_world()
    job, failed = world.submit_many(2)
    world.answer(job)
    world.answer(failed, fails=True)
    assert not world.cancel(job)
    assert not world.cancel(failed)


def test_cancel_while_waiting_for_a_retry_ends_the_job():
    world = prompt_world()
    job = world.submit(retry=retry_after(5, attempts=2))
    world.answer(job, fails=True)
    assert world.cancel(job)
    world.advance(10)
    assert world.begun_jobs() == [job]


def test_nothing_is_due_when_all_that_had_a_limit_has_ended():
    world = prompt_world()
    first, second = world.submit_many(2, timeout_s=10)
    world.answer(first)
    assert world.next_due_s <= world.now_s + 10
    world.answer(second)
    assert world.next_due_s == NO_LIMIT
    world.submit(timeout_s=10)
    assert world.next_due_s <= world.now_s + 10


def test_attempt_over_its_timeout_is_stopped_with_its_stack_taken():
    world = prompt_world()
    job = world.submit(timeout_s=10)
    world.advance(9.9)
    assert not world.commands(c.Terminate)
    world.advance(0.2)
    assert [command.wants_stack for command in world.commands(c.Terminate)] == [True]
    assert [command.kind for command in world.commands(c.Judge)] == [c.FOR_TIMEOUT]
    assert world.endings() == {job: "failed"}


def test_timeout_counts_from_the_start_of_each_attempt():
    world = prompt_world()
    job = world.submit(timeout_s=10, retry=retry_after(100, attempts=2))
    world.advance(10)
    assert world.running() == []
    world.advance(100)
    assert world.running() == [job]
    world.advance(9)
    world.answer(job)
    assert world.endings() == {job: "succeeded"}


def test_row_that_looked_at_the_clock_has_its_timeout_from_then():
    world = prompt_world()
    job = world.submit(timeout_s=10, is_chunk=True)
    (worker,) = world.workers()
    world.advance(9)
    world.look_at_clock(worker)
    world.advance(9.9)
    assert not world.commands(c.Terminate)
    world.advance(0.2)
    assert world.endings() == {job: "failed"}
    assert not world.commands(c.AskForLook)


def test_row_of_unknown_begin_has_its_timeout_from_when_its_chunk_was_asked_for_a_look():
    world = prompt_world()
    job = world.submit(timeout_s=10, is_chunk=True)
    (worker,) = world.workers()
    world.pass_look(worker)
    world.advance(LOOK_AFTER_S)
    assert [command.worker for command in world.commands(c.AskForLook)] == [worker]
    world.advance(9.99)
    assert not world.commands(c.Terminate)
    world.advance(0.02)
    assert world.endings() == {job: "failed"}
    assert len(world.commands(c.AskForLook)) == 1


@pytest.mark.parametrize("timeout_s", [LOOK_AFTER_S / 3, 10.0])
def test_chunk_that_goes_on_is_asked_for_a_look_again(timeout_s):
    """Rows that take less than their timeout never run over it, however short it is."""
    world = prompt_world()
    world.submit(timeout_s=timeout_s, is_chunk=True)
    (worker,) = world.workers()
    world.pass_look(worker)
    for asked in range(1, 10):
        world.look_at_clock(worker)
        world.advance(min(LOOK_AFTER_S, timeout_s) * 1.01)
        assert len(world.commands(c.AskForLook)) == asked
        world.advance(timeout_s * 0.9)  # the row that ran then ends, and the next begins with a look
        assert not world.commands(c.Terminate)


def test_look_while_it_was_asked_for_may_have_missed_it():
    """Else the rows after it would have one timeout together."""
    world = prompt_world()
    world.submit(timeout_s=10, is_chunk=True)
    (worker,) = world.workers()
    world.pass_look(worker)
    world.advance(1)
    world.ask_for_look(worker, takes_s=0.002)
    world.look_at_clock(worker, later_s=0.001)
    before = len(world.commands(c.AskForLook))
    world.advance(10.003)  # its chunk was asked again 4 ms after the first time
    assert len(world.commands(c.AskForLook)) == before + 1
    assert not world.commands(c.Terminate)


def test_row_of_unknown_begin_is_not_taken_for_stalled_by_what_came_before_it():
    world = prompt_world()
    world.submit(stalled_s=1, is_chunk=True)
    (worker,) = world.workers()
    world.advance(0.9)  # of one that looked
    world.pass_look(worker)
    world.advance(1)
    assert len(world.commands(c.AskForLook)) == 1
    assert not world.commands(c.Stalled)
    world.advance(1)
    assert len(world.commands(c.Stalled)) == 1


def test_worker_that_ignores_the_stop_is_killed_after_the_grace():
    world = slow_world(grace_s=5)
    world.submit(timeout_s=10)
    (worker,) = world.workers()
    world.hello(worker)
    world.advance(14.9)
    assert not world.commands(c.Kill)
    world.advance(0.2)
    assert [command.worker for command in world.commands(c.Kill)] == [worker]


def test_answer_that_comes_while_the_worker_is_being_stopped_counts():
    world = slow_world()
    job = world.submit(timeout_s=10)
    (worker,) = world.workers()
    world.hello(worker)
    world.advance(10)
    world.finish(worker)
    world.die(worker)
    assert world.endings() == {job: "succeeded"}


def test_deadline_ends_a_job_that_is_still_queued():
    world = prompt_world(1)
    running, late = world.submit(), world.submit(deadline_s=5)
    world.advance(5)
    assert world.endings() == {late: "failed"}
    (command,) = world.commands(c.Judge)
    assert (command.kind, command.worker) == (c.FOR_DEADLINE, None)
    world.answer(running)
    assert world.begun_jobs() == [running]


def test_deadline_ends_a_pause_before_a_retry_and_is_not_retried():
    world = prompt_world()
    job = world.submit(deadline_s=5, retry=retry_after(60, attempts=5))
    world.answer(job, fails=True)
    world.advance(5)
    assert world.endings() == {job: "failed"}
    world.advance(100)
    assert world.begun_jobs() == [job]


def test_silent_attempt_is_reported_once_and_runs_on():
    world = prompt_world()
    job = world.submit(stalled_s=3)
    world.advance(20)
    assert [command.job for command in world.commands(c.Stalled)] == [job]
    assert world.running() == [job]


def test_attempt_over_its_memory_is_killed_without_being_asked():
    world = prompt_world()
    job = world.submit(memory_limit=1)
    world.exceed_memory(world.worker_of(job))
    assert not world.commands(c.Terminate)
    assert len(world.commands(c.Kill)) == 1
    assert world.endings() == {job: "failed"}


def test_death_charges_only_the_started_job_and_puts_the_others_first_in_order():
    world = prompt_world(1)
    jobs = with_prefetch(world, 5)
    later = world.submit()
    world.die(world.worker_of(jobs[0]))
    assert world.endings() == {world.commands(c.Judge)[0].job: "failed"} | {world.begun_jobs()[0]: "succeeded"}
    assert world.commands(c.Judge)[0].job is jobs[0]
    while world.running():
        world.answer(world.running()[0], after_s=SHORT_TASK_S)
    assert world.begun_jobs()[-5:] == [*jobs[1:], later]
    assert world.count("respawned") == 1


def test_death_before_the_first_was_begun_charges_nobody():
    world = prompt_world(1)
    worker, jobs = frozen_with(world, 3)
    world.die(worker)
    assert not world.commands(c.Judge)
    assert world.running() == [jobs[0]]


def test_death_of_an_idle_worker_costs_nothing():
    world = prompt_world(1)
    world.answer(world.submit())
    world.die(world.idle()[0])
    job = world.submit()
    assert world.running() == [job]
    assert world.count("failed") == 0


def test_retried_job_that_never_began_elsewhere_keeps_its_claim_to_a_fresh_worker():
    world = prompt_world(1)
    job = world.submit(retry=Retry.of_attempts(2))
    world.begins_at_once = False
    world.answer(job, fails=True)
    world.die(world.worker_of(job))
    assert world.begin_all() == [job]
    assert job.attempt == 2
    assert world.begun_in(world.worker_of(job)) == [job]


def test_workers_that_die_before_they_are_ready_break_the_manager_after_a_few():
    world = slow_world(1)
    jobs = world.submit_many(2)
    for _ in range(launches.DEATHS_TO_BREAK):
        assert not world.endings()
        (worker,) = world.workers()
        world.die(worker)
    assert world.endings() == dict.fromkeys(jobs, BROKE)
    assert world.is_broken


def test_launch_that_fails_for_the_moment_is_tried_again_and_loses_nothing():
    world = slow_world(1)
    job = world.submit()
    (worker,) = world.workers()
    world.fail_launch(worker)
    assert not world.workers()
    world.advance(launches.LAUNCH_RETRY_S)
    (worker,) = world.workers()
    world.hello(worker)
    assert world.running() == [job]


def test_close_lets_everything_finish_and_workers_leave():
    world = prompt_world(1)
    jobs = world.submit_many(3)
    world.close()
    assert not world.has_finished
    while world.running():
        world.answer(world.running()[0])
    assert world.endings() == dict.fromkeys(jobs, "succeeded")
    assert world.has_finished
    assert not world.workers()


def test_close_of_an_idle_manager_finishes_at_once():
    world = prompt_world()
    world.answer(world.submit())
    world.close()
    assert world.has_finished


def test_close_past_its_timeout_cancels_the_queued_and_stops_the_running():
    world = prompt_world(1)
    running, queued = world.submit_many(2)
    world.close(timeout_s=5)
    world.advance(4.9)
    assert world.running() == [running]
    world.advance(0.2)
    assert world.endings() == {running: "cancelled", queued: "cancelled"}
    assert world.has_finished
    assert (world.count("stopped"), world.count("cancelled_by_close")) == (1, 1)


def test_close_stops_the_running_before_it_cancels_a_long_queue_at_once():
    world = prompt_world(1)
    running, *queued = world.submit_many(1000)
    del world.log[:]
    world.close(timeout_s=0)
    world.advance(0.0)
    assert [type(command) for command in world.log[:2]] == [c.Terminate, c.Cancelled]
    assert world.commands(c.Cancelled)[0].jobs == queued
    assert world.endings() == dict.fromkeys([running, *queued], "cancelled")
    assert world.has_finished
    assert world.count("cancelled_by_close") == 999


def test_close_waits_for_a_retry():
    world = prompt_world()
    job = world.submit(retry=retry_after(5, attempts=2))
    world.answer(job, fails=True)
    world.close()
    assert not world.has_finished
    world.advance(5)
    world.answer(job)
    assert world.endings() == {job: "succeeded"}
    assert world.has_finished


def test_close_ends_loops_and_refuses_new_ones():
    world = prompt_world()
    loop, job = world.submit(is_loop=True), world.submit()
    world.close()
    assert world.endings() == {loop: "cancelled"}
    late = world.submit(is_loop=True)
    assert world.endings()[late] == "cancelled"
    world.answer(job)
    assert world.has_finished


def test_loops_do_not_count_against_the_workers():
    world = prompt_world(1)
    loops = [world.submit(is_loop=True) for _ in range(3)]
    job = world.submit()
    assert set(world.running()) == {*loops, job}
    assert world.active == 1


def test_loop_goes_on_after_a_failed_iteration_in_the_same_process():
    world = prompt_world()
    loop = world.submit(is_loop=True)
    worker = world.worker_of(loop)
    world.fail_iteration(worker)
    assert [command.worker for command in world.commands(c.ContinueLoop)] == [worker]
    assert world.running() == [loop]


def test_loop_that_its_process_had_not_begun_goes_to_another_at_once_uncharged():
    world = World()
    loop = world.submit(is_loop=True)
    worker = world.worker_of(loop)
    world.die(worker)
    assert world.worker_of(loop) is not worker
    assert world.begin_all() == [loop]
    assert not world.commands(c.Judge)


def test_loop_whose_process_died_gets_another_after_a_growing_pause():
    world = prompt_world()
    loop = world.submit(is_loop=True)
    pauses_s = []
    for _ in range(4):
        world.die(world.worker_of(loop))
        start_s = world.now_s
        while not world.running():
            world.advance(0.001)
        pauses_s.append(world.now_s - start_s)
    assert pauses_s == pytest.approx([loops.LOOP_RESTART_S * 2**n for n in range(4)], abs=0.002)


def test_a_job_sent_after_a_revocation_is_not_taken_back_by_it():
    world = prompt_world(2)
    short, long = Recipe("short", b""), Recipe("long", b"")
    for _ in range(30):  # both are learnt to be short
        pair = [world.submit(recipe=short), world.submit(recipe=short)]
        for job in pair:
            world.answer(job)
        world.answer(world.submit(recipe=long))
    first = world.submit(recipe=long)
    worker = world.worker_of(first)
    up_to = world.revoke(worker)
    world.see_mark(worker, up_to, up_to - 1)  # a look of an older revocation
    assert world.in_flight(worker) == [first]
    world.see_mark(worker, up_to, up_to)
    assert world.in_flight(worker) == [first]
    world.answer(first)
    assert world.endings()[first] == "succeeded"


def test_a_worker_frozen_before_its_first_request_is_killed_after_the_grace():
    world = prompt_world(1, grace_s=5.0)
    worker, jobs = frozen_with(world, 4)
    assert world.cancel(jobs[0])
    world.advance(4.0)
    assert world.commands(c.Kill) == []
    world.advance(2.0)
    assert [command.worker for command in world.commands(c.Kill)] == [worker]
    for job in jobs[1:]:
        world.answer(job)
    assert [ending_of(job) for job in jobs] == ["cancelled", "succeeded", "succeeded", "succeeded"]


def test_launches_that_fail_together_lengthen_the_pause_once():
    world = slow_world(8)
    world.submit_many(8)
    workers = world.workers()
    assert len(workers) == 8
    for worker in workers:
        world.fail_launch(worker)
    assert world.next_due_s == world.now_s + launches.LAUNCH_RETRY_S
    world.advance(launches.LAUNCH_RETRY_S)
    assert len(world.workers()) == 8
    world.fail_launch(world.workers()[0])
    assert world.no_launch_before_s == world.now_s + 2 * launches.LAUNCH_RETRY_S


def test_the_pause_before_another_launch_grows_to_what_the_failure_calls_for():
    world = slow_world(1)
    world.submit()
    longest_s = {launches.LOST: launches.MAX_HELPER_RETRY_S, launches.SHORTAGE: launches.MAX_LAUNCH_RETRY_S}
    for kind, expected_s in longest_s.items():
        for _ in range(launches.LOSSES_TO_BREAK - 1):
            (worker,) = world.workers()
            world.fail_launch(worker, kind=kind)
            pause_s = world.next_due_s - world.now_s
            world.advance(pause_s)
        assert pause_s == pytest.approx(expected_s)


def test_the_last_of_a_burst_does_not_go_before_the_others():
    world = prompt_world(max_workers=1)
    world.answer(world.submit("warms the worker"))
    assert world.idle()
    burst = world.submit_burst(*[Recipe("task", b"")] * 3)
    assert world.begun_jobs()[1:] == burst[:1]


# -- workers that end by themselves --------------------------------------------------------------------------


def test_a_worker_that_leaves_gives_back_what_it_has_not_begun():
    world = prompt_world(max_workers=1)
    jobs = with_prefetch(world, 5)
    leaving = world.worker_of(jobs[0])
    assert len(world.waiting_in(leaving)) > 1
    world.finish(leaving, leaves=True)
    assert leaving not in world.workers()
    for job in jobs[1:]:
        world.answer(job)
    assert set(world.endings().values()) == {"succeeded"}
    assert {job.attempt for job in jobs} == {1}
