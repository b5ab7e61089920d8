"""The bound on the bytes that wait: an upper bound that is counted anew only where it matters."""

from __future__ import annotations

import math

from procbackground._state.job import Job, Recipe
from procbackground._supervisor.pending_bytes import FIRST_LOOK, LEAST, SHARE, UNITS, PendingBytes
from tests.unit.model import World, prompt_world


class Queue:
    """A scheduler whose one worker is busy, and the bound on what waits for it."""

    def __init__(self, limit_bytes: float | None, free_bytes: int = 0) -> None:
        self.world: World = prompt_world(1)
        self.running = self.world.submit()
        self.counts = 0
        self.pending = PendingBytes(self.world.scheduler, limit_bytes, lambda: free_bytes)
        self._count = self.world.scheduler.count_payload_bytes
        self.world.scheduler.count_payload_bytes = self.count  # type: ignore[method-assign]
        self.world.scheduler.payload_bytes = 0

    def count(self) -> int:
        self.counts += 1
        return self._count()

    def add(self, size: int) -> Job:
        job = Job(self.running.handle, Recipe("task", b""), bytes(size))
        job.handle = type(self.running.handle)("job")  # type: ignore[call-arg]
        self.world.jobs.append(job)
        self.world.scheduler.accept(job, self.world.now_s)
        return job


def test_room_is_found_without_counting_while_few_bytes_have_come():
    queue = Queue(1000)
    for _ in range(10):
        assert queue.pending.has_room_for(100)
        queue.add(100)
    assert queue.counts == 0
    assert not queue.pending.has_room_for(1)
    assert queue.counts == 1


def test_what_was_sent_or_cancelled_makes_room():
    queue = Queue(1000)
    jobs = [queue.add(400), queue.add(400)]
    assert not queue.pending.has_room_for(400)
    queue.world.cancel(jobs[0])
    assert queue.pending.has_room_for(400)
    queue.add(400)
    queue.world.answer(queue.running)  # the second is sent
    assert queue.pending.has_room_for(600)
    assert not queue.pending.has_room_for(601)


def test_a_full_queue_is_counted_again_only_when_a_sixteenth_was_sent():
    queue = Queue(6400)
    jobs = [queue.add(100) for _ in range(64)]
    for _ in range(50):
        assert not queue.pending.has_room_for(100)
    assert queue.counts == 1
    for job in jobs[:3]:
        queue.world.cancel(job)
        assert not queue.pending.has_room_for(100)
    assert queue.counts == 1
    queue.world.cancel(jobs[3])
    assert queue.pending.has_room_for(100)
    assert queue.counts == 2


def test_job_that_is_too_large_has_room_when_nothing_waits():
    queue = Queue(1000)
    small = queue.add(1)
    assert not queue.pending.has_room_for(5000)
    queue.world.cancel(small)
    assert queue.pending.has_room_for(5000)


def test_default_is_a_share_of_the_free_memory_when_many_bytes_wait():
    queue = Queue(None, free_bytes=100 * LEAST)
    assert queue.pending.limit == FIRST_LOOK
    assert queue.pending.has_room_for(2 * FIRST_LOOK)
    assert queue.pending.limit == 100 * LEAST // SHARE
    short = Queue(None, free_bytes=0)
    assert short.pending.has_room_for(LEAST)
    assert short.pending.limit == LEAST


def test_credits_are_worth_what_is_free():
    queue = Queue(UNITS * 10)
    assert queue.pending.free_units() == UNITS
    queue.add(UNITS * 5)
    assert queue.pending.free_units() == UNITS // 2
    assert queue.pending.units_of(99) == 9
    queue.add(UNITS * 50)
    assert queue.pending.free_units() == 0


def test_no_limit_has_room_for_everything():
    queue = Queue(math.inf)
    queue.add(10_000)
    assert queue.pending.has_room_for(1 << 60)
    assert queue.pending.free_units() == UNITS
    assert queue.pending.units_of(1 << 60) == 0
