"""What a task, its handle and its manager do is the same where attempts run on nodes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from concurrent.futures import CancelledError

import pytest
from distributed import Client
from tenacity import stop_after_attempt, wait_none

from procbackground import (
    InitializerError,
    MemoryLimitError,
    Outcome,
    Retry,
    SerializationError,
    Task,
    TaskTimeoutError,
    WorkerDiedError,
)
from procbackground._node.agent import GIVE_BACK_S
from tests.support.facts import wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S
from tests.support.tasks import failing, gated, hoarding, logs, plain, printing, reporting, saving

MIB = 1 << 20


def test_a_thousand_tasks_come_out_right_and_all_nodes_take_part(manager):
    handles = [manager.run(plain.pause_and_say_who, number, 0) for number in range(1000)]
    results = [handle.result(PATIENCE_S * 3) for handle in handles]
    assert [number for number, _ in results] == list(range(1000))
    assert len({pid for _, pid in results}) >= 4  # two nodes with two places each


def test_tasks_run_under_no_node_itself(manager, shared_cluster):
    pid = manager.run(plain.own_pid).result(PATIENCE_S)
    nodes = {node.process.pid for node in shared_cluster.nodes}
    assert pid not in nodes | {os.getpid()}


def test_lambda_and_class_of_main_travel_by_value(manager):
    assert manager.run(lambda x: x + 1, 41).result(PATIENCE_S) == 42


def test_raised_error_comes_with_the_traceback_of_the_child(manager):
    with pytest.raises(ZeroDivisionError) as caught:
        manager.run(divmod, 1, 0).result(PATIENCE_S)
    assert "Traceback" in str(caught.value.__cause__)


def test_large_arguments_and_results_cross(manager):
    data = os.urandom(3 * MIB)
    assert manager.run(plain.echo, data).result(PATIENCE_S) == data
    assert len(manager.run(plain.bytes_of_size, 50 * MIB).result(PATIENCE_S)) == 50 * MIB


def test_large_result_that_is_reported_before_its_future_is_known_comes(manager, monkeypatch):
    submit = Client.map

    def return_late(client, *args, key, **kwargs):
        futures = submit(client, *args, key=key, **kwargs)
        wait_until(lambda: all(connection._tasks[number].has_result for _, number in key), "its report has come")
        return futures

    assert manager.run(plain.square, 2).result(PATIENCE_S) == 4
    connection = manager._supervisor._loop.engine._connection
    monkeypatch.setattr(Client, "map", return_late)
    assert len(manager.run(plain.bytes_of_size, MIB).result(PATIENCE_S * 2)) == MIB


def test_a_cancel_while_a_large_result_is_fetched_costs_no_other_task(manager, monkeypatch):
    gather = Client._gather

    async def cancel_first(client, futures, *args, **kwargs):
        """Have the task cancelled between the look at the future and its use."""
        if not cancelled.is_set():
            cancelled.set()
            handle.cancel()
            while futures.status != "cancelled":
                await asyncio.sleep(0.01)
        return await gather(client, futures, *args, **kwargs)

    cancelled = threading.Event()
    monkeypatch.setattr(Client, "_gather", cancel_first)
    handle = manager.run(plain.bytes_of_size, MIB)
    with pytest.raises(CancelledError):
        handle.result(PATIENCE_S)
    assert cancelled.wait(PATIENCE_S)
    monkeypatch.undo()
    assert manager.run(plain.square, 3).result(PATIENCE_S) == 9


def test_array_comes_back_writable(manager):
    numpy = pytest.importorskip("numpy")
    array = manager.run(plain.echo, numpy.zeros(1_000_000)).result(PATIENCE_S)
    array[0] = 1
    assert array.sum() == 1


def test_connection_cannot_cross(manager):
    import multiprocessing

    here, there = multiprocessing.Pipe()
    with here, there, pytest.raises(SerializationError, match="cannot cross to another machine"):
        manager.run(plain.echo, there).result(PATIENCE_S)


@pytest.mark.parametrize("new_session", [False, True])
def test_timeout_ends_child_and_grandchild_and_frees_the_place(make_manager, gate, new_session):
    manager = make_manager(max_workers=1, grace=0.5)
    handle = manager.run_task(Task(gated.start_grandchild, args=(gate.address, new_session), timeout=1.0))
    arrival = gate.next_arrival()
    with pytest.raises(TaskTimeoutError, match="timeout of 1 s") as caught:
        handle.result(PATIENCE_S)
    assert "start_grandchild" in caught.value.stack
    wait_until_gone([arrival.pid, arrival.label], 2.0)
    assert manager.run(pow, 2, 3).result(PATIENCE_S) == 8


def test_memory_limit_kills_the_tree(manager):
    handle = manager.run_task(Task(hoarding.hoard_in_a_grandchild, args=(300 * MIB,), memory_limit="100MiB"))
    with pytest.raises(MemoryLimitError) as caught:
        handle.result(PATIENCE_S)
    assert caught.value.limit == 100 * MIB
    assert handle.attempts[0].outcome is Outcome.OVER_MEMORY


def test_cancel_ends_running_tasks_with_what_they_started(make_manager, gate):
    manager = make_manager(grace=0.5)
    handles = [manager.run(gated.start_grandchild, gate.address) for _ in range(4)]
    arrivals = [gate.next_arrival() for _ in handles]
    wait_until(lambda: all(handle.running() for handle in handles), "all run")
    assert all(handle.cancel() for handle in handles)
    wait_until_gone([pid for arrival in arrivals for pid in (arrival.pid, arrival.label)], 3.0)
    again = [manager.run(pow, 2, number) for number in range(8)]
    assert [handle.result(PATIENCE_S) for handle in again] == [2**number for number in range(8)]


def test_cancelled_task_that_waits_at_the_cluster_never_begins(make_manager, gate):
    manager = make_manager()
    holding = [manager.run(gated.stop_then_do, gate.address) for _ in range(4)]
    for _ in holding:
        gate.wait_for_arrival()
    waiting = manager.run(gated.tell_and_return, gate.address, "began")
    assert not waiting.running()
    assert waiting.cancel()
    gate.open()
    for handle in holding:
        handle.result(PATIENCE_S)
    assert manager.run(pow, 2, 2).result(PATIENCE_S) == 4
    assert not gate.has_arrivals()


def test_death_of_the_child_is_an_outcome(manager):
    with pytest.raises(WorkerDiedError) as caught:
        manager.run(failing.die_by, signal.SIGKILL).result(PATIENCE_S)
    assert caught.value.signal == "SIGKILL"


def test_retries_follow_the_policy_each_in_a_fresh_process(manager):
    policy = Retry(stop=stop_after_attempt(3), wait=wait_none())
    handle = manager.run_task(Task(failing.mishap_before, args=(3, "raises"), retry=policy))
    handle.result(PATIENCE_S)
    outcomes = [attempt.outcome for attempt in handle.attempts]
    assert outcomes == [Outcome.RAISED, Outcome.RAISED, Outcome.SUCCEEDED]
    assert len({attempt.pid for attempt in handle.attempts}) == 3


def test_deadline_ends_what_waits_and_what_runs(make_manager, gate):
    manager = make_manager(grace=0.5)
    for handle in [manager.run(gated.tell_and_return, gate.address, None) for _ in range(8)]:
        handle.result(PATIENCE_S)  # the nodes have processes now
    for _ in range(8):
        gate.wait_for_arrival()
    running = [manager.run_task(Task(gated.stop_then_do, args=(gate.address,), deadline=3)) for _ in range(4)]
    pids = [gate.wait_for_arrival() for _ in running]
    waiting = manager.run_task(Task(pow, args=(2, 2), deadline=0.3))
    for handle in (waiting, *running):
        with pytest.raises(TaskTimeoutError, match="deadline"):
            handle.result(PATIENCE_S)
    wait_until_gone(pids, 3.0)


def test_saved_state_survives_a_death(manager):
    handle = manager.run_task(Task(saving.count_to, args=(6, (2, 4)), retry=5))
    assert handle.result(PATIENCE_S) == 6
    assert len(handle.attempts) == 3


def test_priority_decides_at_the_cluster_too(manager, gate):
    holding = [manager.run(gated.stop_then_do, gate.address) for _ in range(4)]
    for _ in holding:
        gate.wait_for_arrival()
    tasks = [
        manager.run_task(Task(gated.tell_and_return, args=(gate.address, level), priority=level))
        for level in (*[0] * 20, 7)
    ]
    gate.open()
    labels = [gate.wait_for_label() for _ in range(21)]
    assert 7 in labels[:8]  # of each node, one of the first
    for handle in (*holding, *tasks):
        handle.result(PATIENCE_S)


def test_map_fails_by_item_whatever_its_chunk(manager):
    results = list(manager.map(failing.fail_if_negative, range(-100, 100), return_exceptions=True))
    assert [isinstance(result, BaseException) for result in results] == [x < 0 for x in range(-100, 100)]


def test_map_loses_only_the_item_that_kills_its_process(manager):
    items = [*range(13), "die", *range(14, 50)]
    results = list(manager.map(failing.die_if_told, items, chunksize=10, return_exceptions=True))
    assert [x for x, result in enumerate(results) if isinstance(result, WorkerDiedError)] == [13]
    assert results[:13] + results[14:] == items[:13] + items[14:]


def test_stream_pulls_lazily(manager):
    handles = manager.stream((Task(pow, args=(number, 2)) for number in range(300)), buffersize=50)
    assert sorted(handle.result() for handle in handles) == [number**2 for number in range(300)]


def test_progress_logs_and_output_reach_the_manager(make_manager, recorder, caplog):
    manager = make_manager(observer=recorder)
    manager.run(reporting.count_up, 5).result(PATIENCE_S)
    assert recorder.wait_for("task_progress")[-1].total == 5
    with caplog.at_level(logging.INFO):
        make_manager().run(logs.log, 1, "from the node").result(PATIENCE_S)
    assert "from the node" in caplog.text
    handle = manager.run_task(Task(printing.say, args=("spoken",), output="capture"))
    handle.result(PATIENCE_S)
    assert handle.output == "spoken\n"
    assert handle.attempts[0].output == "spoken\n"


def test_output_before_a_death_is_in_the_error(manager):
    handle = manager.run_task(Task(printing.say_and_die, args=("last words",), output="capture"))
    with pytest.raises(WorkerDiedError, match="last words"):
        handle.result(PATIENCE_S)


def test_events_of_a_task_come_in_order(make_manager, recorder):
    manager = make_manager(observer=recorder)
    handle = manager.run(reporting.count_up, 1)
    handle.result(PATIENCE_S)
    recorder.wait_for("task_succeeded")
    assert recorder.kinds(handle) == ["task_added", "task_started", "task_progress", "task_succeeded"]


def test_stalled_attempt_is_reported_with_its_stack(make_manager, recorder, gate):
    manager = make_manager(observer=recorder, stalled_threshold=0.2)
    handle = manager.run(gated.stop_then_do, gate.address)
    (event,) = recorder.wait_for("task_stalled")
    assert "stop_at_gate" in event.stack
    gate.open()
    handle.result(PATIENCE_S)


def test_initializer_runs_on_nodes_and_its_failure_is_told(make_manager):
    manager = make_manager(initializer=os.putenv, initargs=("A", "B"))
    assert manager.run(pow, 2, 2).result(PATIENCE_S) == 4
    broken = make_manager(initializer=int, initargs=("no number",))
    with pytest.raises(InitializerError, match="no number"):
        broken.run(pow, 2, 2).result(PATIENCE_S)


def test_environment_reaches_the_children(make_manager):
    manager = make_manager(env={"PB_TEST_OF_NODES": "yes"})
    assert manager.run(os.getenv, "PB_TEST_OF_NODES").result(PATIENCE_S) == "yes"


def test_task_whose_process_is_slow_to_start_is_given_to_the_cluster_once(make_manager):
    manager = make_manager(initializer=time.sleep, initargs=(2 * GIVE_BACK_S,))
    assert manager.run(pow, 2, 2).result(PATIENCE_S) == 4
    assert manager._supervisor._loop.workers._last_number == 1


def test_journal_keeps_results_of_nodes(make_manager, tmp_path):
    path = tmp_path / "batch.sqlite"
    first = make_manager(journal=path)
    assert [first.run(plain.square, x).result(PATIENCE_S) for x in range(5)] == [0, 1, 4, 9, 16]
    first.close()
    second = make_manager(journal=path)
    handles = [second.run(plain.square, x) for x in range(6)]
    assert [handle.result(PATIENCE_S) for handle in handles] == [0, 1, 4, 9, 16, 25]
    assert [len(handle.attempts) for handle in handles] == [0, 0, 0, 0, 0, 1]


def test_max_pending_counts_what_waits_at_the_cluster(make_manager, gate):
    from procbackground import QueueFullError

    manager = make_manager(max_pending=5, when_full="raise")
    holding = [manager.run(gated.stop_then_do, gate.address) for _ in range(4)]
    for _ in holding:
        gate.wait_for_arrival()
    wait_until(lambda: manager.stats().running == 4, "all four are known to run")
    waiting = [manager.run(pow, 2, 2) for _ in range(5)]
    with pytest.raises(QueueFullError):
        manager.run(pow, 2, 2)
    gate.open()
    for handle in (*holding, *waiting):
        handle.result(PATIENCE_S)


def test_close_past_its_timeout_stops_what_runs(make_manager, gate):
    manager = make_manager(grace=0.5)
    running = manager.run(gated.start_grandchild, gate.address)
    arrival = gate.next_arrival()
    began = time.monotonic()
    report = manager.close(timeout=0.2)
    assert time.monotonic() - began < 5
    assert running.cancelled()
    assert report.stopped + report.killed == 1
    wait_until_gone([arrival.pid, arrival.label], 3.0)
