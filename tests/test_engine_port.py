"""What a manager does with any engine; that of dask is tested in `tests/cluster`."""

from __future__ import annotations

import os

import pytest
from tenacity import wait_none

from procbackground import (
    EngineLostError,
    Manager,
    NodeLostError,
    Retry,
    Task,
    TaskTimeoutError,
    TaskType,
    WorkerDiedError,
    WorkerStartError,
)
from procbackground._wire import attempts
from procbackground._wire.failures import dump_failure
from tests.support.engine import OwnNode
from tests.support.facts import wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S
from tests.support.tasks import failing, gated, looping, plain, reporting


@pytest.fixture
def engine():
    return OwnNode(slots=3)


@pytest.fixture
def manager(make_manager, engine, recorder):
    return make_manager(engine=engine, observer=recorder, max_workers=16, grace=0.5)


def test_tasks_and_maps_come_out_right(manager):
    handles = [manager.run(plain.square, number) for number in range(100)]
    assert [handle.result(PATIENCE_S) for handle in handles] == [number**2 for number in range(100)]
    assert sum(manager.map(plain.square, range(5000))) == sum(number**2 for number in range(5000))
    assert manager.stats().succeeded >= 100


def test_task_that_waits_at_the_engine_counts_as_queued(manager, gate):
    handles = [manager.run(gated.stop_then_do, gate.address) for _ in range(5)]
    for _ in range(3):  # the node runs three at once
        gate.wait_for_arrival()
    wait_until(lambda: manager.stats().running == 3, "three are known to run")
    assert manager.stats().queued == 2
    assert "3 running, 2 queued" in repr(manager)
    gate.open()
    for handle in handles:
        handle.result(PATIENCE_S)


def test_policy_timeout_and_death_are_as_without(manager):
    policy = Retry(wait=wait_none())
    assert manager.run_task(Task(failing.mishap_before, args=(3, "raises"), retry=policy)).result(PATIENCE_S)[0] == 3
    with pytest.raises(WorkerDiedError):
        manager.run(os._exit, 3).result(PATIENCE_S)
    with pytest.raises(TaskTimeoutError, match=r"timeout of 0\.2 s"):
        manager.run_task(Task(plain.pause, args=(60,), timeout=0.2)).result(PATIENCE_S)


def test_cancelled_task_is_gone_with_what_it_started(manager, gate):
    handle = manager.run(gated.start_grandchild, gate.address)
    arrival = gate.next_arrival()
    assert handle.cancel()
    wait_until_gone([arrival.pid, arrival.label])


def test_cancel_that_overtakes_its_request_harms_nobody(manager):
    for _ in range(20):
        handles = [manager.run(plain.square, number) for number in range(20)]
        for handle in handles[::2]:
            handle.cancel()
        assert [handle.result(PATIENCE_S) for handle in handles[1::2]] == [number**2 for number in range(1, 20, 2)]


def test_loop_reports_failures_and_ends_after_its_iteration(manager, gate, recorder):
    loop = manager.run_task(Task(looping.iterate_with_attempt, args=(gate.address,), type=TaskType.LOOP))
    gate.release(gate.wait_for_arrival(), "fail")
    recorder.wait_for("task_failed")
    pid = gate.wait_for_arrival()
    assert not manager.cancel(timeout=0.1)
    gate.release(pid)
    assert manager.cancel(timeout=PATIENCE_S)
    assert loop.cancelled()


def test_reports_of_the_attempt_come_in_order(manager, recorder):
    handle = manager.run(reporting.count_up, 1)
    handle.result(PATIENCE_S)
    recorder.wait_for("task_succeeded")
    assert recorder.kinds(handle) == ["task_added", "task_started", "task_progress", "task_succeeded"]


def test_attempt_that_begins_again_is_told_of(manager, engine, gate, recorder):
    handle = manager.run(gated.stop_then_do, gate.address)
    gate.wait_for_arrival()
    wait_until(handle.running, "it is known to run")
    number = handle._job.worker.process.number
    engine.listener.reports_came([(number, "started", 17, "another node")])
    (event,) = recorder.wait_for("task_reassigned")
    assert (event.pid, event.node, event.lost_node) == (17, "another node", "this process")
    gate.open()
    handle.result(PATIENCE_S)


def test_engine_s_failures_end_one_task_or_all(manager, engine, gate):
    handles = [manager.run_task(Task(gated.stop_then_do, args=(gate.address,), retry=5)) for _ in range(2)]
    for _ in handles:
        gate.wait_for_arrival()
    wait_until(lambda: all(handle.running() for handle in handles), "both are known to run")
    numbers = [handle._job.worker.process.number for handle in handles]
    engine.listener.node_lost(numbers[0], "node after node was lost")  # it may only have been beside the one
    gate.wait_for_arrival()
    wait_until(lambda: handles[0]._job.worker.process.number > max(numbers), "it is tried alone")
    engine.listener.node_lost(handles[0]._job.worker.process.number, "node after node was lost")
    assert isinstance(handles[0].exception(PATIENCE_S), NodeLostError)
    engine.listener.not_run(numbers[1], "it cannot be loaded there")
    assert isinstance(handles[1].exception(PATIENCE_S), WorkerStartError)
    late = manager.run(plain.pause, 60)
    engine.lose()
    assert isinstance(late.exception(PATIENCE_S), EngineLostError)
    with pytest.raises(EngineLostError, match="the way to the node is gone"):
        manager.run(pow, 2, 2)


def test_task_that_a_node_could_not_start_is_tried_alone_all_the_same(manager, engine, gate):
    """A node that is about to be lost may refuse first."""
    handle = manager.run(gated.stop_then_do, gate.address)

    def number_of_running() -> int:
        gate.wait_for_arrival()
        wait_until(handle.running, "it is known to run")
        return handle._job.worker.process.number

    refusal = dump_failure(OSError("no process can be started"), frames_to_skip=0)
    engine.listener.reports_came([(number_of_running(), attempts.REFUSED, refusal)])
    engine.listener.node_lost(number_of_running(), "node after node was lost")
    number_of_running()
    gate.open()
    handle.result(PATIENCE_S)


def test_what_does_not_go_with_an_engine_is_refused(engine):
    with pytest.raises(ValueError, match="leave out engine or inline"):
        Manager(engine=engine, inline=True)


def test_shared_value_is_on_the_node_as_long_as_something_refers_to_it(make_manager, engine):
    manager = make_manager(engine=engine)
    shared = manager.share(b"1" * 2**21)
    assert [manager.run(len, shared).result(PATIENCE_S) for _ in range(3)] == [2**21] * 3
    assert len(engine._shares) == 1
    del shared
    wait_until(lambda: not engine._shares, "the node has forgotten it")
