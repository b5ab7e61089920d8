"""Cancels, and what is sent to nodes at a bad moment: no place stays taken, and no node is lost."""

from __future__ import annotations

import distributed
import pytest

from procbackground.engines._dask_node import NodePlugin
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import gated

OTHER_VERSION = """
from procbackground._wire import attempts

attempts.own_version = lambda: "another one"
"""


@pytest.fixture
def connect():
    """A function that returns a client of dask's own."""
    clients = []

    def connect(cluster):
        clients.append(distributed.Client(cluster.address, set_as_default=False))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def hold_bundles(address):
    """Have bundles stop at the gate before their node knows them. Run by dask on a node."""
    run = NodePlugin.run

    def stop_and_run(plugin, bundle, data, shares):
        stop_at_gate(address, bundle)
        return run(plugin, bundle, data, shares)

    NodePlugin.run = stop_and_run


def break_questions():
    """Have questions fail in the event loop of a node. Run by dask there."""

    def fail(plugin, number, question):
        raise RuntimeError("can't start new thread")

    NodePlugin.ask.__code__ = fail.__code__  # the handler has the function


def states(dask_worker):
    return [task.state for task in dask_worker.state.tasks.values()]


def test_cancel_of_a_task_that_dask_has_begun_and_its_node_does_not_know_yet(make_cluster, make_manager, connect, gate):
    cluster = make_cluster(1)
    manager = make_manager(cluster)
    manager.run(pow, 2, 2).result(PATIENCE_S)
    client = connect(cluster)
    client.run(hold_bundles, gate.address)
    handle = manager.run(gated.tell_and_return, gate.address, "began")
    node = gate.wait_for_arrival()
    assert handle.cancel()
    wait_until(lambda: list(client.run(states).values()) == [["cancelled"]], "dask has dropped it")
    gate.release(node)
    wait_until(lambda: list(client.run(states).values()) == [[]], "its place is free")
    assert not gate.has_arrivals()


def test_question_ends_no_late_node_that_has_refused_the_manager(make_cluster, make_manager, connect, tmp_path):
    """dask ends a worker that gets a message which it does not know."""
    cluster = make_cluster(1)
    manager = make_manager(cluster)
    manager.run(pow, 2, 2).result(PATIENCE_S)
    (tmp_path / "other_version.py").write_text(OTHER_VERSION)
    other = cluster.add_node("--preload", str(tmp_path / "other_version.py"))
    for _ in range(3):
        manager.processes()
    assert len(connect(cluster).run(states)) == 2
    manager.close()
    assert other.process.poll() is None


def test_failure_in_a_node_s_handler_ends_no_node(make_cluster, make_manager, connect, gate):
    cluster = make_cluster(1)
    manager = make_manager(cluster)
    manager.run(pow, 2, 2).result(PATIENCE_S)
    client = connect(cluster)
    client.run(break_questions)
    assert manager.processes() == []
    assert len(client.run(states)) == 1
    assert manager.run(pow, 2, 2).result(PATIENCE_S) == 4
