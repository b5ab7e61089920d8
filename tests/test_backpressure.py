"""`max_pending`: callers that submit to a full queue wait in turn, and memory stays flat."""

from __future__ import annotations

import gc
import threading
import tracemalloc

import pytest

from procbackground import ManagerClosedError, Task
from procbackground._testing import View
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import plain

WAITING_BYTES = 2_000_000  # far below what the queue would hold without a bound


def test_a_producer_that_is_faster_than_the_workers_waits_and_memory_stays_flat(make_manager):
    manager = make_manager(max_pending=20)
    payload = "x" * 10_000  # 20 MB for the 2,000 tasks, were they all queued
    manager.run(len, payload).result(PATIENCE_S)
    most = 0
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(2000):
            manager.run(len, payload)
            most = max(most, manager.stats().queued)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert manager.wait(PATIENCE_S)
    assert most <= 20
    assert peak < WAITING_BYTES
    assert manager.stats().succeeded == 2001


def test_waiting_threads_come_in_the_order_in_which_they_began_to_wait(make_manager, gate, recorder):
    manager = make_manager(max_workers=1, max_pending=1, observer=recorder)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    manager.run_task(Task(plain.nothing, name="queued"))
    threads = []
    for number in range(8):
        thread = threading.Thread(target=manager.run_task, args=(Task(plain.nothing, name=str(number)),))
        thread.start()
        threads.append(thread)
        wait_until(lambda: View(manager).waiting_callers == len(threads), "the thread waits behind the others")
    gate.open()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert manager.wait(PATIENCE_S)
    started = [event.task.name for event in recorder.wait_for("task_started", 10)]
    assert started[2:] == [str(number) for number in range(8)]


def test_no_thread_starves_among_many_that_never_stop_submitting(make_manager):
    manager = make_manager(max_workers=2, max_pending=2)
    given = [0] * 6
    enough = threading.Event()

    def produce(number: int) -> None:
        while not enough.is_set():
            manager.run(plain.nothing)
            given[number] += 1

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(given) > 1200, "many tasks were given")
    seen = list(given)
    enough.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert min(seen) > 60  # of 200 on average


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_every_waiting_thread_is_told_when_the_manager_closes(make_manager, gate, how):
    manager = make_manager(max_workers=1, max_pending=1, grace=0.5)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    manager.run(plain.nothing)
    refused = []

    def produce() -> None:
        try:
            manager.run(plain.nothing)
        except ManagerClosedError as error:
            refused.append(error)

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: View(manager).waiting_callers == 4, "all wait")
    if how == "close":
        manager.close(timeout=0)
    else:
        manager.shutdown(wait=False)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(refused) == 4
    gate.open()


def test_a_cancelled_task_makes_room(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending=1)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    queued = manager.run(plain.nothing)
    handles = []
    thread = threading.Thread(target=lambda: handles.append(manager.run(plain.square, 3)))
    thread.start()
    wait_until(lambda: View(manager).waiting_callers == 1, "the producer waits")
    assert queued.cancel()
    thread.join(PATIENCE_S)
    gate.open()
    assert handles[0].result(PATIENCE_S) == 9


def test_a_task_whose_deadline_passes_in_the_queue_makes_room(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending=1)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    manager.run_task(Task(plain.nothing, deadline=0.2))
    second = manager.run(plain.square, 3)  # waits until then
    gate.open()
    assert second.result(PATIENCE_S) == 9


def test_a_map_goes_on_in_a_manager_with_little_room(make_manager):
    manager = make_manager(max_pending=1)
    assert list(manager.map(plain.square, range(300))) == [number * number for number in range(300)]
    assert list(manager.map(plain.square, range(50), chunksize=3)) == [number * number for number in range(50)]
