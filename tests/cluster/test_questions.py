"""A manager asks its nodes which processes they have, and where these are."""

from __future__ import annotations

import os
import signal
import time

from procbackground import Task, TaskType
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import gated, looping, plain

ASK_S = 2.0  # after which a node that has not answered is left out


def is_running(*handles):
    wait_until(lambda: all(handle.running() for handle in handles), "all are known to run")


def test_processes_of_all_nodes_are_listed_with_their_tasks(manager, shared_cluster, gate):
    handles = [manager.run(gated.stop_then_do, gate.address) for _ in range(4)]
    pids = {gate.wait_for_arrival() for _ in handles}
    is_running(*handles)
    busy = [info for info in manager.processes() if info.task is not None]
    assert {info.pid for info in busy} == pids
    assert {id(info.task) for info in busy} == {id(handle.task) for handle in handles}
    assert {info.attempt for info in busy} == {1}
    assert len({info.node for info in busy}) == len(shared_cluster.nodes)
    assert all(info.rss > 0 for info in busy)
    gate.open()
    for handle in handles:
        handle.result(PATIENCE_S)
    assert {info.task for info in manager.processes()} == {None}


def test_stack_of_a_task_comes_from_its_node(manager, gate):
    handle = manager.run(gated.stop_then_do, gate.address)
    gate.wait_for_arrival()
    is_running(handle)
    assert "stop_at_gate" in handle.stack()
    gate.open()
    handle.result(PATIENCE_S)
    assert handle.stack() is None


def test_stack_of_a_loop_comes_from_its_node(manager, gate):
    handle = manager.run_task(Task(looping.iterate_with_attempt, args=(gate.address,), type=TaskType.LOOP))
    gate.wait_for_arrival()
    is_running(handle)
    assert "stop_at_gate" in handle.stack()
    handle.cancel()


def test_dump_names_the_nodes_of_all_that_runs(manager, gate):
    handles = [manager.run(gated.stop_then_do, gate.address) for _ in range(2)]
    pids = [gate.wait_for_arrival() for _ in handles]
    is_running(*handles)
    text = manager.dump()
    assert all(f"process {pid} of " in text for pid in pids)
    assert text.count("stop_at_gate") >= 2
    gate.open()
    for handle in handles:
        handle.result(PATIENCE_S)


def test_task_that_waits_at_the_cluster_has_no_stack(manager, gate):
    holding = [manager.run(gated.stop_then_do, gate.address) for _ in range(4)]
    for _ in holding:
        gate.wait_for_arrival()
    waiting = manager.run(plain.echo, 1)
    assert waiting.stack() is None
    gate.open()
    assert waiting.result(PATIENCE_S) == 1
    for handle in holding:
        handle.result(PATIENCE_S)


def test_frozen_node_keeps_nobody_waiting_and_others_answer(make_cluster, make_manager, gate):
    cluster = make_cluster(nthreads=1)
    manager = make_manager(cluster)
    handles = [manager.run(gated.stop_then_do, gate.address) for _ in range(2)]
    pids = [gate.wait_for_arrival() for _ in handles]
    is_running(*handles)
    frozen = next(node for node in cluster.nodes if pids[0] in node.pids())
    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        answered = {info.pid for info in manager.processes() if info.task is not None}
        assert "has not answered" in manager.dump()
        assert time.monotonic() - began < 2 * ASK_S + 5
        assert answered == {pids[1]}
    finally:
        os.kill(frozen.process.pid, signal.SIGCONT)
    gate.open()
    for handle in handles:
        handle.result(PATIENCE_S)


def test_manager_that_was_not_used_asks_nobody(make_manager):
    manager = make_manager()
    assert manager.processes() == []
    assert manager.dump().count("\n") == 0
