"""Loops run on nodes, one process each, and move where their node is lost."""

from __future__ import annotations

import os

from tenacity import wait_none

from procbackground import Retry, Task, TaskType
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import counting, looping


def loop(fn, *args, **fields):
    return Task(fn, args=args, type=TaskType.LOOP, **fields)


def test_loop_iterates_in_one_process_and_ends_after_its_iteration(manager, gate):
    handle = manager.run_task(loop(looping.iterate_then_tell_stopping, gate.address))
    first = gate.next_arrival()
    gate.release(first.pid)
    assert gate.wait_for_label() == (False, False)
    second = gate.next_arrival()
    assert second.pid == first.pid
    assert not manager.cancel(timeout=0.5)
    gate.release(second.pid)
    assert manager.cancel(timeout=PATIENCE_S)
    assert handle.cancelled()


def test_failed_iteration_is_told_and_the_loop_goes_on(make_manager, recorder, gate):
    manager = make_manager(observer=recorder)
    handle = manager.run_task(loop(looping.iterate_with_attempt, gate.address))
    for answer in ("fail", "fail", None):
        gate.release(gate.wait_for_arrival(), answer)
    assert len(recorder.wait_for("task_failed", 2)) == 2
    gate.wait_for_arrival()
    assert handle.cancel()


def test_policy_decides_on_a_failed_iteration(make_manager, recorder, gate):
    manager = make_manager(observer=recorder)
    manager.run_task(loop(looping.iterate_with_attempt, gate.address, retry=Retry(wait=wait_none())))
    attempts = []
    for answer in ("fail", "fail", None):
        arrival = gate.next_arrival()
        attempts.append(arrival.label)
        gate.release(arrival.pid, answer)
    attempts.append(gate.next_arrival().label)
    assert attempts == [1, 2, 3, 1]
    assert len(recorder.wait_for("task_retrying", 2)) == 2
    gate.open()


def test_death_of_the_process_is_a_failed_iteration(make_manager, recorder):
    manager = make_manager(observer=recorder)
    handle = manager.run_task(loop(os._exit, 3))
    events = recorder.wait_for("task_failed", 2)
    assert all(event.error.exit_code == 3 for event in events)
    assert handle.cancel()


def test_close_lets_the_running_iteration_finish(make_manager, tmp_path):
    log = tmp_path / "log"
    manager = make_manager()
    handle = manager.run_task(loop(counting.iterate, str(log), interval=0.01))
    wait_until(lambda: len(counting.lines(log)) > 3, "it iterates")
    assert manager.close(timeout=PATIENCE_S).stopped == 0
    assert handle.cancelled()


def test_loop_moves_where_its_node_is_lost(make_cluster, make_manager, recorder, tmp_path):
    cluster = make_cluster()
    log = tmp_path / "log"
    manager = make_manager(cluster, observer=recorder)
    handle = manager.run_task(loop(counting.iterate, str(log)))
    wait_until(lambda: len(counting.lines(log)) > 3, "it iterates")
    pid = counting.lines(log)[-1]
    next(node for node in cluster.nodes if pid in node.pids()).kill()
    (event,) = recorder.wait_for("task_reassigned")
    assert event.handle is handle
    wait_until(lambda: counting.lines(log)[-1] != pid, "another process iterates")
    assert manager.cancel(timeout=PATIENCE_S)
