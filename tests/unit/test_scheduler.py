"""What the scheduler decides, told event by event, with a clock that the test turns."""

from __future__ import annotations

import pytest

from procbackground._state import scheduler as s
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
from tests.unit.world import World


def with_prefetch(world: World, count: int, **limits: object) -> list[Job]:
    """Have the only worker run the first of `count` short jobs with the others in its pipe behind it."""
    recipe = Recipe("short", b"", **limits)  # type: ignore[arg-type]
    recipe.learn(SHORT_TASK_S / 10)
    blocker = world.add()
    jobs = world.add_many(count, recipe)
    world.answer(blocker)
    assert world.running() == [jobs[0]]
    return jobs


def sent_ahead(world: World) -> list[Job]:
    return [job for child in world.children.values() for job in child.requests]


def test_job_that_succeeds_runs_once_and_leaves_an_idle_worker():
    world = World()
    job = world.add()
    assert world.running() == [job]
    world.answer(job)
    assert world.ended == {job: "succeeded"}
    assert len(world.scheduler.idle) == 1


def test_idle_worker_gets_the_next_job_without_a_command():
    world = World()
    world.answer(world.add())
    before = len(world.log)
    job = world.add()
    assert world.running() == [job]
    assert len(world.log) == before


def test_never_more_workers_than_allowed_run_one_offs():
    world = World(max_workers=3)
    jobs = world.add_many(10)
    assert world.running() == jobs[:3]
    while world.running():
        world.answer(world.running()[0], after_s=1)
    assert world.most_active == 3
    assert world.began == jobs


def test_higher_priority_goes_first_and_equals_in_the_order_they_came():
    world = World(max_workers=1)
    first = world.add()
    low, high, middle = world.add(priority=-1), world.add(priority=5), world.add()
    high_too, middle_too = world.add(priority=5), world.add()
    while world.running():
        world.answer(world.running()[0], after_s=1)
    assert world.began == [first, high, high_too, middle, middle_too, low]


def test_failure_without_a_policy_ends_the_job_and_not_its_worker():
    world = World(max_workers=1)
    job, other = world.add_many(2)
    worker = world.worker_of(job)
    world.answer(job, is_failure=True)
    assert world.ended == {job: "failed"}
    assert world.worker_of(other) is worker


def test_retry_goes_to_a_worker_that_has_run_nothing():
    world = World(max_workers=1)
    job = world.add(retry=Retry.of_attempts(3))
    used = [world.worker_of(job)]
    for _ in range(2):
        world.answer(job, is_failure=True)
        used.append(world.worker_of(job))
        assert world.children[used[-1]].ran == [job]
    world.answer(job, is_failure=True)
    assert world.ended == {job: "failed"}
    assert len(set(used)) == 3
    assert world.most_active == 1
    assert world.scheduler.retried == 2


def test_retry_waits_for_its_delay_and_holds_no_worker_meanwhile():
    world = World(max_workers=1, delay_s=10)
    job = world.add(retry=Retry.of_attempts(2))
    world.answer(job, is_failure=True)
    assert world.running() == []
    other = world.add()
    assert world.running() == [other]
    world.answer(other)
    world.advance(9.9)
    assert world.running() == []
    world.advance(0.2)
    assert world.running() == [job]


def test_retry_goes_before_what_came_later():
    world = World(max_workers=1)
    job = world.add(retry=Retry.of_attempts(2))
    later = world.add_many(3)
    world.answer(job, is_failure=True)
    # The worker took the next one while the policy was asked; then it is the retry's turn.
    assert world.running() == [later[0]]
    world.answer(later[0])
    assert world.running() == [job]


def test_isolated_job_has_a_worker_of_its_own():
    world = World(max_workers=1)
    plain = world.add()
    isolated = world.add_many(2, isolate=True)
    after = world.add()
    while world.running():
        world.answer(world.running()[0])
    assert world.began == [plain, *isolated, after]
    dismissed = [command.worker for command in world.seen(s.Dismiss)]
    assert len(set(dismissed)) == 3  # of the first plain job, to make room, and of both isolated ones
    assert world.most_active == 1


def test_worker_leaves_after_its_number_of_tasks():
    world = World(max_workers=1, max_tasks_per_child=2)
    jobs = world.add_many(5)
    workers = []
    for job in jobs:
        workers.append(world.worker_of(job))
        world.answer(job)
    assert [workers.index(worker) for worker in workers] == [0, 0, 2, 2, 4]


def test_prefetch_does_not_go_past_the_number_of_tasks_per_child():
    world = World(max_workers=1, max_tasks_per_child=4)
    jobs = with_prefetch(world, 10)
    assert sent_ahead(world) == jobs[1:3]


def test_unknown_and_long_tasks_are_not_sent_ahead():
    world = World(max_workers=1)
    jobs = world.add_many(40)
    assert sent_ahead(world) == []
    world.answer(jobs[0], after_s=2 * SHORT_TASK_S)
    assert sent_ahead(world) == []


def test_short_tasks_are_sent_ahead_up_to_a_depth_and_refilled_at_half():
    world = World(max_workers=1)
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
    world = World(max_workers=1)
    recipe = Recipe("short", b"")
    recipe.learn(duration_s)
    blocker = world.add()
    jobs = world.add_many(3 * MAX_PREFETCH_DEPTH, recipe)
    world.answer(blocker)
    assert sent_ahead(world) == jobs[1:depth]


def test_short_queue_is_shared_instead_of_piling_up_behind_one_worker():
    world = World(max_workers=4)
    recipe = Recipe("short", b"")
    recipe.learn(SHORT_TASK_S / 10)
    blockers = world.add_many(4)
    world.add_many(8, recipe)
    world.answer(blockers[0])
    assert len(sent_ahead(world)) == 2  # of 8 among 4: with the one that runs, a share and one


def test_cancel_of_a_queued_job_touches_no_worker():
    world = World(max_workers=1)
    first, second, third = world.add_many(3)
    assert world.cancel(second)
    assert not world.seen(s.Terminate)
    world.answer(first)
    assert world.running() == [third]
    assert second not in world.began


def test_cancel_keeps_the_arguments_of_a_request_that_may_be_yet_to_be_written():
    world = World(max_workers=1)
    running, queued = (Job(None, Recipe("task", b""), b"arguments") for _ in range(2))  # type: ignore[arg-type]
    world.answer(world.add())
    assert world.scheduler.accept(running, world.now_s) is not None
    assert world.scheduler.accept(queued, world.now_s) is None
    for job in (running, queued):
        assert world.scheduler.cancel(job, world.now_s)
    assert running.payload == b"arguments"
    assert queued.payload == b""


def test_cancel_of_a_running_job_stops_its_worker_and_the_next_job_gets_another():
    world = World(max_workers=1)
    job, other = world.add_many(2)
    worker = world.worker_of(job)
    assert world.cancel(job)
    assert [command.worker for command in world.seen(s.Terminate)] == [worker]
    assert world.ended == {job: "cancelled"}
    assert world.running() == [other]


def test_cancel_of_a_running_job_puts_those_behind_it_elsewhere_uncharged_and_in_order():
    world = World(max_workers=1)
    jobs = with_prefetch(world, 4)
    world.cancel(jobs[0])
    assert not world.seen(s.Terminate)  # the signal might hit the next one
    world.advance(s.RESCUE_LOOK_S)
    assert len(world.seen(s.Terminate)) == 1
    while world.running():
        world.answer(world.running()[0])
    assert world.began[-3:] == jobs[1:]
    assert [job.attempt for job in jobs] == [1, 1, 1, 1]


def test_cancel_of_a_prefetched_job_stops_nothing_unless_it_proves_long():
    world = World(max_workers=1)
    jobs = with_prefetch(world, 3)
    assert world.cancel(jobs[1])
    assert not world.seen(s.Terminate)
    world.answer(jobs[0])
    world.answer(jobs[1])
    world.answer(jobs[2])
    assert world.ended[jobs[1]] == "cancelled"
    assert not world.seen(s.Terminate)


def test_cancelled_job_that_runs_long_all_the_same_is_stopped():
    world = World(max_workers=1)
    jobs = with_prefetch(world, 3)
    world.cancel(jobs[1])
    world.answer(jobs[0])
    world.advance(s.RESCUE_AFTER_S + s.RESCUE_LOOK_S)
    assert len(world.seen(s.Terminate)) == 1
    assert world.running() == [jobs[2]]


def test_jobs_behind_one_that_runs_long_go_to_an_idle_worker_uncharged_and_once():
    world = World(max_workers=2)
    recipe = Recipe("short", b"")
    recipe.learn(SHORT_TASK_S / 10)
    blockers = world.add_many(2)
    jobs = world.add_many(6, recipe)
    world.answer(blockers[0])
    long, behind = jobs[0], sent_ahead(world)
    assert behind == jobs[1:4]
    long_worker = world.worker_of(long)
    world.answer(blockers[1])
    other_worker = world.worker_of(jobs[4])
    while other_worker not in world.scheduler.idle:
        world.answer_of(other_worker)
    world.advance(2 * s.RESCUE_AFTER_S + s.RESCUE_LOOK_S)
    assert world.worker_of(behind[0]) is other_worker
    while world.children[other_worker].running is not None:
        world.answer_of(other_worker)
    assert world.running() == [long]
    assert world.worker_of(long) is long_worker
    assert [world.began.count(job) for job in behind] == [1, 1, 1]
    assert [job.attempt for job in behind] == [1, 1, 1]
    assert not world.seen(s.Terminate)


def test_job_behind_one_that_runs_long_gets_a_new_worker_where_the_other_died():
    world = World(max_workers=2)
    recipe = Recipe("short", b"")
    recipe.learn(SHORT_TASK_S / 10)
    blockers = world.add_many(2)
    long, behind = world.add_many(2, recipe)
    world.answer(blockers[0])
    assert sent_ahead(world) == [behind]
    world.die(world.worker_of(blockers[1]))  # nothing is queued
    world.advance(2 * s.RESCUE_AFTER_S + s.RESCUE_LOOK_S)
    assert world.running() == [long, behind]
    assert world.began.count(behind) == 1


def test_job_behind_one_that_runs_long_gets_a_new_worker_though_a_launch_failed():
    world = World(max_workers=2, is_prompt=False)
    recipe = Recipe("short", b"")
    recipe.learn(SHORT_TASK_S / 10)
    blocker = world.add()
    (first,) = world.children
    world.say_hello(first)
    long, behind = world.add_many(2, recipe)
    (other,) = set(world.children) - {first}
    world.answer(blocker)
    assert sent_ahead(world) == [behind]
    del world.children[other]
    world.scheduler.launch_failed(other, world.now_s)  # nothing is queued
    world.advance(1.0)
    (third,) = set(world.children) - {first}
    world.say_hello(third)
    assert world.running() == [long, behind]
    assert world.began.count(behind) == 1


def test_ended_job_cannot_be_cancelled():
    world = World()
    job, failed = world.add_many(2)
    world.answer(job)
    world.answer(failed, is_failure=True)
    assert not world.cancel(job)
    assert not world.cancel(failed)


def test_cancel_while_waiting_for_a_retry_ends_the_job():
    world = World(delay_s=5)
    job = world.add(retry=Retry.of_attempts(2))
    world.answer(job, is_failure=True)
    assert world.cancel(job)
    world.advance(10)
    assert world.began == [job]


def test_attempt_over_its_timeout_is_stopped_with_its_stack_taken():
    world = World(is_prompt=True)
    job = world.add(timeout_s=10)
    world.advance(9.9)
    assert not world.seen(s.Terminate)
    world.advance(0.2)
    assert [command.wants_stack for command in world.seen(s.Terminate)] == [True]
    assert [command.kind for command in world.seen(s.Judge)] == [s.FOR_TIMEOUT]
    assert world.ended == {job: "failed"}


def test_timeout_counts_from_the_start_of_each_attempt():
    world = World(delay_s=100)
    job = world.add(timeout_s=10, retry=Retry.of_attempts(2))
    world.advance(10)
    assert world.running() == []
    world.advance(100)
    assert world.running() == [job]
    world.advance(9)
    world.answer(job)
    assert world.ended == {job: "succeeded"}


def test_row_that_looked_at_the_clock_has_its_timeout_from_then():
    world = World(is_prompt=True)
    job = world.add(timeout_s=10, is_chunk=True)
    (worker,) = world.children
    world.advance(9)
    world.looked_s[worker] = world.now_s
    world.advance(9.9)
    assert not world.seen(s.Terminate)
    world.advance(0.2)
    assert world.ended == {job: "failed"}
    assert not world.seen(s.AskForLook)


def test_row_of_unknown_begin_has_its_timeout_from_when_its_chunk_was_asked_for_a_look():
    world = World(is_prompt=True)
    job = world.add(timeout_s=10, is_chunk=True)
    (worker,) = world.children
    world.past_look.add(worker)
    world.advance(LOOK_AFTER_S)
    assert [command.worker for command in world.seen(s.AskForLook)] == [worker]
    world.advance(9.99)
    assert not world.seen(s.Terminate)
    world.advance(0.02)
    assert world.ended == {job: "failed"}
    assert len(world.seen(s.AskForLook)) == 1


@pytest.mark.parametrize("timeout_s", [LOOK_AFTER_S / 3, 10.0])
def test_chunk_that_goes_on_is_asked_for_a_look_again(timeout_s):
    """Rows that take less than their timeout never run over it, however short it is."""
    world = World(is_prompt=True)
    world.add(timeout_s=timeout_s, is_chunk=True)
    (worker,) = world.children
    world.past_look.add(worker)
    for asked in range(1, 10):
        world.looked_s[worker] = world.now_s
        world.advance(min(LOOK_AFTER_S, timeout_s) * 1.01)
        assert len(world.seen(s.AskForLook)) == asked
        world.advance(timeout_s * 0.9)  # the row that ran then ends, and the next begins with a look
        assert not world.seen(s.Terminate)


def test_look_while_it_was_asked_for_may_have_missed_it():
    """Else the rows after it would have one timeout together."""
    world = World(is_prompt=True)
    world.add(timeout_s=10, is_chunk=True)
    (worker,) = world.children
    world.past_look.add(worker)
    world.advance(1)
    world.scheduler.look_was_asked(worker, world.now_s, world.now_s + 0.002)
    world.looked_s[worker] = world.now_s + 0.001
    before = len(world.seen(s.AskForLook))
    world.advance(10.003)  # its chunk was asked again 4 ms after the first time
    assert len(world.seen(s.AskForLook)) == before + 1
    assert not world.seen(s.Terminate)


def test_row_of_unknown_begin_is_not_taken_for_stalled_by_what_came_before_it():
    world = World(is_prompt=True)
    world.add(stalled_s=1, is_chunk=True)
    (worker,) = world.children
    world.advance(0.9)  # of one that looked
    world.past_look.add(worker)
    world.advance(1)
    assert len(world.seen(s.AskForLook)) == 1
    assert not world.seen(s.Stalled)
    world.advance(1)
    assert len(world.seen(s.Stalled)) == 1


def test_worker_that_ignores_the_stop_is_killed_after_the_grace():
    world = World(is_prompt=False, grace_s=5)
    world.add(timeout_s=10)
    (worker,) = world.children
    world.say_hello(worker)
    world.advance(14.9)
    assert not world.seen(s.Kill)
    world.advance(0.2)
    assert [command.worker for command in world.seen(s.Kill)] == [worker]


def test_answer_that_comes_while_the_worker_is_being_stopped_counts():
    world = World(is_prompt=False)
    job = world.add(timeout_s=10)
    (worker,) = world.children
    world.say_hello(worker)
    world.advance(10)
    world.answer_of(worker)
    world.die(worker)
    assert world.ended == {job: "succeeded"}


def test_deadline_ends_a_job_that_is_still_queued():
    world = World(max_workers=1)
    running, late = world.add(), world.add(deadline_s=5)
    world.advance(5)
    assert world.ended == {late: "failed"}
    (command,) = world.seen(s.Judge)
    assert (command.kind, command.worker) == (s.FOR_DEADLINE, None)
    world.answer(running)
    assert world.began == [running]


def test_deadline_ends_a_pause_before_a_retry_and_is_not_retried():
    world = World(delay_s=60)
    job = world.add(deadline_s=5, retry=Retry.of_attempts(5))
    world.answer(job, is_failure=True)
    world.advance(5)
    assert world.ended == {job: "failed"}
    world.advance(100)
    assert world.began == [job]


def test_silent_attempt_is_reported_once_and_runs_on():
    world = World()
    job = world.add(stalled_s=3)
    world.advance(20)
    assert [command.job for command in world.seen(s.Stalled)] == [job]
    assert world.running() == [job]


def test_attempt_over_its_memory_is_killed_without_being_asked():
    world = World()
    job = world.add(memory_limit=1)
    world.scheduler.over_memory(world.worker_of(job), world.now_s)
    world.obey()
    assert not world.seen(s.Terminate)
    assert len(world.seen(s.Kill)) == 1
    assert world.ended == {job: "failed"}


def test_death_charges_only_the_started_job_and_puts_the_others_first_in_order():
    world = World(max_workers=1)
    jobs = with_prefetch(world, 5)
    later = world.add()
    world.die(world.worker_of(jobs[0]))
    assert world.ended == {world.seen(s.Judge)[0].job: "failed"} | {world.began[0]: "succeeded"}
    assert world.seen(s.Judge)[0].job is jobs[0]
    while world.running():
        world.answer(world.running()[0], after_s=SHORT_TASK_S)
    assert world.began[-5:] == [*jobs[1:], later]
    assert world.scheduler.respawned == 1


def test_death_before_the_first_was_begun_charges_nobody():
    world = World(max_workers=1)
    jobs = with_prefetch(world, 3)
    worker = world.worker_of(jobs[0])
    world.children[worker].started -= 1  # written, and never begun
    world.die(worker)
    assert not world.seen(s.Judge)
    assert world.running() == [jobs[0]]


def test_death_of_an_idle_worker_costs_nothing():
    world = World(max_workers=1)
    world.answer(world.add())
    world.die(world.scheduler.idle[0])
    job = world.add()
    assert world.running() == [job]
    assert world.scheduler.failed == 0


def test_retried_job_that_never_began_elsewhere_keeps_its_claim_to_a_fresh_worker():
    world = World(max_workers=1)
    job = world.add(retry=Retry.of_attempts(2))
    world.answer(job, is_failure=True)
    worker = world.worker_of(job)
    world.children[worker].started = 0
    world.die(worker)
    assert world.running() == [job]
    assert job.attempt == 2
    assert world.children[world.worker_of(job)].ran == [job]


def test_workers_that_die_before_they_are_ready_break_the_manager_after_a_few():
    world = World(is_prompt=False, max_workers=1)
    jobs = world.add_many(2)
    for _ in range(s.DEATHS_TO_BREAK):
        assert not world.ended
        (worker,) = world.children
        world.die(worker)
    assert world.ended == dict.fromkeys(jobs, "failed")
    assert world.scheduler.broken_by is not None


def test_launch_that_fails_for_the_moment_is_tried_again_and_loses_nothing():
    world = World(is_prompt=False, max_workers=1)
    job = world.add()
    (worker,) = world.children
    del world.children[worker]
    world.scheduler.launch_failed(worker, world.now_s)
    assert not world.children
    world.advance(s.LAUNCH_RETRY_S)
    (worker,) = world.children
    world.say_hello(worker)
    assert world.running() == [job]


def test_close_lets_everything_finish_and_workers_leave():
    world = World(max_workers=1)
    jobs = world.add_many(3)
    world.close()
    assert not world.scheduler.has_finished
    while world.running():
        world.answer(world.running()[0])
    assert world.ended == dict.fromkeys(jobs, "succeeded")
    assert world.scheduler.has_finished
    assert not world.children


def test_close_of_an_idle_manager_finishes_at_once():
    world = World()
    world.answer(world.add())
    world.close()
    assert world.scheduler.has_finished


def test_close_past_its_timeout_cancels_the_queued_and_stops_the_running():
    world = World(max_workers=1)
    running, queued = world.add_many(2)
    world.close(timeout_s=5)
    world.advance(4.9)
    assert world.running() == [running]
    world.advance(0.2)
    assert world.ended == {running: "cancelled", queued: "cancelled"}
    assert world.scheduler.has_finished
    assert (world.scheduler.stopped, world.scheduler.cancelled_by_close) == (1, 1)


def test_close_waits_for_a_retry():
    world = World(delay_s=5)
    job = world.add(retry=Retry.of_attempts(2))
    world.answer(job, is_failure=True)
    world.close()
    assert not world.scheduler.has_finished
    world.advance(5)
    world.answer(job)
    assert world.ended == {job: "succeeded"}
    assert world.scheduler.has_finished


def test_close_ends_loops_and_refuses_new_ones():
    world = World()
    loop, job = world.add(is_loop=True), world.add()
    world.close()
    assert world.ended == {loop: "cancelled"}
    late = world.add(is_loop=True)
    assert world.ended[late] == "cancelled"
    world.answer(job)
    assert world.scheduler.has_finished


def test_loops_do_not_count_against_the_workers():
    world = World(max_workers=1)
    loops = [world.add(is_loop=True) for _ in range(3)]
    job = world.add()
    assert set(world.running()) == {*loops, job}
    assert world.scheduler.active == 1


def test_loop_goes_on_after_a_failed_iteration_in_the_same_process():
    world = World()
    loop = world.add(is_loop=True)
    worker = world.worker_of(loop)
    world.fail_iteration(worker, iterations=3)
    assert [command.worker for command in world.seen(s.GoOn)] == [worker]
    assert world.running() == [loop]


def test_loop_that_its_process_had_not_begun_goes_to_another_at_once_uncharged():
    world = World()
    loop = world.add(is_loop=True)
    worker = world.worker_of(loop)
    world.children[worker].started = 0
    world.die(worker)
    assert loop.worker is not worker
    assert world.running() == [loop]
    assert not world.seen(s.Judge)


def test_loop_whose_process_died_gets_another_after_a_growing_pause():
    world = World()
    loop = world.add(is_loop=True)
    pauses_s = []
    for _ in range(4):
        world.die(world.worker_of(loop))
        start_s = world.now_s
        while not world.running():
            world.advance(0.001)
        pauses_s.append(world.now_s - start_s)
    assert pauses_s == pytest.approx([s.LOOP_RESTART_S * 2**n for n in range(4)], abs=0.002)


def test_what_was_sent_after_a_revocation_is_not_taken_back_by_its_look():
    world = World(max_workers=2)
    short, long = Recipe("short", b""), Recipe("long", b"")
    for _ in range(30):  # both are learnt to be short
        pair = [world.add(short), world.add(short)]
        for job in pair:
            world.answer(job)
        world.answer(world.add(long))
    first = world.add(long)
    worker = world.worker_of(first)
    sent_before = worker.sent
    worker.revoked_up_to = sent_before
    world.scheduler.mark_seen(worker, sent_before, sent_before - 1, world.now_s)  # a look of an older revocation
    assert list(worker.inflight) == [first]
    world.scheduler.mark_seen(worker, sent_before, sent_before, world.now_s)
    assert list(worker.inflight) == [first]
    world.answer(first)
    assert world.ended[first] == "succeeded"


def test_a_worker_frozen_before_its_first_request_is_killed_after_the_grace():
    world = World(max_workers=1, grace_s=5.0)
    short = Recipe("short", b"")
    for _ in range(20):
        short.learn(SHORT_TASK_S / 10)
    first = world.add(short)
    jobs = world.add_many(4, short)
    world.answer(first)
    worker = world.worker_of(jobs[0])
    assert len(worker.inflight) > 1
    world.children[worker].started = worker.inflight[0].sequence - 1  # stopped before it marked the next
    assert world.cancel(jobs[0])
    world.advance(4.0)
    assert world.seen(s.Kill) == []
    world.advance(2.0)
    assert [command.worker for command in world.seen(s.Kill)] == [worker]
    for job in jobs[1:]:
        world.answer(job)
    assert [world.ended[job] for job in jobs] == ["cancelled", "succeeded", "succeeded", "succeeded"]


def test_launches_that_fail_together_lengthen_the_pause_once():
    world = World(max_workers=8, is_prompt=False)
    world.add_many(8)
    workers = list(world.children)
    assert len(workers) == 8
    for worker in workers:
        world.scheduler.launch_failed(worker, world.now_s)
    assert world.scheduler.next_due_s == world.now_s + s.LAUNCH_RETRY_S
    world.children.clear()
    world.advance(s.LAUNCH_RETRY_S)
    assert len(world.children) == 8
    world.scheduler.launch_failed(next(iter(world.children)), world.now_s)
    assert world.scheduler._no_launch_before_s == world.now_s + 2 * s.LAUNCH_RETRY_S


def test_the_pause_before_another_launch_grows_to_what_the_failure_calls_for():
    world = World(max_workers=1, is_prompt=False)
    world.add()
    for longest_s, expected_s in ((s.MAX_HELPER_RETRY_S, s.MAX_HELPER_RETRY_S), (2.0, 2.0)):
        for _ in range(8):
            (worker,) = world.children
            del world.children[worker]
            world.scheduler.launch_failed(worker, world.now_s, longest_pause_s=longest_s)
            pause_s = world.scheduler.next_due_s - world.now_s
            world.advance(pause_s)
        assert pause_s == pytest.approx(expected_s)
