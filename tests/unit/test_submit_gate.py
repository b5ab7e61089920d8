"""Callers that wait for room in the queue: first come, first served, and one that gives up holds up nobody."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any

import pytest

from procbackground._state.job import Job, Recipe
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor.inbox import Inbox
from procbackground._supervisor.pending_bytes import PendingBytes
from procbackground._supervisor.submit_gate import SubmitQueueGate, _Place
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate

RECIPE = Recipe("task", b"")


class Queue:
    """A manager's queue with a gate before it; the test is the supervisor."""

    def __init__(self, limit: int) -> None:
        self.inbox = Inbox()
        self.jobs: list[Job] = []
        self.has_room = False
        pending = PendingBytes(Scheduler(max_workers=1, wall=lambda time_s: time_s), math.inf, lambda: 0)
        self.gate = SubmitQueueGate(
            limit, pending, self.inbox, lambda: len(self.jobs), lambda: self.has_room, self.jobs.append, lambda: None,
            lambda gate: None,
        )  # fmt: skip

    def step(self) -> None:
        """Do what the supervisor does each time it wakes up."""
        while self.inbox.requests:
            request = self.inbox.requests.popleft()
            self.jobs.append(request) if isinstance(request, Job) else request()
        self.gate.advance()

    def submit(self) -> Caller:
        return Caller(self)


class Caller:
    """A thread that submits one job. It is in the inbox, or done, when this has been made."""

    def __init__(self, queue: Queue) -> None:
        self.job = Job(None, RECIPE, b"")  # type: ignore[arg-type]
        self.error: BaseException | None = None
        self._queue = queue
        before = len(queue.inbox.requests)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        end_s = time.monotonic() + PATIENCE_S
        while len(queue.inbox.requests) == before and self.thread.is_alive():
            assert time.monotonic() < end_s
            self.thread.join(0.001)

    def _run(self) -> None:
        try:
            self._queue.gate.submit(self.job)
        except BaseException as error:
            self.error = error

    def is_done(self) -> bool:
        """Whether the call has returned; only of callers that the supervisor has dealt with."""
        self.thread.join(PATIENCE_S)
        return not self.thread.is_alive()


def test_credits_let_callers_in_up_to_the_limit_without_asking():
    queue = Queue(3)
    queue.step()
    callers = [queue.submit() for _ in range(3)]
    assert all(caller.is_done() for caller in callers)
    late = queue.submit()
    queue.step()
    assert queue.gate.waiting_callers == 1
    assert queue.jobs == [caller.job for caller in callers]
    queue.jobs.pop(0)
    queue.step()
    assert late.is_done()
    assert queue.jobs[-1] is late.job


def test_callers_are_let_in_in_the_order_in_which_they_came():
    queue = Queue(1)
    callers = [queue.submit() for _ in range(4)]
    for caller in callers:
        queue.step()
        assert caller.is_done()
        assert queue.jobs == [caller.job]
        queue.jobs.clear()


def test_nobody_goes_before_a_caller_in_line():
    """Also where credits were made for others before it came."""
    queue = Queue(1)
    queue.step()
    assert queue.submit().is_done()
    waiting = queue.submit()
    queue.step()
    later = queue.submit()
    queue.jobs.clear()
    queue.step()
    assert waiting.is_done()
    assert queue.jobs == [waiting.job]
    queue.jobs.clear()
    queue.step()
    assert later.is_done()


def test_an_idle_worker_is_room():
    queue = Queue(1)
    queue.step()
    assert queue.submit().is_done()
    second = queue.submit()
    queue.has_room = True
    queue.step()
    assert second.is_done()
    assert len(queue.jobs) == 2


class Interrupted:
    """A turn at which the caller is interrupted."""

    def __init__(self, *_: Any) -> None:
        pass

    def acquire(self) -> None:
        raise KeyboardInterrupt

    def release(self) -> None:
        pass


def test_a_caller_that_gives_up_holds_up_nobody_and_its_job_is_dropped(monkeypatch):
    queue = Queue(1)
    queue.step()
    assert queue.submit().is_done()
    made: list[_Place] = []

    def make_place(job: Job, waits: bool) -> _Place:
        place = _Place(job, waits)
        place.turn = Interrupted()  # type: ignore[assignment]
        made.append(place)
        return place

    gave_up = Job(None, RECIPE, b"")  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr("procbackground._supervisor.submit_gate._Place", make_place)
        with pytest.raises(KeyboardInterrupt):
            queue.gate.submit(gave_up)
    behind = queue.submit()
    queue.step()
    assert made[0].is_given_up
    queue.jobs.clear()
    queue.step()
    assert behind.is_done()
    assert queue.jobs == [behind.job]


def test_a_refusal_reaches_callers_in_line_and_those_that_come_later_each_with_an_error_of_its_own():
    queue = Queue(1)
    queue.step()
    assert queue.submit().is_done()
    waiting = [queue.submit() for _ in range(2)]
    queue.step()
    queue.gate.refuse_line(lambda: LookupError("closed"))
    late = queue.submit()
    queue.step()
    callers = [*waiting, late]
    assert all(caller.is_done() for caller in callers)
    assert all(isinstance(caller.error, LookupError) for caller in callers)
    assert len({id(caller.error) for caller in callers}) == 3
    assert len(queue.jobs) == 1


def test_a_thread_with_a_running_event_loop_never_waits():
    queue = Queue(1)

    async def submit() -> None:
        for _ in range(5):
            queue.gate.submit(Job(None, RECIPE, b""))  # type: ignore[arg-type]

    asyncio.run(submit())
    queue.step()
    assert len(queue.jobs) == 5
    assert queue.gate.waiting_callers == 0


def test_a_job_that_is_cancelled_in_the_line_is_counted_once_and_not_taken_in(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending=1)
    handles = [manager.run(stop_at_gate, gate.address) for _ in range(2)]
    gate.wait_for_arrival()
    late = threading.Thread(target=manager.run, args=(pow, 2, 2))
    late.start()
    line = manager._supervisor._loop.gate._line
    wait_until(lambda: len(line) == 1, "a caller waits for room")
    assert line[0].job.handle.cancel()
    gate.open()
    late.join(PATIENCE_S)
    assert not late.is_alive()
    for handle in handles:
        handle.result(timeout=PATIENCE_S)
    assert manager.wait(PATIENCE_S)
    stats = manager.stats()
    assert (stats.added, stats.succeeded, stats.cancelled, stats.queued) == (3, 2, 1, 0)
