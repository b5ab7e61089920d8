"""Counterparts of the tests of the Go package `background`, one for one.

A parent context has no counterpart in Python; the nearest thing stands in: the thread or event loop that
submitted the work ends, and the work goes on.
"""

from __future__ import annotations

import os
import threading

import pytest
from tenacity import stop_after_attempt

from procbackground import Manager, Retry, Task, TaskType
from procbackground.observers import CallbackObserver
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, gated, plain
from tests.support.tasks.failing import Flaky
from tests.support.tasks.gated import stop_then_do, tell_and_return

METADATA = {"test": "value"}


class Told:
    """Takes one event, and lets the test wait for it."""

    def __init__(self):
        self.events = []
        self._came = threading.Event()

    def __call__(self, event):
        self.events.append(event)
        self._came.set()

    def wait(self):
        assert self._came.wait(PATIENCE_S)
        return self.events[0]


def test_new_task():  # task: Test_New
    task = Task(plain.nothing, type=TaskType.ONE_OFF)
    assert task.fn() is None
    assert task.type == TaskType.ONE_OFF
    assert not task.meta
    assert task.retry is None


def test_new_manager():  # Test_NewManager, Test_New
    with Manager() as manager:
        assert isinstance(manager, Manager)
        assert manager.count_of(TaskType.ONE_OFF) == 0
        assert manager.count_of(TaskType.LOOP) == 0


def test_run_executes_in_the_background(manager, gate):  # Test_RunTaskExecutesInGoroutine
    handle = manager.run(stop_then_do, gate.address)
    pid = gate.wait_for_arrival()  # a `run` that blocked could not let this thread advance to here
    assert pid != os.getpid()
    gate.release(pid, True)
    assert manager.wait(timeout=PATIENCE_S)
    assert handle.result() is True


def test_wait_waits_for_pending_tasks(manager, gate):  # Test_WaitWaitsForPendingTasks
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    has_waited = threading.Event()

    def wait():
        manager.wait()
        has_waited.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not has_waited.is_set()
    gate.open()
    waiting.join(PATIENCE_S)
    assert has_waited.is_set()


def test_a_task_survives_the_end_of_who_submitted_it(manager, gate):  # Test_RunTaskCancelledParentContext
    handles = []
    parent = threading.Thread(target=lambda: handles.append(manager.run(stop_then_do, gate.address)))
    parent.start()
    parent.join(PATIENCE_S)
    gate.release(gate.wait_for_arrival(), "unharmed")
    assert manager.wait(timeout=PATIENCE_S)
    assert handles[0].result() == "unharmed"


def test_a_task_survives_the_end_of_the_event_loop_that_submitted_it(manager, gate):
    import asyncio

    async def submit():
        return manager.run(stop_then_do, gate.address)

    handle = asyncio.run(submit())
    gate.release(gate.wait_for_arrival(), "unharmed")
    assert handle.result(timeout=PATIENCE_S) == "unharmed"


def test_len(make_manager, gate):  # Test_Len
    told = Told()
    manager = make_manager(observer=CallbackObserver(on_task_succeeded=told))
    handles = [manager.run(stop_at_gate, gate.address) for _ in range(10)]
    assert manager.count_of(TaskType.ONE_OFF) == 10
    gate.open()
    assert manager.wait(timeout=PATIENCE_S)
    assert [handle.exception(timeout=0) for handle in handles] == [None] * 10
    assert manager.count_of(TaskType.ONE_OFF) == 0
    manager.close()
    assert len(told.events) == 10


def test_on_task_added(make_manager):  # Test_OnTaskAdded
    told = Told()
    manager = make_manager(observer=CallbackObserver(on_task_added=told))
    manager.run_task(Task(plain.nothing, meta=METADATA))
    assert told.wait().task.meta == METADATA


def test_on_task_succeeded(make_manager):  # Test_OnTaskSucceeded
    told = Told()
    manager = make_manager(observer=CallbackObserver(on_task_succeeded=told))
    manager.run_task(Task(plain.nothing, meta=METADATA))
    assert told.wait().task.meta == METADATA


def test_on_task_failed(make_manager):  # Test_OnTaskFailed
    told = Told()
    manager = make_manager(observer=CallbackObserver(on_task_failed=told))
    manager.run_task(Task(failing.fail, meta=METADATA))
    assert told.wait().task.meta == METADATA
    assert isinstance(told.wait().error, Flaky)


@pytest.mark.parametrize("is_quick", [True, False], ids=["quick", "slow"])
def test_on_task_stalled(make_manager, gate, is_quick):  # Test_OnTaskStalled
    told = Told()
    manager = make_manager(
        observer=CallbackObserver(on_task_stalled=told), stalled_threshold=PATIENCE_S if is_quick else 0.1
    )
    manager.run_task(Task(stop_at_gate, args=(gate.address,), meta=METADATA))
    if is_quick:
        gate.open()
    else:
        assert told.wait().task.meta == METADATA
        gate.open()
    manager.close()
    assert len(told.events) == (0 if is_quick else 1)


def test_a_stalled_task_still_calls_on_task_succeeded(make_manager, gate):
    # Test_StalledTaskStillCallsOnTaskSucceeded
    stalled, succeeded = Told(), Told()
    observer = CallbackObserver(on_task_stalled=stalled, on_task_succeeded=succeeded)
    manager = make_manager(observer=observer, stalled_threshold=0.1)
    handle = manager.run(stop_at_gate, gate.address)
    assert stalled.wait().handle is handle
    gate.open()
    assert succeeded.wait().handle is handle


def test_a_tasks_retry_strategies(manager, gate):  # Test_TaskRetryStrategies
    limit = 5
    task = Task(gated.tell_and_fail, args=(gate.address,), retry=Retry(stop=stop_after_attempt(limit)))
    manager.run_task(task)
    assert manager.wait(timeout=PATIENCE_S)
    assert [gate.wait_for_label() for _ in range(limit)] == [1, 2, 3, 4, 5]
    assert not gate.has_arrivals()


def test_a_managers_retry_strategies(make_manager, gate):  # Test_ManagerRetryStrategies
    limit = 5
    manager = make_manager(retry=Retry(stop=stop_after_attempt(limit)))
    manager.run(gated.tell_and_fail, gate.address)
    assert manager.wait(timeout=PATIENCE_S)
    assert [gate.wait_for_label() for _ in range(limit)] == [1, 2, 3, 4, 5]
    assert not gate.has_arrivals()


def test_a_loop(manager, gate):  # Test_RunTaskTypeLoop
    manager.run_task(Task(tell_and_return, args=(gate.address, "again"), type=TaskType.LOOP))
    assert [gate.wait_for_label() for _ in range(100)] == ["again"] * 100
    assert manager.cancel(timeout=PATIENCE_S)


def test_a_loops_retry_strategies(make_manager, gate):  # Test_RunTaskTypeLoop_RetryStrategies
    told = Told()
    manager = make_manager(observer=CallbackObserver(on_task_failed=told))
    manager.run_task(Task(gated.tell_and_fail, args=(gate.address,), type=TaskType.LOOP, retry=2))
    error = told.wait().error
    assert manager.cancel(timeout=PATIENCE_S)
    assert isinstance(error, Flaky)
    assert [gate.wait_for_label() for _ in range(2)] == [1, 2]


def test_a_loop_survives_the_end_of_who_submitted_it(manager, gate):
    # Test_RunTaskTypeLoop_CancelledParentContext
    task = Task(tell_and_return, args=(gate.address, "again"), type=TaskType.LOOP)
    parent = threading.Thread(target=manager.run_task, args=(task,))
    parent.start()
    parent.join(PATIENCE_S)
    assert [gate.wait_for_label() for _ in range(3)] == ["again"] * 3
    assert manager.count_of(TaskType.LOOP) == 1
    assert manager.cancel(timeout=PATIENCE_S)


def test_count_of(manager, gate):  # Test_CountOf
    def counts():
        return manager.count_of(TaskType.ONE_OFF), manager.count_of(TaskType.LOOP)

    assert counts() == (0, 0)
    manager.run_task(Task(stop_at_gate, args=(gate.address,)))
    assert counts() == (1, 0)
    gate.open()
    assert manager.wait(timeout=PATIENCE_S)
    assert counts() == (0, 0)
    manager.run_task(Task(tell_and_return, args=(gate.address, "again"), type=TaskType.LOOP))
    assert counts() == (0, 1)
    assert manager.cancel(timeout=PATIENCE_S)
    assert counts() == (0, 0)


def test_cancel_ends_loops_and_leaves_one_offs(manager, gate):  # Cancel, in the package's documentation
    loop = manager.run_task(Task(tell_and_return, args=(gate.address, "again"), type=TaskType.LOOP))
    gate.wait_for_arrival()
    one_off = manager.run(plain.square, 3)
    assert manager.cancel(timeout=PATIENCE_S)
    assert loop.cancelled()
    assert one_off.result(timeout=PATIENCE_S) == 9


def test_close_cancels_loops_and_waits_for_one_offs(make_manager, gate):  # Close, likewise
    manager = make_manager()
    loop = manager.run_task(Task(tell_and_return, args=(gate.address, "again"), type=TaskType.LOOP))
    gate.wait_for_arrival()
    one_off = manager.run(plain.pause, 0.05)
    manager.close()
    assert loop.cancelled()
    assert one_off.result(timeout=0) == 0.05
