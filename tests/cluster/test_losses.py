"""Nodes, the scheduler and the manager's process are lost in every way; nothing is lost with them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import distributed
import psutil
import pytest

from procbackground import EngineLostError, Manager, NodeLostError, Task, TaskType
from procbackground.engines import DaskEngine
from tests.cluster.slow_way import SlowWay
from tests.support.facts import wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S
from tests.support.scripts import ENVIRONMENT, ROOT
from tests.support.tasks import counting, gated, plain


def test_lost_node_costs_no_task_and_nothing_that_was_reported_runs_again(
    make_cluster, make_manager, recorder, tmp_path
):
    cluster = make_cluster()
    log = str(tmp_path / "log")
    manager = make_manager(cluster, observer=recorder)
    handles = [manager.run(counting.count, log, number, 0.05) for number in range(200)]
    recorder.wait_for("task_succeeded", 30)
    wait_until(lambda: len({a.pid for handle in handles for a in handle.attempts if a.pid}) > 3, "both nodes take part")
    ended = {event.result for event in recorder.events("task_succeeded")}
    before = Counter(counting.lines(log, "begins"))
    cluster.nodes[0].kill()
    assert [handle.result(PATIENCE_S * 2) for handle in handles] == list(range(200))
    after = Counter(counting.lines(log, "begins"))
    assert all(after[number] == before[number] == 1 for number in ended)
    again = [number for number, count in after.items() if count > 1]
    assert 1 <= len(again) <= 4  # those that the node ran
    reassigned = recorder.events("task_reassigned")
    assert {event.handle.result() for event in reassigned} <= set(again)  # its first milliseconds nobody knows of
    assert reassigned
    assert all(event.lost_node and event.node != event.lost_node for event in reassigned)


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_task_that_has_ended_never_runs_again_however_late_its_future_is_released(
    make_cluster, make_manager, tmp_path, monkeypatch, size
):
    monkeypatch.setattr(distributed.Future, "release", lambda future: None)
    cluster = make_cluster(nthreads=1)
    log = str(tmp_path / "log")
    manager = make_manager(cluster)
    handles = [manager.run(counting.count_and_return, log, number, size) for number in range(6)]
    assert [handle.result(PATIENCE_S) for handle in handles] == [bytes(size)] * 6
    cluster.nodes[0].kill()
    later = [manager.run(counting.count, log, number) for number in range(6, 12)]  # dask runs these after the first
    assert [handle.result(PATIENCE_S) for handle in later] == list(range(6, 12))
    assert sorted(counting.lines(log, "begins")) == list(range(12))


def test_large_result_that_is_lost_while_it_is_fetched_comes_again_and_delays_no_other(
    make_cluster, make_manager, gate, monkeypatch
):
    gather = distributed.Client._gather

    async def lose_the_node_first(client, future, *args, **kwargs):
        if not killed.is_set():
            killed.set()
            node.kill()
            while future.status == "finished":  # from then on the result is waited for until the task has run again
                await asyncio.sleep(0.01)
        return await gather(client, future, *args, **kwargs)

    killed = threading.Event()
    monkeypatch.setattr(distributed.Client, "_gather", lose_the_node_first)
    cluster = make_cluster(nthreads=1)
    manager = make_manager(cluster)
    lost = manager.run(gated.stop_and_return_bytes, gate.address, 1 << 20)
    pid = gate.wait_for_arrival()
    node = next(node for node in cluster.nodes if pid in node.pids())
    gate.release(pid)
    assert killed.wait(PATIENCE_S)
    cluster.add_node(nthreads=2)
    again = gate.wait_for_arrival(PATIENCE_S)
    assert len(manager.run(plain.bytes_of_size, 1 << 20).result(PATIENCE_S)) == 1 << 20
    assert not lost.done()
    gate.release(again)
    assert len(lost.result(PATIENCE_S)) == 1 << 20


def test_killed_worker_takes_its_children_along_and_its_nanny_goes_on(make_cluster, make_manager, gate):
    cluster = make_cluster(1, nanny=True)
    manager = make_manager(cluster)
    handle = manager.run(gated.start_grandchild, gate.address, True)
    arrival = gate.next_arrival()
    os.kill(cluster.nodes[0].worker_pid(), signal.SIGKILL)
    wait_until_gone([arrival.pid, arrival.label], 5.0)
    second = gate.next_arrival(PATIENCE_S * 2)
    assert second.pid != arrival.pid
    assert handle.cancel()
    wait_until_gone([second.pid, second.label], 10.0)


def test_worker_and_guard_that_are_killed_together_leave_nothing(make_cluster, make_manager, gate):
    cluster = make_cluster(1)
    manager = make_manager(cluster)
    handle = manager.run(gated.start_grandchild, gate.address)
    arrival = gate.next_arrival()
    guard = psutil.Process(arrival.pid).parent()
    os.kill(guard.pid, signal.SIGKILL)
    cluster.nodes[0].kill()
    wait_until_gone([arrival.pid, arrival.label], 5.0)
    cluster.add_node()
    assert gate.next_arrival(PATIENCE_S).pid != arrival.pid
    handle.cancel()


def test_node_goes_on_after_its_guard_was_killed(make_cluster, make_manager, gate):
    cluster = make_cluster(1)
    manager = make_manager(cluster)
    handle = manager.run(gated.stop_then_do, gate.address)
    arrival = gate.next_arrival()
    os.kill(psutil.Process(arrival.pid).parent().pid, signal.SIGKILL)
    gate.release(arrival.pid, "done")
    assert handle.result(PATIENCE_S) == "done"
    assert manager.run(pow, 2, 5).result(PATIENCE_S) == 32


def test_frozen_node_is_given_up_after_the_scheduler_s_limit_and_its_late_answer_ignored(
    make_cluster, make_manager, gate, tmp_path, recorder
):
    cluster = make_cluster(environment={"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "3s"}, nthreads=1)
    log = str(tmp_path / "log")
    manager = make_manager(cluster, observer=recorder)
    handle = manager.run(counting.count_and_stop, log, 7, gate.address)
    arrival = gate.next_arrival()
    frozen = next(node for node in cluster.nodes if arrival.pid in node.pids())
    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        second = gate.next_arrival(30)
        assert second.pid != arrival.pid
        gate.release(second.pid)
        assert handle.result(PATIENCE_S) == 7
        recorder.wait_for("task_succeeded")
    finally:
        os.kill(frozen.process.pid, signal.SIGCONT)
        gate.open()
    assert manager.run(pow, 2, 2).result(PATIENCE_S) == 4
    assert len(recorder.wait_for("task_succeeded", 2)) == 2
    assert handle.result() == 7


def test_lost_scheduler_ends_every_handle_and_a_close_in_time(make_cluster, make_manager, gate):
    cluster = make_cluster(1)
    manager = make_manager(cluster, retry=3)
    running = [manager.run(gated.start_grandchild, gate.address) for _ in range(2)]
    arrivals = [gate.next_arrival() for _ in running]
    queued = [manager.run(pow, 2, 2) for _ in range(600)]
    loop = manager.run_task(Task(plain.pause, args=(60,), type=TaskType.LOOP))
    began = time.monotonic()
    cluster.scheduler.kill()
    for handle in (*running, *queued, loop):
        assert isinstance(handle.exception(10), EngineLostError)
    assert time.monotonic() - began < 10
    with pytest.raises(EngineLostError, match="connection to the scheduler is lost"):
        manager.run(pow, 2, 2)
    began = time.monotonic()
    manager.close(timeout=1)
    assert time.monotonic() - began < 8
    wait_until_gone([pid for arrival in arrivals for pid in (arrival.pid, arrival.label)], 20.0)


def test_scheduler_that_is_not_there_is_an_error_at_the_first_call():
    manager = Manager(engine=DaskEngine("tcp://127.0.0.1:9", connect_timeout=0.5))
    with manager, pytest.raises(EngineLostError, match=r"tcp://127\.0\.0\.1:9"):
        manager.run(pow, 2, 2)


def test_task_that_takes_nodes_down_ends_with_node_lost_and_others_do_not(make_cluster, make_manager):
    cluster = make_cluster(2, nanny=True)
    manager = make_manager(cluster)
    poison = manager.run(counting.kill_the_node)
    others = [manager.run(counting.count, os.devnull, number, 0.3) for number in range(20)]
    with pytest.raises(NodeLostError, match="node after node"):
        poison.result(90)
    assert [handle.result(PATIENCE_S * 2) for handle in others] == list(range(20))
    assert len(poison.attempts) == 1


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_node_that_is_asked_to_end_finishes_what_it_runs(make_cluster, make_manager, tmp_path, recorder, seconds):
    cluster = make_cluster()
    log = str(tmp_path / "log")
    manager = make_manager(cluster, observer=recorder)
    handles = [manager.run(counting.count, log, number, seconds / 4) for number in range(40)]
    recorder.wait_for("task_started", 4)
    cluster.nodes[0].process.terminate()
    assert [handle.result(PATIENCE_S * 2) for handle in handles] == list(range(40))
    assert sorted(counting.lines(log, "begins")) == list(range(40))
    assert not recorder.events("task_reassigned")


def running_nodes(dask_scheduler):
    return len(dask_scheduler.running)


@pytest.mark.parametrize("nanny", [False, True])
def test_node_that_is_asked_to_end_keeps_a_large_result_until_it_is_fetched(
    make_cluster, make_manager, tmp_path, monkeypatch, nanny
):
    gather = distributed.Client._gather

    async def wait_first(client, *args, **kwargs):
        is_waiting.set()
        while not may_go_on.is_set():
            await asyncio.sleep(0.01)
        return await gather(client, *args, **kwargs)

    is_waiting, may_go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(distributed.Client, "_gather", wait_first)
    cluster = make_cluster(1, nanny=nanny)
    manager = make_manager(cluster)
    log = str(tmp_path / "log")
    handle = manager.run(counting.count_and_return, log, 0, 1 << 20)
    assert is_waiting.wait(PATIENCE_S)
    (node,) = cluster.nodes
    with distributed.Client(cluster.address, set_as_default=False) as client:
        node.process.terminate()
        wait_until(lambda: client.run_on_scheduler(running_nodes) == 0, "the scheduler knows that it ends")
    may_go_on.set()
    assert len(handle.result(PATIENCE_S)) == 1 << 20
    assert node.process.wait(PATIENCE_S) == 0
    assert len(counting.lines(log, "begins")) == 1


def test_node_that_is_retired_finishes_what_it_runs_and_ends(make_cluster, make_manager, gate, tmp_path):
    cluster = make_cluster()
    log = str(tmp_path / "log")
    manager = make_manager(cluster)
    handles = [manager.run(counting.count_and_stop, log, number, gate.address) for number in range(12)]
    arrivals = [gate.next_arrival() for _ in range(4)]
    retired, other = cluster.nodes
    of_other = [arrival.pid for arrival in arrivals if arrival.pid in other.pids()]
    with distributed.Client(cluster.address, set_as_default=False) as client:
        retiring = threading.Thread(target=client.retire_workers, kwargs={"names": ["node-1"]})
        retiring.start()
        wait_until(lambda: "Retire worker" in cluster.log.read_text(), "it is being retired")
        for pid in of_other:
            gate.release(pid)
        later = [gate.next_arrival() for _ in of_other]  # what waits, and not what the other node still runs
        assert {each.label for each in later}.isdisjoint({each.label for each in arrivals})
        gate.open()
        retiring.join(PATIENCE_S)
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(12))
    assert sorted(counting.lines(log, "begins")) == list(range(12))
    assert retired.process.wait(PATIENCE_S) == 0


def test_signal_to_a_node_that_was_retired_does_not_keep_it_from_ending(make_cluster, gate):
    """As by Slurm, when a cluster of its jobs shrinks, and what a node runs does not end in time."""
    cluster = make_cluster(1)
    (node,) = cluster.nodes
    with Manager(engine=DaskEngine(cluster.address, drain_timeout=0.1), grace=2.0) as manager:
        handle = manager.run(gated.ignore_sigterm, gate.address)
        gate.wait_for_arrival()
        with distributed.Client(cluster.address, set_as_default=False) as client:
            client.retire_workers(names=["node-1"])
            wait_until(lambda: "Stopping worker" in node.log, "it is closing")
            node.process.terminate()
            assert node.process.wait(PATIENCE_S) == 0
        handle.cancel()


def test_node_that_joins_late_takes_part(make_cluster, make_manager, gate):
    cluster = make_cluster(1, nthreads=1)
    manager = make_manager(cluster)
    handles = [manager.run(gated.stop_then_do, gate.address) for _ in range(2)]
    first = gate.wait_for_arrival()
    cluster.add_node(nthreads=1)
    second = gate.wait_for_arrival()
    assert first != second
    gate.open()
    for handle in handles:
        handle.result(PATIENCE_S)


@pytest.fixture
def make_slow_way():
    """A function that makes a slow way to an address; it is there for longer than the cluster that uses it."""
    made = []

    def make(to, delay_s):
        made.append(SlowWay(to, delay_s))
        return made[-1]

    yield make
    for way in made:
        way.close()


def test_slow_way_to_the_scheduler_that_stalls_loses_nothing_and_runs_nothing_twice(
    make_slow_way, make_cluster, make_manager, tmp_path
):
    cluster = make_cluster(1)
    way = make_slow_way(cluster.address, delay_s=0.1)
    slow = cluster.add_node(scheduler=way.address)
    log = str(tmp_path / "log")
    manager = make_manager(cluster)
    handles = [manager.run(counting.count, log, number, 0.1) for number in range(60)]
    wait_until(lambda: manager.stats().succeeded >= 10, "some have ended")
    way.stall(3.0)
    assert [handle.result(PATIENCE_S * 2) for handle in handles] == list(range(60))
    assert sorted(counting.lines(log, "begins")) == list(range(60))
    assert way.longest_s > 1.0  # it did stall something
    assert any(info.node and info.pid in slow.pids() for info in manager.processes())


DRIVER = """
    import sys
    from procbackground import Manager
    from procbackground.engines import DaskEngine
    from tests.support.gate import Address
    from tests.support.tasks.gated import start_grandchild

    if __name__ == "__main__":
        manager = Manager(engine=DaskEngine(sys.argv[1]))
        handles = [manager.run(start_grandchild, {address!r}) for _ in range(2)]
        handles[0].result()
"""


def test_killed_manager_takes_its_tasks_along_and_no_other_manager_s(shared_cluster, make_manager, gate, tmp_path):
    other = make_manager()
    held = other.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER).format(address=gate.address))
    with subprocess.Popen([sys.executable, script, shared_cluster.address], env=ENVIRONMENT, cwd=ROOT) as driver:
        arrivals = [gate.next_arrival() for _ in range(2)]
        driver.kill()
    wait_until_gone([pid for arrival in arrivals for pid in (arrival.pid, arrival.label)], 6.0)
    gate.release(pid, "still here")
    assert held.result(PATIENCE_S) == "still here"
