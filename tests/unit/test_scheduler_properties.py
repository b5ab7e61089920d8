"""Whatever happens in whatever order: no job is lost, none is in two places, and a close ends."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from procbackground._state.job import Recipe
from procbackground.retry import Retry
from tests.unit.world import World

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "add short", "add retried", "add isolated", "add timed"]), st.just(0)),
        st.tuples(st.sampled_from(["answer", "fail", "die", "cancel"]), st.integers(0, 20)),
        st.tuples(st.just("advance"), st.sampled_from([0, 1, 3, 50, 2000])),  # milliseconds
    ),
    max_size=60,
)


def recipes() -> dict[str, Recipe]:
    short = Recipe("short", b"")
    for _ in range(20):
        short.learn(0.00001)
    return {
        "add": Recipe("plain", b""),
        "add short": short,
        "add retried": Recipe("retried", b"", retry=Retry.of_attempts(2)),
        "add isolated": Recipe("isolated", b"", isolate=True),
        "add timed": Recipe("timed", b"", timeout_s=1.0),
    }


def check(world: World, jobs: list) -> None:
    scheduler = world.scheduler
    assert world.most_active <= scheduler.max_workers
    held = [job for worker in scheduler.workers for job in worker.inflight if not job.has_settled]
    assert len(held) == len(set(held)), "a job is with two workers"
    waiting = [*scheduler.queue, *scheduler.fresh_queue]
    assert len(waiting) == len(set(waiting)), "a job is queued twice"
    assert not set(held) & set(waiting), "a job is queued and with a worker"
    for worker in scheduler.workers:
        numbers = [job.sequence for job in worker.inflight]
        assert numbers == sorted(set(numbers)), "requests of a worker are out of order"
    unsettled = [job for job in jobs if job not in world.ended]
    assert scheduler.unsettled == len(unsettled)
    assert scheduler.added == scheduler.succeeded + scheduler.failed + scheduler.cancelled + scheduler.unsettled
    assert all(job in held or job in waiting or job in scheduler._waiting for job in unsettled), "a job is lost"


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, max_workers=st.integers(1, 3))
def test_no_order_of_events_loses_or_doubles_a_job(events, max_workers):
    world = World(max_workers=max_workers)
    kinds = recipes()
    jobs = []
    for what, number in events:
        running = world.running()
        if what in kinds:
            jobs.append(world.add(kinds[what]))
        elif what == "advance":
            world.advance(number / 1000)
        elif what == "cancel":
            if jobs:
                world.cancel(jobs[number % len(jobs)])
        elif running:
            job = running[number % len(running)]
            if what == "die":
                world.die(world.worker_of(job))
            else:
                world.answer(job, is_failure=what == "fail")
        check(world, jobs)
    world.close()
    for _ in range(1000):
        if world.scheduler.has_finished:
            break
        if world.running():
            world.answer(world.running()[0])
        else:
            world.advance(1.0)
        check(world, jobs)
    assert world.scheduler.has_finished
    assert set(world.ended) >= set(jobs)
