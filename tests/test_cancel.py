"""`handle.cancel()`: queued or running, that task ends and no other is touched."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from concurrent.futures import CancelledError
from typing import Any

import pytest

from procbackground import Outcome, Task
from procbackground._state.job import Job
from procbackground.observers import Observer
from tests.support.facts import is_gone, wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import gated, plain


def test_a_queued_task_is_cancelled_and_never_runs(make_manager, gate):
    manager = make_manager(max_workers=1)
    blocker = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    doomed = manager.run(gated.tell_and_return, gate.address, "I ran")
    behind = manager.run(plain.square, 3)
    assert doomed.cancel() is True
    assert doomed.cancelled()
    assert doomed.done()
    gate.open()
    blocker.result(timeout=PATIENCE_S)
    assert behind.result(timeout=PATIENCE_S) == 9
    assert not gate.has_arrivals()


def test_a_running_task_is_cancelled_at_once_and_its_process_ends(make_manager, gate):
    manager = make_manager(max_workers=1, grace=PATIENCE_S)
    handle = manager.run(gated.clean_up_when_stopped, gate.address)
    pid = gate.wait_for_arrival()
    assert handle.cancel() is True
    assert handle.cancelled()
    with pytest.raises(CancelledError):
        handle.result(timeout=0)
    with pytest.raises(CancelledError):
        handle.exception(timeout=0)
    assert gate.wait_for_label() == "SystemExit"  # its finally block ran
    wait_until_gone([pid])
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9


def test_a_cancelled_attempt_says_so(make_manager, gate):
    manager = make_manager(max_workers=1)
    handle = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    handle.cancel()
    manager.close()
    (attempt,) = handle.attempts
    assert (attempt.number, attempt.pid, attempt.outcome) == (1, pid, Outcome.CANCELLED)


def test_a_task_that_ignores_sigterm_is_killed_after_grace(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.2)
    handle = manager.run(gated.ignore_sigterm, gate.address)
    pid = gate.wait_for_arrival()
    assert handle.cancel() is True
    assert not is_gone(pid)  # it has its grace
    wait_until_gone([pid])


@pytest.mark.parametrize("task", [gated.tell_and_hold_the_interpreter, gated.tell_and_sleep, gated.tell_and_spin])
def test_a_task_is_ended_wherever_it_is(make_manager, gate, task):
    manager = make_manager(max_workers=1, grace=0.2)
    handle = manager.run(task, gate.address)
    pid = gate.wait_for_arrival()
    assert handle.cancel() is True
    wait_until_gone([pid])
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9


def test_a_stopped_process_is_ended(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.2)
    handle = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    os.kill(pid, signal.SIGSTOP)
    assert handle.cancel() is True
    wait_until_gone([pid])


def test_a_grandchild_goes_too(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.5)
    handle = manager.run(gated.start_grandchild, gate.address)
    arrival = gate.next_arrival()
    handle.cancel()
    wait_until_gone([arrival.pid, arrival.label])


def test_a_done_task_cannot_be_cancelled(manager):
    handle = manager.run(plain.square, 3)
    handle.result(timeout=PATIENCE_S)
    assert handle.cancel() is False
    assert not handle.cancelled()
    assert handle.result() == 9


def test_cancelling_twice_is_fine(make_manager, gate):
    manager = make_manager(max_workers=1, grace=1.0)
    handle = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    assert [handle.cancel(), handle.cancel()] == [True, True]


def test_a_cancel_touches_no_other_task(make_manager, gate):
    manager = make_manager(max_workers=2, grace=1.0)
    neighbour = manager.run(gated.stop_then_do, gate.address)
    neighbours_pid = gate.wait_for_arrival()
    doomed = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    queued = [manager.run(plain.square, number) for number in range(5)]
    assert doomed.cancel()
    assert [handle.result(timeout=PATIENCE_S) for handle in queued] == [0, 1, 4, 9, 16]
    gate.release(neighbours_pid, "unharmed")
    assert neighbour.result(timeout=PATIENCE_S) == "unharmed"


def test_a_cancel_wakes_whoever_waits(make_manager, gate):
    manager = make_manager(max_workers=1, grace=1.0)
    handle = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    woken = []

    def wait():
        with pytest.raises(CancelledError):
            handle.result(timeout=PATIENCE_S)
        woken.append(True)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    handle.cancel()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert woken == [True] * 3


def test_a_cancel_runs_the_callbacks_once(make_manager, gate):
    manager = make_manager(max_workers=1, grace=1.0)
    handle = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    called = []
    handle.add_done_callback(lambda done: called.append(done.cancelled()))
    handle.cancel()
    handle.cancel()
    manager.close()
    assert called == [True]


def test_a_cancel_in_a_callback_works(make_manager, gate):
    manager = make_manager(max_workers=1, grace=1.0)
    running = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    queued = manager.run(plain.nothing)
    running.add_done_callback(lambda _: queued.cancel())
    last = manager.run(plain.square, 4)
    gate.release(pid)
    assert last.result(timeout=PATIENCE_S) == 16
    assert queued.done()


def test_cancels_and_endings_race_without_harm(manager):
    for _ in range(5):
        handles = [manager.run(plain.square, number) for number in range(40)]
        canceller = threading.Thread(target=lambda: [handle.cancel() for handle in handles[::2]])  # noqa: B023
        canceller.start()
        for number, handle in enumerate(handles):
            try:
                assert handle.result(timeout=PATIENCE_S) == number**2
            except CancelledError:
                assert number % 2 == 0
        canceller.join(PATIENCE_S)
    stats = manager.stats()
    assert stats.added == stats.succeeded + stats.cancelled == 200
    assert stats.failed == 0


def test_a_cancelled_task_counts_as_cancelled_only(make_manager, gate):
    manager = make_manager(max_workers=1)
    handle = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    handle.cancel()
    assert manager.wait(timeout=PATIENCE_S)
    wait_until(lambda: manager.stats().running == 0, "nothing runs")
    stats = manager.stats()
    assert (stats.added, stats.succeeded, stats.failed, stats.cancelled) == (1, 0, 0, 1)


def test_a_task_catching_the_stop_keeps_its_handle_cancelled(make_manager, gate):
    manager = make_manager(max_workers=1, grace=1.0)
    handle = manager.run_task(Task(gated.survive_one_stop, args=(gate.address,)))
    pid = gate.wait_for_arrival()
    handle.cancel()
    assert gate.wait_for_label() == "caught"
    wait_until_gone([pid])
    assert handle.cancelled()
    assert manager.run(plain.square, 2).result(timeout=PATIENCE_S) == 4


def test_a_task_that_was_cancelled_in_the_queue_is_kept_by_nobody(make_manager, gate):
    manager = make_manager(max_workers=1)
    running = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    queued = [manager.run_task(Task(plain.square, args=(1,), priority=priority)) for priority in (0, 0, 5)]
    for handle in queued:
        assert handle.cancel()
    kept = [weakref.ref(handle) for handle in queued]
    del queued, handle
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3
    gate.open()
    running.result(timeout=PATIENCE_S)
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9


@pytest.mark.parametrize(
    "options", [{}, {"max_pending": 5}, {"observer": Observer()}], ids=["plain", "room", "observed"]
)
def test_a_task_cancelled_before_its_submit_has_come_is_counted_once(monkeypatch, make_manager, options):
    """A stream that is left cancels the task that its thread is about to submit."""
    manager = make_manager(**options)
    manager.run(pow, 2, 3).result(timeout=PATIENCE_S)
    inbox = manager._supervisor._inbox
    put, late = inbox.put, []

    def put_jobs_later(request: Any) -> None:
        if isinstance(request, Job):
            late.append(request)
        else:
            put(request)

    monkeypatch.setattr(inbox, "put", put_jobs_later)
    handle = manager.run(pow, 2, 4)
    assert handle.cancel()
    monkeypatch.undo()
    for job in late:
        put(job)
    assert manager.run(pow, 2, 5).result(timeout=PATIENCE_S) == 32
    assert handle.cancelled()
    assert manager.wait(timeout=PATIENCE_S)
    stats = manager.stats()
    assert (stats.added, stats.queued, stats.running) == (3, 0, 0)
    assert stats.added == stats.succeeded + stats.cancelled
