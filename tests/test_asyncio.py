"""Use from asyncio: awaiting a handle never blocks the event loop, and cancelling the wait cancels the task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from procbackground import Manager, Task
from tests.support.facts import wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, plain

LONGEST_PAUSE_S = 1.0  # of an event loop that nothing blocks, on a busy machine


class Pulse:
    """Notes for how long the event loop did not come round at the most."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def __aenter__(self) -> Pulse:
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)
        self._task.cancel()

    async def _beat(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            self.longest_s = max(self.longest_s, now - last)
            last = now


async def arrival(gate):
    return await asyncio.to_thread(gate.wait_for_arrival)


def within(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


# -- a full queue -------------------------------------------------------------------------------------------


def test_a_full_queue_never_blocks_the_event_loop(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending=2)

    async def main() -> list[int]:
        holding = manager.run(stop_at_gate, gate.address)
        await arrival(gate)
        handles = [manager.run(abs, -number) for number in range(50)]  # more than may wait
        assert not holding.done()
        gate.open()
        return await asyncio.gather(*handles)

    assert within(main()) == list(range(50))


def test_run_in_executor_with_a_full_queue_does_not_block_either(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending=1)

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        manager.run(stop_at_gate, gate.address)
        await arrival(gate)
        waiting = [loop.run_in_executor(manager, abs, -number) for number in range(20)]
        gate.open()
        return await asyncio.gather(*waiting)

    assert within(main()) == list(range(20))


def test_a_stream_with_a_full_queue_lets_the_loop_run(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending=1)

    async def main() -> int:
        seen = 0
        async with Pulse() as pulse:
            manager.run(stop_at_gate, gate.address)
            await arrival(gate)
            asyncio.get_running_loop().call_later(0.3, gate.open)  # until then the filling thread waits for room
            async for handle in manager.stream((Task(abs, args=(number,)) for number in range(30)), buffersize=20):
                assert handle.exception() is None
                seen += 1
        assert pulse.longest_s < LONGEST_PAUSE_S
        return seen

    assert within(main()) == 30


# -- stopping -----------------------------------------------------------------------------------------------


def test_cancelling_run_in_executors_future_ends_the_work(make_manager, gate):
    manager = make_manager(grace=1)

    async def main() -> int:
        future = asyncio.get_running_loop().run_in_executor(manager, stop_at_gate, gate.address)
        pid = await arrival(gate)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        return pid

    wait_until_gone([within(main())])


def test_a_failing_sibling_in_a_task_group_ends_the_work(make_manager, gate):
    manager = make_manager(grace=1)
    pids = []

    async def wait_for_work() -> None:
        await manager.run(stop_at_gate, gate.address)

    async def fail() -> None:
        pids.append(await arrival(gate))
        raise failing.Flaky

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_for_work())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        within(main())
    assert [type(error) for error in caught.value.exceptions] == [failing.Flaky]
    wait_until_gone(pids)


def test_a_timeout_around_several_ends_all_of_them(make_manager, gate):
    manager = make_manager(max_workers=2, grace=1)
    pids = []

    async def main() -> None:
        async with asyncio.timeout(None) as limit:
            first, second = (manager.run(stop_at_gate, gate.address) for _ in range(2))
            pids.extend([await arrival(gate) for _ in range(2)])
            limit.reschedule(asyncio.get_running_loop().time() + 0.1)  # when both are awaited
            await asyncio.gather(first, second)

    with pytest.raises(TimeoutError):
        within(main())
    wait_until_gone(pids)


def test_an_exception_in_an_async_block_stops_what_runs(gate):
    async def main() -> None:
        async with Manager(1, grace=1) as manager, Pulse() as pulse:
            manager.run(stop_at_gate, gate.address)
            pids.append(await arrival(gate))
            raise failing.Flaky
        assert pulse.longest_s < LONGEST_PAUSE_S

    pids: list[int] = []
    with pytest.raises(failing.Flaky):
        within(main())
    wait_until_gone(pids)


# -- streams ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_ordered", [False, True])
def test_leaving_an_async_stream_half_way_cancels_what_is_out(make_manager, gate, is_ordered):
    manager = make_manager(max_workers=2, grace=1)

    def give() -> Iterator[Task[object]]:
        yield Task(plain.nothing)
        for _ in range(10):
            yield Task(stop_at_gate, args=(gate.address,))

    async def main() -> list[int]:
        stream = manager.stream(give(), ordered=is_ordered, buffersize=4)
        async with aclosing(aiter(stream)) as handles:  # type: ignore[type-var]
            async for handle in handles:
                assert handle.result() is None
                break
            return [await arrival(gate)]

    wait_until_gone(within(main()))
    assert manager.wait(PATIENCE_S)


@pytest.mark.parametrize("is_ordered", [False, True])
def test_cancelling_an_async_stream_cancels_what_is_out(make_manager, gate, is_ordered):
    manager = make_manager(max_workers=1, grace=1)

    async def consume() -> None:
        async for _ in manager.stream(
            (Task(stop_at_gate, args=(gate.address,)) for _ in range(5)), ordered=is_ordered, buffersize=3
        ):
            pass

    async def main() -> int:
        consuming = asyncio.create_task(consume())
        pid = await arrival(gate)
        consuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consuming
        return pid

    wait_until_gone([within(main())])
    assert manager.wait(PATIENCE_S)


def test_an_async_streams_input_that_raises_raises_after_what_was_out(manager):
    def give() -> Iterator[Task[int]]:
        yield Task(abs, args=(-1,))
        yield Task(abs, args=(-2,))
        raise failing.Flaky("the input broke")

    async def main() -> None:
        async for handle in manager.stream(give()):
            seen.append(handle.result())  # noqa: PERF401  # what came before the error counts

    seen: list[int] = []
    with pytest.raises(failing.Flaky, match="the input broke"):
        within(main())
    assert sorted(seen) == [1, 2]
