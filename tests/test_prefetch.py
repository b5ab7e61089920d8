"""Tasks that were sent ahead to a worker are fetched back when the task before them takes long."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from concurrent.futures import wait
from pathlib import Path

import pytest

from procbackground._state.job import PREFETCH_DEPTH
from procbackground._testing import View
from tests.support.gate import PATIENCE_S, Address, stop_at_gate

TASKS = 100  # twice as many as wait in a pipe at most: a worker gets its share


def note_and_maybe_stop(path: str, name: str, address: Address | None) -> int:
    """Note that `name` runs, stop at the gate if there is one, and return the pid. Without a path there is no note."""
    if not path:
        return os.getpid()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{name}\n".encode())
    os.close(fd)
    if address is not None:
        stop_at_gate(address, name)
    return os.getpid()


def runs_of(path: Path) -> Counter[str]:
    return Counter(path.read_text().split())


@pytest.fixture
def two_held(make_manager, gate):
    """A manager that knows the task to be short, with both its workers held; and their pids."""
    manager = make_manager(max_workers=2)
    for _ in range(100):
        burst = [manager.run(note_and_maybe_stop, "", "", None) for _ in range(TASKS)]
        assert not wait(burst, PATIENCE_S).not_done
        if View(manager).prefetch_depth(note_and_maybe_stop) >= PREFETCH_DEPTH:
            break
    else:
        raise AssertionError("a task that does nothing is not known to be short")
    for _ in range(2):
        manager.run(stop_at_gate, gate.address)
    return manager, gate.wait_for_arrival(), gate.wait_for_arrival()


@pytest.fixture
def busy_parent():
    """A thread of this process computes: each other thread waits for the interpreter's lock at each of its turns."""
    has_ended = threading.Event()

    def compute() -> None:
        while not has_ended.is_set():
            pass

    thread = threading.Thread(target=compute)
    thread.start()
    yield
    has_ended.set()
    thread.join()


@pytest.mark.usefixtures("busy_parent")
def test_a_parent_that_computes_does_not_take_short_tasks_for_long_ones(make_manager):
    """Else it would send them one by one, each at a turn of its own."""
    manager = make_manager(max_workers=1)
    for _ in range(20):
        burst = [manager.run(note_and_maybe_stop, "", "", None) for _ in range(20)]
        assert not wait(burst, PATIENCE_S).not_done
        if View(manager).prefetch_depth(note_and_maybe_stop) >= PREFETCH_DEPTH:
            return
    raise AssertionError("a task that does nothing is taken for a long one")


@pytest.mark.parametrize("distance", [1, 2, PREFETCH_DEPTH - 1])
def test_two_tasks_that_wait_for_each_other_finish(two_held, gate, tmp_path, distance):
    """Both are sent to the same worker, one behind the other; it could never get to the second by itself."""
    manager, first_pid, second_pid = two_held
    path = tmp_path / "runs"
    names = [str(number) for number in range(TASKS)]
    names[0], names[distance] = meeting = ("one", "other")
    handles = [
        manager.run(note_and_maybe_stop, str(path), name, gate.address if name in meeting else None) for name in names
    ]
    gate.release(first_pid)
    one = gate.next_arrival()
    assert (one.pid, one.label) == (first_pid, "one")
    assert View(manager).in_flight(first_pid) > distance
    gate.release(second_pid)
    other = gate.next_arrival()
    assert other.label == "other"
    assert other.pid != one.pid
    gate.release(one.pid)
    gate.release(other.pid)
    assert not wait(handles, PATIENCE_S).not_done
    assert {len(handle.attempts) for handle in handles} == {1}
    assert set(runs_of(path).values()) == {1}
    assert len(runs_of(path)) == len(handles)


def test_fifty_short_tasks_do_not_wait_for_the_long_one_before_them(two_held, gate, tmp_path):
    manager, first_pid, second_pid = two_held
    path = tmp_path / "runs"
    long = manager.run(note_and_maybe_stop, str(path), "long", gate.address)
    short = [manager.run(note_and_maybe_stop, str(path), str(number), None) for number in range(TASKS)]
    gate.release(first_pid)
    assert gate.next_arrival().label == "long"
    assert View(manager).in_flight(first_pid) >= PREFETCH_DEPTH
    gate.release(second_pid)
    assert {handle.result(timeout=PATIENCE_S) for handle in short} == {second_pid}
    assert not long.done()
    gate.release(first_pid)
    assert long.result(timeout=PATIENCE_S) == first_pid
    assert set(runs_of(path).values()) == {1}
    assert len(runs_of(path)) == len(short) + 1


def test_a_task_behind_a_long_one_does_not_wait_when_the_other_worker_has_died(two_held, gate):
    """Nothing is queued then, so the lost worker's place is wanted only for what waits in the living one's pipe."""
    manager, first_pid, second_pid = two_held
    long = manager.run(note_and_maybe_stop, os.devnull, "long", gate.address)
    short = manager.run(note_and_maybe_stop, "", "", None)
    gate.release(first_pid)
    assert gate.next_arrival().label == "long"
    assert View(manager).in_flight(first_pid) == 2
    os.kill(second_pid, signal.SIGKILL)
    assert short.result(timeout=PATIENCE_S) not in (first_pid, second_pid)
    assert not long.done()
    gate.release(first_pid)
    assert long.result(timeout=PATIENCE_S) == first_pid
