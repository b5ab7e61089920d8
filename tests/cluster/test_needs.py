"""What tasks need is found on the nodes: cores, memory, and slots that dask calls resources."""

from __future__ import annotations

import logging

import pytest

from procbackground import Task
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import gated, needing, plain


def test_slots_are_the_resources_of_nodes_and_each_task_has_its_own(make_cluster, make_manager, gate):
    cluster = make_cluster(0)
    with_two = cluster.add_node("--resources", "gpu=2", nthreads=4, waits=False)
    cluster.add_node(nthreads=4)
    manager = make_manager(cluster)
    view = manager.options(slots={"gpu": 1})
    handles = [view.run(needing.stop_with_slots, gate.address) for _ in range(3)]
    arrivals = [gate.next_arrival() for _ in range(2)]
    assert sorted(each.label["gpu"] for each in arrivals) == [(0,), (1,)]
    assert {each.pid for each in arrivals} <= set(with_two.pids())
    assert [manager.run(plain.square, number).result(PATIENCE_S) for number in range(8)] == [n * n for n in range(8)]
    assert not gate.has_arrivals()  # the third waits, and keeps nobody
    gate.open()
    for handle in handles:
        given = handle.result(PATIENCE_S)
        assert given["devices"] == given["devices at import"] == str(given["slots"]["gpu"][0])


def test_slots_of_the_manager_are_those_of_each_node_that_has_none(make_cluster, make_manager, gate):
    cluster = make_cluster(0)
    for _ in range(2):
        cluster.add_node(nthreads=2)
    manager = make_manager(cluster, slots={"licence": 1})
    handles = [manager.options(slots={"licence": 1}).run(needing.stop_with_slots, gate.address) for _ in range(4)]
    arrivals = [gate.next_arrival() for _ in range(2)]
    assert [each.label for each in arrivals] == [{"licence": (0,)}] * 2
    assert manager.run(pow, 2, 2).result(PATIENCE_S) == 4
    assert not gate.has_arrivals()
    gate.open()
    for handle in handles:
        handle.result(PATIENCE_S)


def test_cores_are_places_of_one_node(make_cluster, make_manager, gate):
    cluster = make_cluster(0)
    cluster.add_node(nthreads=1, waits=False)
    large = cluster.add_node(nthreads=3)
    manager = make_manager(cluster)
    view = manager.options(cores=2)
    handles = [view.run(needing.stop_with_slots, gate.address) for _ in range(2)]
    first = gate.next_arrival()
    assert first.pid in large.pids()
    beside = [manager.run(gated.stop_then_do, gate.address) for _ in range(2)]
    assert {gate.wait_for_arrival() for _ in beside}.isdisjoint({first.pid})
    assert not gate.has_arrivals()  # the second task of two cores waits
    gate.open()
    assert {handle.result(PATIENCE_S)["threads"] for handle in handles} == {"2"}
    for handle in beside:
        handle.result(PATIENCE_S)


def test_task_of_all_cores_is_not_starved_by_single_ones(make_cluster, make_manager):
    cluster = make_cluster(1, nthreads=2)
    manager = make_manager(cluster, max_workers=16)
    others = [manager.run(plain.pause, 0.05) for _ in range(400)]
    wide = manager.run_task(Task(plain.square, args=(3,), cores=2, priority=1))
    assert wide.result(PATIENCE_S) == 9
    assert not all(handle.done() for handle in others)
    for handle in others:
        assert handle.cancel() or handle.result(PATIENCE_S) == 0.05


def test_task_waits_for_a_node_with_enough_and_that_is_said(make_cluster, make_manager, caplog):
    cluster = make_cluster(1, nthreads=1)
    manager = make_manager(cluster)
    with caplog.at_level(logging.WARNING, "procbackground"):
        cores = manager.run_task(Task(plain.square, args=(2,), cores=2))
        slots = manager.run_task(Task(plain.square, args=(3,), slots={"gpu": 1}))
        memory = manager.run_task(Task(plain.square, args=(4,), memory="1MiB"))
        assert memory.result(PATIENCE_S) == 16
        wait_until(lambda: caplog.text.count("wait for one that has") == 2, "both are warned of")
    assert "1 gpu" in caplog.text
    assert not cores.done()
    assert not slots.done()
    cluster.add_node("--resources", "gpu=1", nthreads=2)
    assert (cores.result(PATIENCE_S), slots.result(PATIENCE_S)) == (4, 9)


def test_task_of_more_memory_than_a_node_has_does_not_begin(make_manager):
    manager = make_manager()
    handle = manager.run_task(Task(plain.square, args=(2,), memory=1 << 50, deadline=1.0))
    with pytest.raises(TimeoutError, match="deadline"):
        handle.result(PATIENCE_S)


def test_map_gives_each_chunk_what_its_function_needs(make_cluster, make_manager):
    cluster = make_cluster(1, nthreads=2)
    manager = make_manager(cluster, slots={"gpu": 2})
    rows = list(manager.options(slots={"gpu": 1}).map(needing.slots_of_row, range(20)))
    assert [number for number, _ in rows] == list(range(20))
    assert {slots["gpu"] for _, slots in rows} <= {(0,), (1,)}
