"""An exception at any line of a caller's call (Ctrl-C, MemoryError) leaves the manager whole.

Each operation runs many times, and each time `KeyboardInterrupt` is raised at the next line event of our code in the
calling thread, until a run comes to its end before that. After each run the manager works, every task has an end, and
the counters agree.
"""

from __future__ import annotations

import asyncio
import concurrent.futures._base
import gc
import itertools
import linecache
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import procbackground
from procbackground import Manager, ManagerClosedError, Shared, Task, TaskHandle, TaskType
from procbackground.observers import Observer
from tests.support.engine import OwnNode
from tests.support.facts import Living, wait_until
from tests.support.gate import PATIENCE_S, Gate
from tests.support.tasks import failing, gated, plain

OURS = Path(procbackground.__file__).parent
FUTURES = concurrent.futures._base.__file__  # our handles inherit from there
LARGE = 300_000  # bytes: more than a pipe holds, so that it takes several writes

# An interrupt in a finalizer cannot go anywhere: Python prints it. That is none of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(900),
]

# An operation gets ready, yields the call to be interrupted, and looks after that at what came of it.
Operation = Generator[Callable[[], object], None, None]


def leaves_with(frame: FrameType, entered: set[tuple[FrameType, int]]) -> bool:
    """Whether a line event is that of a `with` statement on its way out.

    There `__exit__` is not protected any more, and is not called yet. A line event may come there, but neither a signal
    handler nor anything else that raises: CPython looks for signals after calls, at jumps back and where a function
    begins.
    """
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    if text in ("return", "try:"):
        return True  # likewise: a `try` alone is an instruction that does nothing, outside what surrounds it
    if not text.startswith("with "):
        return False
    place = (frame, frame.f_lineno)
    is_on_its_way_out = place in entered
    (entered.discard if is_on_its_way_out else entered.add)(place)
    return is_on_its_way_out


class Interrupt:
    """A trace function that raises `KeyboardInterrupt` at one line event of our code."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.where: str | None = None  # once it has raised
        self.entered: set[tuple[FrameType, int]] = set()  # `with` statements, and in which calls

    def is_in_scope(self, file: str) -> bool:
        return file.startswith(str(OURS)) or file == FUTURES

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if self.where is not None or not self.is_in_scope(file):
            return None
        if event == "line" and not leaves_with(frame, self.entered):
            self.left -= 1
            if not self.left:
                self.where = f"{file}:{frame.f_lineno} ({frame.f_code.co_name})"
                raise KeyboardInterrupt
        return self


def interrupt(act: Callable[[], object], at: int) -> str | None:
    """Call `act`, and interrupt it at one line event; return where that was, or None if it ended before."""
    tracer = Interrupt(at)
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        act()
    except KeyboardInterrupt:
        if tracer.where is None:
            raise
    finally:
        sys.settrace(before)
    return tracer.where


def is_consistent(manager: Manager) -> bool:
    stats = manager.stats()
    return stats.added == stats.succeeded + stats.failed + stats.cancelled and not stats.queued + stats.running


def check_whole(manager: Manager) -> None:
    """Raise `AssertionError` unless the manager works, and all that it took has ended and is counted."""
    assert manager.wait(timeout=PATIENCE_S), f"a task never ends: {manager.stats()}"
    assert manager.run(pow, 2, 3).result(timeout=PATIENCE_S) == 8
    end_s = time.monotonic() + PATIENCE_S
    while not is_consistent(manager):  # a cancelled task is settled before its process has ended
        assert time.monotonic() < end_s, f"the counters do not agree: {manager.stats()}"
        time.sleep(0.001)


def sweep(operation: Callable[[], Operation], check: Callable[[], None]) -> int:
    """Interrupt an operation at each of its lines in turn; return how many there are."""
    at = 0
    bad: list[str] = []
    while True:
        at += 1
        running = operation()
        act = next(running)
        where = interrupt(act, at)
        try:
            next(running, None)
            check()
        except (AssertionError, Exception) as error:
            bad.append(f"interrupted at line event {at}, {where}: {error!r}")
        if where is None or len(bad) == 5:
            break
    assert not bad, "\n".join(bad)
    return at - 1


# -- operations of one manager ------------------------------------------------------------------------------


def submit(manager: Manager, gate: Gate) -> Operation:
    yield lambda: manager.run(pow, 2, 3)


def submit_new_function(manager: Manager, gate: Gate) -> Operation:
    yield lambda: manager.run(lambda: 8)


def submit_task(manager: Manager, gate: Gate) -> Operation:
    yield lambda: manager.run_task(Task(pow, args=(2, 3), retry=3, timeout=PATIENCE_S))


def options(manager: Manager, gate: Gate) -> Operation:
    yield lambda: manager.options(timeout=PATIENCE_S, retry=2).run(pow, 2, 3)


def large_argument(manager: Manager, gate: Gate) -> Operation:
    yield lambda: manager.run(len, b"x" * LARGE)


def unpicklable_argument(manager: Manager, gate: Gate) -> Operation:
    yield lambda: manager.run(id, threading.Lock())


def unpicklable_function(manager: Manager, gate: Gate) -> Operation:
    lock = threading.Lock()
    yield lambda: manager.run(lambda: lock)


def all_held(manager: Manager, gate: Gate) -> list[int]:
    """Have both workers busy until their pids are released."""
    for _ in range(2):
        manager.run(gated.stop_then_do, gate.address)
    return [gate.wait_for_arrival() for _ in range(2)]


def submit_queued(manager: Manager, gate: Gate) -> Operation:
    pids = all_held(manager, gate)
    yield lambda: manager.run(pow, 2, 3)
    for pid in pids:
        gate.release(pid)


def outcome(handle: TaskHandle[Any]) -> Any:
    """Wait for what became of a task that was perhaps cancelled."""
    try:
        return handle.result(timeout=PATIENCE_S)
    except CancelledError:
        return "cancelled"


def cancel_queued(manager: Manager, gate: Gate) -> Operation:
    pids = all_held(manager, gate)
    handle = manager.run(pow, 2, 3)
    yield handle.cancel
    for pid in pids:
        gate.release(pid)
    assert outcome(handle) in (8, "cancelled")


def cancel_running(manager: Manager, gate: Gate) -> Operation:
    handle = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    yield handle.cancel
    if not handle.cancelled():
        gate.release(pid)
    assert outcome(handle) in (None, "cancelled")


def wait_for_all(manager: Manager, gate: Gate) -> Operation:
    manager.run(pow, 2, 3)
    yield lambda: manager.wait(timeout=PATIENCE_S)


def ask(manager: Manager, gate: Gate) -> Operation:
    manager.run(pow, 2, 3)
    yield lambda: (manager.stats(), manager.count_of(TaskType.ONE_OFF), manager.processes())


def result(manager: Manager, gate: Gate) -> Operation:
    handle = manager.run(pow, 2, 3)
    yield lambda: (handle.result(timeout=PATIENCE_S), handle.exception(), handle.attempts, handle.task)
    assert handle.result(timeout=PATIENCE_S) == 8
    assert handle.task.args == (2, 3)


def result_that_is_late(manager: Manager, gate: Gate) -> Operation:
    handle = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()

    def look() -> None:
        for wait in (handle.result, handle.exception):
            with pytest.raises(TimeoutError):
                wait(timeout=0)

    yield look
    assert len(handle.__dict__.get("_sleepers", ())) <= 1  # that of the wait that was interrupted while it cleaned up
    gate.release(pid)
    handle.result(timeout=PATIENCE_S)


def done_callback(manager: Manager, gate: Gate) -> Operation:
    handle = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    calls: list[object] = []

    yield lambda: handle.add_done_callback(calls.append)
    gate.release(pid)
    handle.result(timeout=PATIENCE_S)
    called = threading.Event()
    handle.add_done_callback(lambda _: called.set())
    assert called.wait(PATIENCE_S)
    assert len(calls) <= 1


def awaited(manager: Manager, gate: Gate) -> Operation:
    handle = manager.run(pow, 2, 3)

    async def wait() -> int:
        return await handle

    yield lambda: asyncio.run(wait())
    assert outcome(handle) in (8, "cancelled")


def check_prefix(came: list[Any], results: Iterator[Any] | None, expected: list[Any], ended: bool) -> None:
    """Raise unless what came is what was to come, from the first on, and nothing in between is missing."""
    if results is not None:
        came += results
    assert came == expected[: len(came)]
    assert not ended or came == expected


def map_of(expected: list[Any], start: Callable[[], Iterator[Any]]) -> Operation:
    came: list[Any] = []
    results: list[Iterator[Any]] = []
    ended: list[bool] = []

    def take() -> None:
        results.append(start())
        for value in results[0]:
            came.append(value)  # noqa: PERF402  # one by one: those that came before the interrupt count
        ended.append(True)

    yield take
    check_prefix(came, results[0] if results else None, expected, bool(ended))


def map_adaptive(manager: Manager, gate: Gate) -> Operation:
    expected = [number**2 for number in range(300)]
    return map_of(expected, lambda: manager.map(plain.square, range(300)))


def map_chunked(manager: Manager, gate: Gate) -> Operation:
    numbers = list(range(20))
    return map_of([number**2 for number in numbers], lambda: manager.map(plain.square, numbers, chunksize=3))


def map_buffered(manager: Manager, gate: Gate) -> Operation:
    return map_of([4, 8, 16, 32], lambda: manager.map(pow, [2] * 4, iter([2, 3, 4, 5]), buffersize=2))


def map_with_failures(manager: Manager, gate: Gate) -> Operation:
    came: list[int] = []
    results: list[Iterator[int]] = []
    errors: list[BaseException] = []

    def take() -> None:
        results.append(manager.options(retry=2).map(failing.fail_if_negative, [1, 2, -3, 4, 5], chunksize=5))
        try:
            for value in results[0]:
                came.append(value)
        except failing.Flaky as error:
            errors.append(error)

    yield take
    if results and not errors:
        try:
            came += results[0]
        except failing.Flaky as error:
            errors.append(error)
    assert came == [1, 2][: len(came)]
    assert not errors or came == [1, 2]


def map_of_unpicklable_row(manager: Manager, gate: Gate) -> Operation:
    came: list[Any] = []

    def take() -> None:
        try:
            for value in manager.map(plain.kind_of, [1, threading.Lock(), 2], chunksize=3):
                came.append(value)  # noqa: PERF402
        except procbackground.SerializationError:
            pass

    yield take
    assert came == ["int"][: len(came)]


def map_closed_half_way(manager: Manager, gate: Gate) -> Operation:
    results = manager.map(plain.square, range(2000))
    assert next(results) == 0

    yield results.close
    results.close()
    assert list(results) == []


def map_left_half_way(manager: Manager, gate: Gate) -> Operation:
    def take() -> None:
        for value in manager.map(plain.square, range(100), chunksize=7):
            if value > 100:
                break

    yield take


def stream_of(manager: Manager, ordered: bool) -> Operation:
    came: list[int] = []
    ended: list[bool] = []

    def take() -> None:
        some = (Task(pow, args=(2, number)) for number in range(10))
        for handle in manager.stream(some, ordered=ordered, buffersize=3):
            came.append(handle.result(timeout=PATIENCE_S))  # noqa: PERF401  # as above
        ended.append(True)

    yield take
    assert len(set(came)) == len(came)
    check_prefix(came if ordered else sorted(came) if ended else [], None, [2**n for n in range(10)], bool(ended))


def stream(manager: Manager, gate: Gate) -> Operation:
    return stream_of(manager, ordered=False)


def stream_ordered(manager: Manager, gate: Gate) -> Operation:
    return stream_of(manager, ordered=True)


def stream_async(manager: Manager, gate: Gate) -> Operation:
    async def take() -> list[int]:
        some = (Task(pow, args=(2, number)) for number in range(6))
        return [handle.result() async for handle in manager.stream(some, buffersize=3)]

    yield lambda: asyncio.run(take())


def stream_left_half_way(manager: Manager, gate: Gate) -> Operation:
    def take() -> None:
        for handle in manager.stream((Task(pow, args=(2, number)) for number in range(10)), buffersize=3):
            if handle.result(timeout=PATIENCE_S) > 4:
                break

    yield take


def share(manager: Manager, gate: Gate) -> Operation:
    made: list[Shared[bytes]] = []

    def give() -> None:
        made.append(manager.share(bytearray(LARGE)))
        manager.run(len, made[0])
        assert len(made[0].value) == LARGE

    yield give
    assert not made or manager.run(len, made[0]).result(timeout=PATIENCE_S) == LARGE


def drop_shared(manager: Manager, gate: Gate) -> Operation:
    shared = [manager.share(bytearray(LARGE))]
    pid = manager.run(plain.own_pid, shared[0]).result(timeout=PATIENCE_S)

    yield lambda: (shared.clear(), repr(manager))

    gc.collect()
    maps = Path(f"/proc/{pid}/maps")
    wait_until(lambda: "procbackground-share" not in maps.read_text(), "the worker has let go of the value", 5.0)


def needs(manager: Manager, gate: Gate) -> Operation:
    view = manager.options(cores=2, memory=1)
    yield lambda: (view.run(pow, 2, 3), view.run_task(Task(plain.nothing, output="capture")))


def map_with_needs(manager: Manager, gate: Gate) -> Operation:
    return map_of([0, 1, 4], lambda: manager.options(cores=2).map(plain.square, range(3)))


def look_at_run(manager: Manager, gate: Gate) -> Operation:
    handle = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    yield lambda: (handle.stack(), manager.dump(), repr(manager), manager.report(), handle.progress, handle.running())
    assert gated.stop_then_do.__name__ in (handle.stack() or "")
    gate.release(pid)


QUICK = [
    submit, submit_new_function, submit_task, submit_queued, options, large_argument, unpicklable_argument,
    unpicklable_function, cancel_queued, cancel_running, wait_for_all, result, result_that_is_late, done_callback,
    awaited, share, drop_shared,
]  # fmt: skip
SLOW = [
    ask, map_adaptive, map_chunked, map_buffered, map_with_failures, map_of_unpicklable_row, map_closed_half_way,
    map_left_half_way, stream, stream_ordered, stream_async, stream_left_half_way,
    needs, map_with_needs, look_at_run,
]  # fmt: skip
OPERATIONS = [*QUICK, *(pytest.param(operation, marks=pytest.mark.slow) for operation in SLOW)]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_a_call_interrupted_at_any_line_leaves_the_manager_whole(
    manager: Manager, gate: Gate, operation: Callable[[Manager, Gate], Operation]
):
    for _ in range(2):
        assert manager.run(pow, 2, 3).result(timeout=PATIENCE_S) == 8
    lines = sweep(lambda: operation(manager, gate), lambda: check_whole(manager))
    assert lines > 0


# -- operations that need a manager for each run ------------------------------------------------------------


@pytest.mark.slow
def test_the_first_call_interrupted_at_any_line_leaves_a_manager_that_starts(make_manager: Callable[..., Manager]):
    made: list[Manager] = []

    def operation() -> Operation:
        made.append(make_manager(max_workers=1))
        yield lambda: made[-1].run(pow, 2, 3)

    def check() -> None:
        check_whole(made[-1])
        assert made[-1].close(timeout=PATIENCE_S).is_clean

    assert sweep(operation, check) > 10


def kinds(folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return options that lead calls another way."""
    numbers = itertools.count()
    return {
        "journal": lambda: {"journal": folder / f"{next(numbers)}.sqlite"},
        "engine": lambda: {"engine": OwnNode()},
        "inline": lambda: {"inline": True, "observer": Observer()},
        "status": lambda: {"status": True, "max_pending": 2, "slots": {"gpu": 1}},
    }


def use_in_all_ways(manager: Manager) -> None:
    manager.run(pow, 2, 3)
    manager.run_task(Task(plain.square, args=(3,), retry=2, deadline=PATIENCE_S)).result(timeout=PATIENCE_S)
    assert list(manager.map(plain.square, range(3))) == [0, 1, 4]
    assert len(list(manager.stream(Task(plain.square, args=(number,)) for number in range(2)))) == 2
    manager.run(len, manager.share(b"abc")).result(timeout=PATIENCE_S)
    manager.run(plain.nothing).cancel()
    manager.wait(timeout=PATIENCE_S)
    manager.stats()
    manager.dump()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "engine", "inline", "status"])
def test_calls_of_another_kind_of_manager_interrupted_at_any_line_leave_it_whole(
    make_manager: Callable[..., Manager], tmp_path: Path, kind: str
):
    manager = make_manager(grace=0.5, **kinds(tmp_path)[kind]())
    use_in_all_ways(manager)

    def operation() -> Operation:
        yield lambda: use_in_all_ways(manager)

    assert sweep(operation, lambda: check_whole(manager)) > 100
    assert manager.close(timeout=PATIENCE_S).is_clean


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "engine", "inline", "status"])
def test_the_making_of_a_manager_interrupted_at_any_line_leaves_nothing(monkeypatch, tmp_path: Path, kind: str):
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # pytest keeps what finalizers raise
    options = kinds(tmp_path)[kind]()
    before = Living.now()
    interrupts = itertools.count(1)

    def operation() -> Operation:
        yield lambda: Manager(max_workers=1, **options)

    def check_nothing_is_left() -> None:
        gc.collect()
        end_s = time.monotonic() + PATIENCE_S
        while left := Living.now().more_than(before):
            assert time.monotonic() < end_s, left
            time.sleep(0.001)

    def check() -> None:
        if kind == "journal":
            gc.collect()  # that nobody has it any more shows in the next run
        if not next(interrupts) % 10:  # it takes longer than all else
            check_nothing_is_left()

    assert sweep(operation, check) > 100
    check_nothing_is_left()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "engine", "inline", "status"])
def test_a_close_of_another_kind_of_manager_interrupted_at_any_line_can_be_repeated(
    make_manager: Callable[..., Manager], tmp_path: Path, kind: str
):
    made: list[Manager] = []
    make = kinds(tmp_path)[kind]

    def operation() -> Operation:
        made.append(make_manager(max_workers=1, grace=0.5, **make()))
        handles = [made[-1].run(pow, 2, number) for number in range(3)]
        yield made[-1].close
        began_s = time.monotonic()
        assert made[-1].close(timeout=1.0).is_clean
        assert time.monotonic() - began_s < PATIENCE_S
        assert all(handle.done() for handle in handles)

    assert sweep(operation, lambda: None) > 5


@pytest.mark.slow
def test_a_loop_interrupted_at_any_line_leaves_the_manager_whole(make_manager: Callable[..., Manager]):
    made: list[Manager] = []

    def operation() -> Operation:
        made.append(make_manager(max_workers=1))
        made[-1].run(pow, 2, 3).result(timeout=PATIENCE_S)
        yield lambda: made[-1].run_task(Task(plain.nothing, type=TaskType.LOOP, interval=0.001))

    def check() -> None:
        assert made[-1].cancel(timeout=PATIENCE_S)
        check_whole(made[-1])
        assert made[-1].close(timeout=PATIENCE_S).leftovers == ()

    assert sweep(operation, check) > 10


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [None, 0.0])
def test_a_close_interrupted_at_any_line_can_be_repeated(make_manager: Callable[..., Manager], timeout: float | None):
    made: list[Manager] = []

    def operation() -> Operation:
        made.append(make_manager(max_workers=1, grace=0.5))
        handles = [made[-1].run(pow, 2, 3) for _ in range(3)]
        yield lambda: made[-1].close(timeout)
        began_s = time.monotonic()
        assert made[-1].close(timeout=1.0).leftovers == ()
        assert time.monotonic() - began_s < PATIENCE_S
        assert all(handle.done() for handle in handles)

    def check() -> None:
        with pytest.raises(ManagerClosedError):
            made[-1].run(pow, 2, 3)
        assert is_consistent(made[-1])

    assert sweep(operation, check) > 5
