"""`stream`: tasks pulled lazily, handles given as they are done. `options`: a view on the same manager."""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from concurrent.futures import Executor

import pytest

from procbackground import ManagerClosedError, Task, TaskTimeoutError
from tests.support.facts import wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, gated, plain
from tests.support.tasks.failing import Flaky


def squares(numbers):
    return (Task(plain.square, args=(number,)) for number in numbers)


def test_a_stream_gives_every_handle_once_it_is_done(manager):
    came = []
    for handle in manager.stream(squares(range(50))):
        assert handle.done()
        came.append(handle.result(timeout=0))
    assert sorted(came) == [number**2 for number in range(50)]


def test_an_ordered_stream_keeps_the_order(manager):
    pauses = [0.03, 0.0, 0.02, 0.0]
    stream = manager.stream((Task(plain.pause, args=(pause,)) for pause in pauses), ordered=True)
    assert [handle.result(timeout=0) for handle in stream] == pauses


def test_an_unordered_stream_gives_the_quick_ones_first(manager, gate):
    slow = Task(gated.stop_then_do, args=(gate.address,))
    stream = iter(manager.stream([slow, *squares(range(4))]))
    first = [next(stream).result(timeout=0) for _ in range(4)]
    assert sorted(first) == [0, 1, 4, 9]
    gate.open()
    assert next(stream).task is slow
    assert next(stream, None) is None


def test_a_failed_task_comes_as_its_handle(manager):
    todo = [Task(failing.fail_if_negative, args=(number,)) for number in (1, -1, 2)]
    errors = [handle.exception() for handle in manager.stream(todo, ordered=True)]
    assert [type(error) for error in errors] == [type(None), Flaky, type(None)]


@pytest.mark.parametrize("is_ordered", [True, False])
def test_a_stream_pulls_no_more_than_its_buffer_ahead(manager, is_ordered):
    pulled = itertools.count()
    last = [0]

    def todo():
        for number in range(100):
            last[0] = next(pulled) + 1
            yield Task(plain.square, args=(number,))

    for taken, handle in enumerate(manager.stream(todo(), ordered=is_ordered, buffersize=5)):
        assert last[0] <= taken + 6
        handle.result(timeout=0)
    assert last[0] == 100


def test_an_endless_stream_can_be_left(manager):
    came = []
    for handle in manager.stream(squares(itertools.count()), ordered=True, buffersize=8):
        came.append(handle.result())
        if len(came) == 30:
            break
    assert came == [number**2 for number in range(30)]
    assert manager.wait(timeout=PATIENCE_S)


def test_stopping_half_way_cancels_what_is_out(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.5)
    blocked = [Task(stop_at_gate, args=(gate.address,)) for _ in range(3)]
    for handle in manager.stream([*squares([2]), *blocked], buffersize=4):
        assert handle.result() == 4
        break
    assert manager.wait(timeout=PATIENCE_S)
    assert manager.stats().cancelled >= 2


def test_an_input_that_raises_raises_out_of_the_stream(manager):
    def todo():
        yield Task(plain.square, args=(2,))
        raise KeyError("no more")

    with pytest.raises(KeyError):
        list(manager.stream(todo()))


@pytest.mark.parametrize("is_ordered", [True, False])
def test_an_input_that_raises_does_so_after_the_handles_of_what_was_out(manager, is_ordered):
    def todo():
        yield from squares(range(5))
        raise KeyError("no more")

    came = []
    with pytest.raises(KeyError):  # noqa: PT012  # what came before the error counts
        for handle in manager.stream(todo(), ordered=is_ordered, buffersize=3):
            came.append(handle.result(timeout=0))  # noqa: PERF401
    assert sorted(came) == [0, 1, 4, 9, 16]


def test_stopping_an_ordered_stream_cancels_what_is_out(make_manager, gate):
    manager = make_manager(max_workers=2, grace=0.5)
    blocked = (Task(stop_at_gate, args=(gate.address,)) for _ in itertools.count())
    stream = iter(manager.stream(itertools.chain(squares([3]), blocked), ordered=True, buffersize=6))
    assert next(stream).result(timeout=0) == 9
    pid = gate.wait_for_arrival()
    stream.close()
    assert manager.wait(timeout=PATIENCE_S)
    wait_until_gone([pid])


def test_a_stream_keeps_nothing_of_the_handles_that_it_has_given(manager):
    refs = []
    for handle in manager.stream(squares(range(20)), ordered=True):
        for ref in refs:
            wait_until(lambda ref=ref: ref() is None, "nobody holds the handle that was given before")
        refs.append(weakref.ref(handle))
        del handle


def test_a_stream_of_a_manager_that_is_closed_meanwhile_says_so(make_manager):
    manager = make_manager()
    stream = iter(manager.stream(squares(itertools.count()), buffersize=4))
    next(stream)
    manager.close()
    with pytest.raises(ManagerClosedError):
        list(stream)


def test_an_input_that_cannot_be_iterated_is_refused_at_once(manager):
    with pytest.raises(TypeError):
        manager.stream(3)


def test_a_stream_can_be_iterated_in_asyncio(manager):
    async def main():
        return [handle.result() async for handle in manager.stream(squares(range(20)), ordered=True)]

    assert asyncio.run(main()) == [number**2 for number in range(20)]


# -- options ----------------------------------------------------------------------------------------------


def test_a_stream_that_is_left_in_asyncio_while_it_waits_for_its_input_gives_no_more(make_manager):
    manager = make_manager(max_workers=1)
    is_asked, may_go_on, has_gone_on = (threading.Event() for _ in range(3))

    def slow_input():
        is_asked.set()
        may_go_on.wait(PATIENCE_S)
        yield Task(plain.square, (3,), name="late")
        has_gone_on.set()  # is not reached: nothing more is asked for
        yield Task(plain.square, (4,))

    async def leave() -> None:
        async def use() -> None:
            async for _ in manager.stream(slow_input(), buffersize=10):
                raise AssertionError("nothing was given")

        using = asyncio.ensure_future(use())
        await asyncio.to_thread(is_asked.wait, PATIENCE_S)
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
        may_go_on.set()

    asyncio.run(leave())  # ends with the threads that it has started
    assert manager.wait(PATIENCE_S)
    assert not has_gone_on.is_set()
    assert manager.stats().succeeded == 0


def test_a_view_is_an_executor_on_the_same_manager(manager):
    view = manager.options(name="viewed", meta={"a": 1})
    assert isinstance(view, Executor)
    handle = view.submit(plain.square, 3)
    assert handle.result(timeout=PATIENCE_S) == 9
    assert (handle.task.name, dict(handle.task.meta)) == ("viewed", {"a": 1})
    assert manager.stats().added == 1


def test_a_views_options_hold_for_map(manager):
    results = manager.options(retry=2).map(failing.mishap_before, [2] * 3, ["raises"] * 3)
    assert [attempt for attempt, _ in results] == [2, 2, 2]


def test_a_views_timeout_holds(make_manager):
    manager = make_manager(grace=0.5)
    handle = manager.options(timeout=0.3).submit(failing.sleep_long)
    assert isinstance(handle.exception(timeout=PATIENCE_S), TaskTimeoutError)


def test_a_views_options_hold_for_tasks_that_leave_them_open(manager):
    view = manager.options(retry=2, name="viewed", priority=3)
    given = [
        Task(failing.mishap_before, args=(2, "raises")),
        Task(failing.mishap_before, args=(3, "raises"), retry=3, name="own"),
    ]
    for handles in ([view.run_task(task) for task in given], list(view.stream(given, ordered=True))):
        assert [handle.result(timeout=PATIENCE_S)[0] for handle in handles] == [2, 3]
        assert [(handle.task.name, handle.task.priority) for handle in handles] == [("viewed", 3), ("own", 3)]
        assert [handle.task.args for handle in handles] == [task.args for task in given]


def test_the_managers_own_defaults_stay(manager):
    manager.options(retry=3)
    handle = manager.run(failing.fail)
    handle.exception(timeout=PATIENCE_S)
    assert len(handle.attempts) == 1


def test_a_view_refuses_what_is_no_field_of_a_task(manager):
    with pytest.raises(TypeError):
        manager.options(colour="red")
