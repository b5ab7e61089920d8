"""Thousands of short tasks while somebody shoots at the busy workers."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tenacity import stop_after_attempt

from procbackground import Manager, Outcome, Retry, WorkerDiedError
from tests.support import tasks

COUNT = 2000
BETWEEN_SHOTS_S = 0.03


@contextmanager
def shots(manager: Manager, number: int) -> Iterator[list[int]]:
    """Kill a random busy worker now and then; gives the list of the pids that were shot at."""
    chance = random.Random(number)
    shot: list[int] = []
    is_over = threading.Event()

    def shoot() -> None:
        while not is_over.wait(BETWEEN_SHOTS_S):
            busy = [process.pid for process in manager.processes() if process.task is not None]
            if busy:
                victim = chance.choice(busy)
                try:
                    os.kill(victim, number)
                except ProcessLookupError:
                    continue
                shot.append(victim)

    shooter = threading.Thread(target=shoot)
    shooter.start()
    try:
        yield shot
    finally:
        is_over.set()
        shooter.join()


def test_with_retry_every_result_is_right(make_manager):
    manager = make_manager(retry=Retry(stop=stop_after_attempt(100)))
    with shots(manager, signal.SIGKILL) as shot:
        handles = [manager.run(tasks.square_after, 0.001, number) for number in range(COUNT)]
        results = [handle.result(timeout=60) for handle in handles]
    assert results == [number**2 for number in range(COUNT)]
    assert len(shot) >= 3
    stats = manager.stats()
    assert (stats.added, stats.succeeded, stats.failed) == (COUNT, COUNT, 0)
    assert stats.retried <= len(shot)
    died = [attempt for handle in handles for attempt in handle.attempts if attempt.outcome == Outcome.DIED]
    assert len(died) == stats.retried
    assert {attempt.pid for attempt in died} <= set(shot)


def test_without_retry_exactly_those_that_were_shot_fail(make_manager):
    manager = make_manager()
    with shots(manager, signal.SIGKILL) as shot:
        handles = [manager.run(tasks.square_after, 0.001, number) for number in range(COUNT)]
        errors = [handle.exception(timeout=60) for handle in handles]
    failed = [error for error in errors if error is not None]
    assert 1 <= len(failed) <= len(shot)
    for error in failed:
        assert isinstance(error, WorkerDiedError)
        assert error.exit_code == -signal.SIGKILL
        assert error.pid in shot
    for number, handle in enumerate(handles):
        if errors[number] is None:
            assert handle.result() == number**2
    stats = manager.stats()
    assert (stats.added, stats.succeeded, stats.failed) == (COUNT, COUNT - len(failed), len(failed))
    assert (stats.queued, stats.running, stats.retried) == (0, 0, 0)


def test_stopped_workers_cost_their_tasks_only(make_manager):
    manager = make_manager(timeout=0.3, grace=0.2, retry=Retry(stop=stop_after_attempt(100)))
    with shots(manager, signal.SIGSTOP) as shot:
        handles = [manager.run(tasks.square_after, 0.001, number) for number in range(150)]
        results = [handle.result(timeout=60) for handle in handles]
    assert results == [number**2 for number in range(150)]
    assert shot
