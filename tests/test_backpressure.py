"""`max_pending`: callers that submit to a full queue wait in turn, and memory stays flat."""

from __future__ import annotations

import asyncio
import gc
import itertools
import pickle
import threading
import tracemalloc

import pytest

from procbackground import Manager, ManagerClosedError, QueueFullError, Task
from procbackground._supervisor import intake, pending_bytes
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


# -- when_full="raise" --------------------------------------------------------------------------------------


def held_and_full(make_manager, gate, **options):
    """Return a manager whose one worker is held and whose queue has all of its 2 places taken, and the handles."""
    manager = make_manager(max_workers=1, max_pending=2, when_full="raise", **options)
    held = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    return manager, [held, *(manager.run(plain.square, number) for number in range(2))]


def test_a_full_queue_refuses_and_takes_again_when_there_is_room(make_manager, gate):
    manager, handles = held_and_full(make_manager, gate)
    for give in (manager.run, manager.submit, manager.options(retry=2).run):
        with pytest.raises(QueueFullError, match="max_pending") as caught:
            give(plain.square, 9)
        assert (caught.value.max_pending, caught.value.task.args) == (2, (9,))
    with pytest.raises(QueueFullError):
        manager.run_task(Task(plain.square, args=(9,)))
    assert manager.stats().added == 3
    gate.open()
    assert [handle.result(PATIENCE_S) for handle in handles] == [None, 0, 1]
    assert manager.run(plain.square, 9).result(PATIENCE_S) == 81


def test_a_full_queue_refuses_in_an_event_loop_too(make_manager, gate):
    manager, handles = held_and_full(make_manager, gate)

    async def main() -> list[object]:
        with pytest.raises(QueueFullError):
            await manager.run(plain.square, 9)
        gate.open()
        return await asyncio.gather(*handles)

    assert asyncio.run(main()) == [None, 0, 1]


def test_refused_callers_neither_wait_nor_lose_a_place(make_manager, gate):
    """As many as fit are taken, of however many threads."""
    manager = make_manager(max_workers=1, max_pending=5, when_full="raise")
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    taken, refused = [], []

    def give() -> None:
        for _ in range(10):
            try:
                taken.append(manager.run(plain.square, 3))
            except QueueFullError as error:
                refused.append(error)

    threads = [threading.Thread(target=give) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert 5 <= len(taken) <= 5 + len(threads)  # between taking and using a credit a caller may be overlooked
    assert len(taken) + len(refused) == 40
    gate.open()
    assert [handle.result(PATIENCE_S) for handle in taken] == [9] * len(taken)


def test_streams_and_maps_wait_for_room_where_other_callers_are_refused(make_manager):
    manager = make_manager(max_pending=1, when_full="raise")
    squares = [number * number for number in range(50)]
    tasks = (Task(plain.square, args=(number,)) for number in range(50))
    assert [handle.result() for handle in manager.stream(tasks, ordered=True)] == squares
    for options in ({}, {"chunksize": 1}, {"chunksize": 3}, {"buffersize": 5}):
        assert list(manager.map(plain.square, range(50), **options)) == squares


# -- max_pending_bytes ---------------------------------------------------------------------------------------

MIB = 1 << 20


_texts = itertools.count()


def text_of(size: int) -> str:
    """Return a text of this length, another one each time: equal ones have their memory in common."""
    return f"{next(_texts):020}"[-size:].ljust(size, "x")


@pytest.mark.parametrize("size", [MIB // 4, 4 * MIB], ids=["in the request", "in a parcel"])
def test_arguments_that_wait_are_bounded_by_their_bytes(make_manager, gate, size):
    manager = make_manager(max_workers=1, max_pending_bytes=4 * size + 10_000)
    held = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    handles = []
    thread = threading.Thread(target=lambda: handles.extend(manager.run(len, text_of(size)) for _ in range(12)))
    thread.start()
    wait_until(lambda: View(manager).waiting_callers == 1, "the producer waits")
    assert manager.stats().queued == 4
    gate.open()
    thread.join(PATIENCE_S)
    assert [handle.result(PATIENCE_S) for handle in handles] == [size] * 12
    held.result(PATIENCE_S)


def test_no_more_bytes_wait_at_any_time_than_are_allowed(make_manager):
    manager = make_manager(max_workers=2, max_pending_bytes=MIB)
    sizes = [1, 10, 1000, 100_000, 300_000, 7, 500_000] * 30
    most = 0
    handles = []
    for size in sizes:
        handles.append(manager.run(len, text_of(size)))
        most = max(most, View(manager).pending_bytes)
    assert most <= MIB
    assert [handle.result(PATIENCE_S) for handle in handles] == sizes


def test_one_task_that_is_too_large_by_itself_is_let_in_when_none_waits(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending_bytes=MIB)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    small = manager.run(len, "x")
    handles = []
    thread = threading.Thread(target=lambda: handles.append(manager.run(len, text_of(8 * MIB))))
    thread.start()
    wait_until(lambda: View(manager).waiting_callers == 1, "it waits for the small one")
    assert small.cancel()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()  # though the worker is held
    gate.open()
    assert handles[0].result(PATIENCE_S) == 8 * MIB


def test_bytes_that_are_too_many_are_refused_where_that_is_asked_for(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending_bytes="1MiB", when_full="raise")
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    handle = manager.run(len, text_of(MIB * 3 // 4))
    with pytest.raises(QueueFullError, match="max_pending_bytes") as caught:
        manager.run(len, text_of(MIB // 2))
    assert (caught.value.max_pending, caught.value.max_pending_bytes) == (0, MIB)
    other = manager.run(len, text_of(MIB // 8))
    gate.open()
    assert (handle.result(PATIENCE_S), other.result(PATIENCE_S)) == (MIB * 3 // 4, MIB // 8)


def test_streams_and_maps_go_on_in_a_manager_of_few_bytes(make_manager):
    manager = make_manager(max_pending_bytes=1000, when_full="raise")
    tasks = (Task(len, args=(text_of(900),)) for _ in range(30))
    assert [handle.result() for handle in manager.stream(tasks)] == [900] * 30
    assert list(manager.map(len, [text_of(900)] * 30)) == [900] * 30


def test_an_event_loop_is_not_held_up_by_bytes(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending_bytes=1000)

    async def main() -> list[int]:
        held = manager.run(stop_at_gate, gate.address)
        handles = [manager.run(len, text_of(900)) for _ in range(10)]
        gate.open()
        await held
        return list(await asyncio.gather(*handles))

    assert asyncio.run(main()) == [900] * 10


def test_bytes_are_bounded_without_being_asked_for(make_manager, gate, monkeypatch):
    """By a share of the free memory, which is here little."""
    monkeypatch.setattr(pending_bytes, "LEAST", 8 * MIB)
    monkeypatch.setattr(pending_bytes, "FIRST_LOOK", MIB)
    monkeypatch.setattr(intake, "free_memory_bytes", lambda: 0)
    manager = make_manager(max_workers=1)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    handles = []
    thread = threading.Thread(target=lambda: handles.extend(manager.run(len, text_of(MIB)) for _ in range(100)))
    thread.start()
    wait_until(lambda: View(manager).waiting_callers == 1, "the producer waits")
    assert 6 <= manager.stats().queued <= 60  # it is stopped by the supervisor, which comes to it within a moment
    assert len(handles) < 100
    gate.open()
    thread.join(PATIENCE_S)
    assert [handle.result(PATIENCE_S) for handle in handles] == [MIB] * 100
    wait_until(lambda: not View(manager).has_gate, "callers need not come to the gate any more")


def test_a_caller_that_waits_for_bytes_is_told_when_the_manager_closes(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending_bytes=1000, grace=0.5)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    manager.run(len, text_of(900))
    refused = []

    def produce() -> None:
        try:
            manager.run(len, text_of(900))
        except ManagerClosedError as error:
            refused.append(error)

    thread = threading.Thread(target=produce)
    thread.start()
    wait_until(lambda: View(manager).waiting_callers == 1, "it waits")
    manager.close(timeout=0)
    thread.join(PATIENCE_S)
    assert len(refused) == 1
    gate.open()


@pytest.mark.parametrize(("bad", "error"), [("lots", ValueError), (0, ValueError), (-1, ValueError), ([], TypeError)])
def test_bytes_that_are_no_size_are_refused(bad, error):
    with pytest.raises(error, match="max_pending_bytes"):
        Manager(max_pending_bytes=bad)


def test_an_unknown_word_for_a_full_queue_is_refused():
    with pytest.raises(ValueError, match='"wait" or "raise"'):
        Manager(when_full="drop")  # type: ignore[arg-type]


def test_the_error_of_a_full_queue_survives_a_pipe():
    error = pickle.loads(pickle.dumps(QueueFullError("full", max_pending=3)))
    assert (type(error), str(error), error.max_pending) == (QueueFullError, "full", 3)
