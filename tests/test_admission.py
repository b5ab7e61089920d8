"""No attempt begins while the machine is short of memory: real memory, held by a process beside us."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from procbackground import Manager, MemoryLimitError, Task, TaskTimeoutError
from procbackground._testing import free_memory_bytes
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import gated, plain
from tests.support.tasks.hoarding import MIB

HELD = 1024 * MIB
LARGE_MACHINE = free_memory_bytes() > 3 * HELD

pytestmark = [
    pytest.mark.skipif(not LARGE_MACHINE, reason="holds a GiB for a moment"),
    pytest.mark.usefixtures("memory_to_itself"),
]

HOLD = "import sys\nheld = bytearray(b'1') * int(sys.argv[1])\nprint('held', flush=True)\nsys.stdin.read()\n"


class Swelling:
    """Is small here, and large where it waits; no two have the same content, of which there would be one copy."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (bytes([self._number]) * (64 * MIB),)


class Hoarder:
    """A process that holds memory until it is told to end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", HOLD, str(HELD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"held\n"

    def end(self) -> None:
        if self._process.returncode is None:
            self._process.communicate()


@pytest.fixture
def hoard() -> Iterator[Callable[[], Hoarder]]:
    made: list[Hoarder] = []

    def start() -> Hoarder:
        made.append(Hoarder())
        return made[-1]

    yield start
    for hoarder in made:
        hoarder.end()


@pytest.fixture
def minimum() -> int:
    """What is to stay free: half of what the hoarder takes can still be taken."""
    return free_memory_bytes() - HELD // 2


def test_attempts_wait_until_memory_is_free_again(make_manager, recorder, hoard, minimum, gate):
    manager = make_manager(max_workers=2, observer=recorder, min_free_memory=minimum)
    running = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    hoarder = hoard()
    (held,) = recorder.wait_for("admission_held")
    assert (held.reason, held.min_free, held.error, held.task) == ("memory", minimum, None, None)
    assert held.free < minimum
    waiting = [manager.run(plain.square, number) for number in range(10)]
    loop = manager.run_task(Task(plain.nothing, type="loop", interval=0.01))
    gate.release(pid, "went on")
    assert running.result(timeout=PATIENCE_S) == "went on"  # and its worker is idle now
    late = manager.run_task(Task(plain.square, args=(3,), deadline=0.1))
    assert isinstance(late.exception(timeout=PATIENCE_S), TaskTimeoutError)
    assert waiting[0].cancel()
    assert not any(handle.done() for handle in waiting[1:])
    assert not loop.running()
    assert not recorder.events("admission_resumed")
    hoarder.end()
    assert [handle.result(timeout=PATIENCE_S) for handle in waiting[1:]] == [n**2 for n in range(1, 10)]
    resumed, *_ = recorder.wait_for("admission_resumed")  # more where others on the machine take memory, too
    assert resumed.reason == "memory"
    assert resumed.free >= minimum
    assert resumed.held_for > 0
    assert manager.cancel(timeout=PATIENCE_S)


def test_with_enough_memory_nothing_is_told_and_nothing_is_slow(make_manager, recorder):
    manager = make_manager(observer=recorder, min_free_memory="1MiB")
    assert list(manager.map(plain.square, range(200))) == [number**2 for number in range(200)]
    assert manager.run_task(Task(plain.square, args=(3,), isolate=True)).result(timeout=PATIENCE_S) == 9
    manager.close()
    assert not recorder.events("admission_held")


def test_close_does_not_wait_for_memory_past_its_timeout(make_manager):
    manager = make_manager(min_free_memory="1000TiB")
    handles = [manager.run(plain.square, number) for number in range(3)]
    report = manager.close(timeout=0.2)
    assert report.cancelled == 3
    assert all(handle.cancelled() for handle in handles)


def test_max_pending_holds_though_workers_are_idle(make_manager, gate, hoard, minimum, recorder):
    manager = make_manager(max_workers=1, max_pending=2, min_free_memory=minimum, observer=recorder)
    running = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    hoarder = hoard()
    recorder.wait_for("admission_held")
    gate.open()
    running.result(timeout=PATIENCE_S)
    manager.run(plain.square, 1)
    manager.run(plain.square, 2)
    assert manager.stats().queued == 2
    from threading import Thread

    third: list[int] = []
    thread = Thread(target=lambda: third.append(manager.run(plain.square, 3).result(timeout=PATIENCE_S)))
    thread.start()
    thread.join(0.3)  # it does not get in
    assert manager.stats().queued == 2
    hoarder.end()
    thread.join(PATIENCE_S)
    assert third == [9]


def test_tasks_fail_that_wait_for_memory_which_there_never_is(make_manager):
    manager = make_manager(min_free_memory="1000TiB")
    loop = manager.run_task(Task(plain.nothing, type="loop"))
    for handle in (manager.run(plain.square, 3), loop, manager.options(isolate=True).run(plain.square, 3)):
        error = handle.exception(timeout=PATIENCE_S)
        assert isinstance(error, MemoryLimitError)
        assert "fewer than min_free_memory (1048576000 MiB)" in str(error)
        assert "smaller min_free_memory" in str(error)
        assert (error.limit, error.task) == (1000 << 40, handle.task)
        assert handle.attempts == []


def test_tasks_fail_when_others_hold_the_memory_for_too_long(make_manager, hoard):
    hoard()

    def fails() -> bool:
        manager = make_manager(min_free_memory=free_memory_bytes() + HELD // 2, start_timeout=1.0)
        error = manager.run(plain.square, 3).exception(timeout=PATIENCE_S)
        return isinstance(error, MemoryLimitError) and "others hold it" in str(error)

    wait_until(fails, "the task fails")  # unless another program frees so much meanwhile


def test_arguments_that_wait_do_not_keep_their_own_tasks_from_running(make_manager, recorder, gate):
    """What is missing is in the queue: it would wait for ever, if nothing ran."""
    minimum = free_memory_bytes() - HELD * 3 // 4
    manager = make_manager(max_workers=1, observer=recorder, min_free_memory=minimum)
    running = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    handles = [manager.run(len, Swelling(number)) for number in range(24)]
    recorder.wait_for("admission_held")
    gate.release(pid)
    running.result(timeout=PATIENCE_S)
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [64 * MIB] * 24


@pytest.mark.parametrize("bad", ["lots", -1, "1.2.3GiB"])
def test_a_size_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="size"):
        Manager(min_free_memory=bad)
