"""A shared value goes to each node once, and lies in its shared memory once."""

from __future__ import annotations

import os
from functools import partial

import pytest

from procbackground import ManagerClosedError, SerializationError, Task
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import sharing

numpy = pytest.importorskip("numpy")

MIB = 1 << 20


def files_of(nodes):
    """Return the shared values that the workers of these nodes have, without those of their processes."""
    names = []
    for node in nodes:
        folder = f"/proc/{node.worker_pid()}/fd"
        for fd in os.listdir(folder):
            try:
                names.append(os.readlink(f"{folder}/{fd}"))
            except OSError:
                pass
    return [name for name in names if "procbackground-share" in name]


def test_tasks_of_all_nodes_get_the_value_and_each_node_has_it_once(manager, shared_cluster, gate):
    shared = manager.share(numpy.arange(MIB))
    handles = [manager.run(sharing.stop_and_sum, gate.address, shared) for _ in range(4)]
    pids = {gate.wait_for_arrival() for _ in handles}
    assert len(pids) == 4
    assert len(files_of(shared_cluster.nodes)) == 2
    gate.open()
    assert {handle.result(PATIENCE_S) for handle in handles} == {MIB * (MIB - 1) // 2}
    again = [manager.run(sharing.total, shared) for _ in range(100)]
    assert {handle.result(PATIENCE_S) for handle in again} == {MIB * (MIB - 1) // 2}
    assert len(files_of(shared_cluster.nodes)) == 2


def test_value_is_mapped_read_only(manager):
    with pytest.raises(ValueError, match="read-only"):
        manager.run(sharing.write_to, manager.share(numpy.ones(MIB))).result(PATIENCE_S)


def test_value_is_freed_with_its_last_reference(manager, shared_cluster):
    shared = manager.share(numpy.ones(MIB))
    assert manager.run(sharing.total, shared).result(PATIENCE_S) == MIB
    assert files_of(shared_cluster.nodes)
    del shared
    wait_until(lambda: not files_of(shared_cluster.nodes), "the nodes have let go of it")


def test_value_in_a_function_and_in_a_map_crosses(manager):
    shared = manager.share(numpy.arange(1000))
    assert manager.run(partial(sharing.element, shared), 7).result(PATIENCE_S) == 7
    assert list(manager.map(partial(sharing.element, shared), range(200))) == list(range(200))


def test_close_frees_what_nodes_have(make_manager, shared_cluster):
    manager = make_manager()
    shared = manager.share(numpy.ones(MIB))
    assert manager.run(sharing.total, shared).result(PATIENCE_S) == MIB
    manager.close()
    wait_until(lambda: not files_of(shared_cluster.nodes), "the nodes have let go of it")
    with pytest.raises(ManagerClosedError):
        _ = shared.value


def test_value_that_was_lost_with_its_only_node_is_sent_again(make_cluster, make_manager, gate):
    cluster = make_cluster(1)
    manager = make_manager(cluster)
    shared = manager.share(numpy.ones(MIB))
    handles = [manager.run(sharing.stop_and_sum, gate.address, shared) for _ in range(3)]
    for _ in range(2):
        gate.wait_for_arrival()
    cluster.nodes[0].kill()
    cluster.add_node()
    for _ in range(2):
        gate.wait_for_arrival(PATIENCE_S)
    gate.open()
    assert [handle.result(PATIENCE_S) for handle in handles] == [MIB] * 3


def test_value_waits_for_the_first_node_and_keeps_nobody(make_cluster, make_manager):
    cluster = make_cluster(0)
    manager = make_manager(cluster)
    shared = manager.share(numpy.ones(MIB))
    waiting = manager.run(sharing.total, shared)
    unwanted = manager.run_task(Task(sharing.total, args=(shared,), deadline=0.5))
    with pytest.raises(TimeoutError, match="deadline"):
        unwanted.result(PATIENCE_S)
    cluster.add_node()
    assert waiting.result(PATIENCE_S) == MIB


def test_shared_value_beside_a_connection_cannot_cross(manager):
    import multiprocessing

    here, there = multiprocessing.Pipe()
    with here, there, pytest.raises(SerializationError, match="cannot cross to another machine"):
        manager.run(len, (manager.share(b"1"), there)).result(PATIENCE_S)
