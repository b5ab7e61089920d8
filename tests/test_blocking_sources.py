"""Streams and lazy maps whose source blocks: results come when they are there, and leaving waits for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import queue
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from procbackground import Manager, ManagerClosedError, Task
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.scripts import ENVIRONMENT
from tests.support.tasks import failing, plain

request_id = contextvars.ContextVar("request_id", default="none")

WAYS = {
    "stream": lambda manager, numbers: (each.result() for each in manager.stream(tasks_of(numbers))),
    "ordered": lambda manager, numbers: (each.result() for each in manager.stream(tasks_of(numbers), ordered=True)),
    "map": lambda manager, numbers: manager.map(plain.square, numbers, buffersize=8),
    "chunks": lambda manager, numbers: manager.map(plain.square, numbers, buffersize=8, chunksize=3),
}
EVERY_WAY = pytest.mark.parametrize("start", WAYS.values(), ids=WAYS)


def tasks_of(numbers: Iterator[int]) -> Iterator[Task[int]]:
    return (Task(plain.square, args=(number,)) for number in numbers)


def of_queue(numbers: queue.SimpleQueue[int | None]) -> Iterator[int]:
    return iter(numbers.get, None)  # type: ignore[arg-type]


def source_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "procbackground-source"]


def wait_for_no_sources() -> None:
    wait_until(lambda: not source_threads(), "the threads of all sources have ended")


@EVERY_WAY
def test_each_result_comes_while_the_source_waits_for_the_next_item(manager, start):
    numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    results = start(manager, of_queue(numbers))
    for number in range(5):
        numbers.put(number)
        assert next(results) == number**2
    numbers.put(None)
    assert list(results) == []


@EVERY_WAY
def test_a_source_may_wait_for_what_the_loop_does_with_the_results(manager, start):
    """A crawler: each result brings the next item."""
    found: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    found.put(2)
    came = []
    for result in start(manager, of_queue(found)):
        came.append(result)
        found.put(result if result < 1000 else None)
    assert came == [4, 16, 256, 65536]


@EVERY_WAY
def test_leaving_does_not_wait_for_a_source_that_blocks(manager, start):
    numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    numbers.put(3)
    for result in start(manager, of_queue(numbers)):
        assert result == 9
        break
    assert manager.wait(PATIENCE_S)
    report = manager.close(PATIENCE_S)
    assert report.left in ((), ("the iterable of a stream or map, which has not returned",))
    numbers.put(None)
    wait_for_no_sources()


@EVERY_WAY
def test_closing_the_manager_ends_the_wait_for_a_source_that_blocks(make_manager, start):
    manager = make_manager()
    numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    numbers.put(3)
    results = start(manager, of_queue(numbers))
    assert next(results) == 9
    closer = threading.Thread(target=manager.close)
    closer.start()
    with pytest.raises(ManagerClosedError):
        next(results)
    closer.join(PATIENCE_S)
    numbers.put(None)
    wait_for_no_sources()


@EVERY_WAY
def test_a_source_is_pulled_and_closed_in_one_thread_that_ends(manager, start):
    seen = []

    def numbers() -> Iterator[int]:
        try:
            for number in itertools.count():
                seen.append(threading.current_thread())
                yield number
        finally:
            seen.append(threading.current_thread())

    results = start(manager, numbers())
    next(results)  # of a stream any of the first
    results.close()
    del results
    gc.collect()
    wait_for_no_sources()
    assert len(set(seen)) == 1
    assert len(seen) >= 2
    assert seen[0] is not threading.current_thread()


@EVERY_WAY
def test_a_source_sees_the_context_of_the_iteration(manager, start):
    seen = []

    def numbers() -> Iterator[int]:
        for number in range(3):
            seen.append(request_id.get())
            request_id.set(f"changed {number}")
            yield number

    token = request_id.set("r-1")
    try:
        assert sorted(start(manager, numbers())) == [0, 1, 4]
        assert seen == ["r-1", "changed 0", "changed 1"]
        assert request_id.get() == "r-1"
    finally:
        request_id.reset(token)


@EVERY_WAY
@pytest.mark.parametrize("error", [KeyError("no more"), SystemExit(3), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_what_a_source_raises_is_raised_after_the_results_of_what_came_before(manager, start, error):
    def numbers() -> Iterator[int]:
        yield from range(4)
        raise error

    came = []
    with pytest.raises(type(error)):  # noqa: PT012  # what came before the error counts
        for result in start(manager, Wrapped(numbers())):
            came.append(result)  # noqa: PERF402
    assert sorted(came) == [0, 1, 4, 9]


class Wrapped:
    """An iterator that is no generator."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.numbers = numbers

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        return next(self.numbers)


def test_the_rest_of_a_chunk_comes_before_the_error_of_the_source(manager):
    def numbers() -> Iterator[int]:
        yield from range(7)
        raise KeyError("no more")

    came = []
    with pytest.raises(KeyError):  # noqa: PT012
        for result in manager.map(plain.square, numbers(), buffersize=10, chunksize=3):
            came.append(result)  # noqa: PERF402
    assert came == [number**2 for number in range(7)]


def test_a_lazy_map_over_time_raises_though_its_source_blocks(manager):
    numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    results = manager.map(plain.square, of_queue(numbers), buffersize=3, timeout=0.2)
    with pytest.raises(TimeoutError):
        next(results)
    numbers.put(None)
    wait_for_no_sources()


def test_a_lazy_map_that_is_dropped_unread_leaves_no_thread(manager):
    manager.map(plain.square, itertools.count(), buffersize=3)
    wait_for_no_sources()
    assert manager.wait(PATIENCE_S)


def test_a_source_that_blocks_keeps_no_dropped_manager(make_manager):
    manager = Manager(max_workers=1)
    ref = weakref.ref(manager)
    numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    numbers.put(3)
    for handle in manager.stream(tasks_of(of_queue(numbers))):
        assert handle.result() == 9
        break
    del handle, manager
    gc.collect()
    wait_until(lambda: ref() is None, "the manager is gone")
    numbers.put(None)
    wait_for_no_sources()


def test_closing_a_stream_in_another_thread_ends_its_iteration(manager):
    numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    stream = manager.stream(tasks_of(of_queue(numbers)))
    came: list[Any] = []
    thread = threading.Thread(target=lambda: came.extend(stream))
    thread.start()
    numbers.put(2)
    wait_until(lambda: manager.stats().succeeded == 1, "the first has come")
    stream.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    numbers.put(None)
    wait_for_no_sources()


# -- asyncio ------------------------------------------------------------------------------------------------


def within(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


@pytest.mark.parametrize("is_ordered", [False, True])
def test_tasks_may_come_from_an_asynchronous_source(manager, is_ordered):
    async def main() -> list[int]:
        items: asyncio.Queue[int] = asyncio.Queue()

        async def source():
            while (number := await items.get()) < 4:
                yield Task(plain.square, args=(number,))

        await items.put(0)
        came = []
        async for handle in manager.stream(source(), ordered=is_ordered):
            came.append(handle.result())
            await items.put(len(came))  # each result brings the next item
        return came

    assert within(main()) == [0, 1, 4, 9]


def test_an_asynchronous_source_is_pulled_no_more_than_the_buffer_ahead(manager):
    pulled = 0

    async def source():
        nonlocal pulled
        for number in range(50):
            pulled = number + 1
            yield Task(plain.square, args=(number,))

    async def main() -> None:
        taken = 0
        async for handle in manager.stream(source(), buffersize=4):
            taken += 1
            assert pulled <= taken + 4
            handle.result()
        assert taken == 50

    within(main())


def test_what_an_asynchronous_source_raises_is_raised(manager):
    async def source():
        yield Task(abs, args=(-1,))
        raise failing.Flaky("the input broke")

    async def main() -> list[int]:
        came = []
        with pytest.raises(failing.Flaky):  # noqa: PT012
            async for handle in manager.stream(source()):
                came.append(handle.result())  # noqa: PERF401
        return came

    assert within(main()) == [1]


def test_leaving_ends_an_asynchronous_source_that_waits(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.5)
    has_ended = []

    async def main() -> None:
        async def source():
            try:
                yield Task(abs, args=(-1,))
                yield Task(stop_at_gate, args=(gate.address,))
                await asyncio.Event().wait()
            finally:
                has_ended.append(True)

        async for handle in manager.stream(source()):
            assert handle.result() == 1
            break
        while not has_ended:
            await asyncio.sleep(0)

    within(main())
    assert manager.wait(PATIENCE_S)


def test_a_plain_loop_over_an_asynchronous_source_says_what_to_write(manager):
    async def source():
        yield Task(abs, args=(-1,))

    with pytest.raises(TypeError, match="async for"):
        list(manager.stream(source()))


def test_leaving_an_async_loop_does_not_wait_for_a_plain_source_that_blocks(manager):
    numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    numbers.put(5)

    async def main() -> int:
        async for handle in manager.stream(tasks_of(of_queue(numbers))):
            return handle.result()
        raise AssertionError("nothing came")

    assert within(main()) == 25  # asyncio.run waits for the threads of its executor
    numbers.put(None)
    wait_for_no_sources()


def test_handles_that_are_done_do_not_keep_the_event_loop_from_others(manager):
    async def main() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        async for handle in manager.stream(Task(abs, args=(number,)) for number in range(200)):
            handle.result()
        counting.cancel()
        return turns

    assert within(main()) >= 200


# -- filters ------------------------------------------------------------------------------------------------

FILTER = """
    import sys
    from procbackground import Manager
    from tests.support.tasks import plain

    if __name__ == "__main__":
        with Manager(1) as manager:
            source = sys.stdin.buffer if sys.argv[1] == "bytes" else sys.stdin
            for line in manager.map(len, source, buffersize=50):
                print(line, flush=True)
                if line == 1 and sys.argv[2] == "leave":
                    break
        print("left", flush=True)
"""


@pytest.fixture
def start_filter(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    script = tmp_path / "filter.py"
    script.write_text(textwrap.dedent(FILTER))
    started = []

    def start(*args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(script), *args],
            env=ENVIRONMENT, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for file in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                file.close()


@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_a_filter_prints_each_line_while_its_input_stays_open(start_filter, kind):
    process = start_filter(kind, "stay")
    for text in ("a", "bb", "ccc"):
        process.stdin.write(text + "\n")
        assert process.stdout.readline() == f"{len(text) + 1}\n"
    process.stdin.close()
    assert process.stdout.read() == "left\n"
    assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_a_filter_that_leaves_ends_though_its_input_stays_open(start_filter, kind):
    process = start_filter(kind, "leave")
    process.stdin.write("\n")
    assert process.stdout.read() == "1\nleft\n"
    assert process.wait(PATIENCE_S) == 0  # an interpreter with a thread in `sys.stdin.buffer` may abort
    assert process.stderr.read() == ""


@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_a_filter_whose_output_is_closed_ends_though_its_input_stays_open(start_filter, kind):
    process = start_filter(kind, "stay")
    process.stdin.write("a\n")
    assert process.stdout.readline() == "2\n"
    process.stdout.close()
    process.stdin.write("b\n")
    assert process.wait(PATIENCE_S) in (1, 120)  # 120: what could not be flushed at the exit
    errors = process.stderr.read()
    assert errors.count("BrokenPipeError") >= 1
    assert "Fatal" not in errors


def test_results_come_while_a_socket_stays_open(manager):
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("r") as lines:
        results = manager.map(len, lines, buffersize=4)
        ours.sendall(b"one\n")
        assert next(results) == 4
        began_s = time.monotonic()
        results.close()
        assert time.monotonic() - began_s < PATIENCE_S / 2
        ours.shutdown(socket.SHUT_WR)
        wait_for_no_sources()
