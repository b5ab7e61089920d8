"""Nodes get to know of a manager, whatever comes between; what they declare is never lost."""

from __future__ import annotations

import logging
import os
import signal

import distributed
import pytest

from procbackground import EngineLostError, Task
from procbackground.engines._dask_scheduler import SchedulerSide
from tests.cluster.nodes import left_in_cluster
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import needing, plain

OTHER_VERSION = """
from procbackground._wire import attempts

attempts.own_version = lambda: "another one"
"""


@pytest.fixture
def other_version(tmp_path):
    """Options of a node that has another version of the package."""
    path = tmp_path / "other_version.py"
    path.write_text(OTHER_VERSION)
    return "--preload", str(path)


def forget_managers(dask_scheduler):
    """Do the first thing that happens when a manager is gone. Run by dask in its scheduler."""
    for name, plugin in list(dask_scheduler.plugins.items()):
        if isinstance(plugin, SchedulerSide):
            del dask_scheduler.plugins[name]


def test_node_that_joins_while_a_manager_leaves_forgets_it_and_has_places_for_the_next(make_cluster, make_manager):
    cluster = make_cluster(1, nthreads=1)
    leaving = make_manager(cluster)
    assert leaving.run(pow, 2, 2).result(PATIENCE_S) == 4
    with distributed.Client(cluster.address, set_as_default=False) as client:
        client.run_on_scheduler(forget_managers)
        cluster.add_node(nthreads=2)
        plugins = [left for left in left_in_cluster(client, 2) if "plugin" in left]
        assert len(plugins) == 1  # that of the first node
    after = make_manager(cluster).run_task(Task(needing.slots_of_row, args=(1,), cores=2))
    after.result(PATIENCE_S)


def test_late_node_that_refuses_the_manager_costs_no_task_and_is_named(
    make_cluster, make_manager, other_version, caplog
):
    cluster = make_cluster(1, nthreads=1)
    manager = make_manager(cluster)
    assert manager.run(pow, 2, 2).result(PATIENCE_S) == 4
    with caplog.at_level(logging.WARNING, "procbackground"):
        cluster.add_node(*other_version, nthreads=4)
        handles = [manager.run(plain.pause, 0.03) for _ in range(30)]
        assert [handle.result(PATIENCE_S) for handle in handles] == [0.03] * 30
        assert {len(handle.attempts) for handle in handles} == {1}
        wait_until(lambda: "gets no tasks" in caplog.text, "the node is named")
    assert "the node has procbackground another one" in caplog.text


def test_manager_that_a_node_refuses_at_its_start_says_so(make_cluster, make_manager, other_version):
    cluster = make_cluster(0)
    cluster.add_node(*other_version)
    with pytest.raises(EngineLostError, match="the node has procbackground another one"):
        make_manager(cluster).run(pow, 2, 2).result(PATIENCE_S)


@pytest.mark.slow
def test_frozen_node_keeps_no_manager_from_the_others_and_takes_part_later(make_cluster, make_manager):
    cluster = make_cluster(nthreads=1)
    frozen = cluster.nodes[1].process
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        manager = make_manager(cluster)
        handles = [manager.run(plain.pause_and_say_who, number, 0.1) for number in range(20)]
        wait_until(lambda: any(handle.done() for handle in handles), "the other node runs some")
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    results = [handle.result(PATIENCE_S) for handle in handles]
    assert [number for number, _ in results] == list(range(20))
    assert len({pid for _, pid in results}) == 2
