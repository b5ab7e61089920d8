"""The handle's claim protocol: no waiter misses a settlement, however threads that settle and wait interleave."""

from __future__ import annotations

import concurrent.futures
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from typing import Any

import pytest

from procbackground import Task
from procbackground._state.job import Job
from procbackground.handle import TaskHandle

PATIENCE_S = 30.0  # bounds a hang; never paces a test
HANDLES = 2000


class NoOwner:
    """Of handles that belong to no manager."""

    def cancel_job(self, handle: TaskHandle[Any]) -> bool:
        return False

    def is_running(self, job: Job) -> bool:
        return False

    def check_usable(self) -> None:
        """This is no fork of its process."""


def new_handle() -> TaskHandle[int]:
    return TaskHandle(NoOwner(), None, Task(int))


def settle(handle: TaskHandle[int], value: int) -> None:
    """Settle as the supervisor does: every third fails, every fifth is cancelled."""
    if value % 5 == 4:
        has_callbacks = handle._settle(CANCELLED_AND_NOTIFIED, None, None)
    elif value % 3 == 2:
        has_callbacks = handle._settle(FINISHED, None, ValueError(value))
    else:
        has_callbacks = handle._settle(FINISHED, value, None)
    if has_callbacks:
        handle._invoke_callbacks()  # type: ignore[attr-defined]


def is_right(handle: TaskHandle[int], value: int) -> bool:
    """Whether the handle, done, tells what it was settled with."""
    if value % 5 == 4:
        return handle.cancelled()
    if value % 3 == 2:
        return getattr(handle.exception(0), "args", None) == (value,)
    return handle.result(0) == value


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Have threads take turns every few bytecodes, so that they meet in the middle of things."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(*works: Callable[[], object]) -> None:
    """Run all at once; raise what one of them raises, and do not outlast them."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        try:
            start.wait(PATIENCE_S)
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    end_s = time.monotonic() + PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
    if errors:
        raise errors[0]


def finisher(handles: list[TaskHandle[int]]) -> Callable[[], None]:
    def run() -> None:
        for value, handle in enumerate(handles):
            settle(handle, value)

    return run


def test_every_waiter_sees_every_outcome():
    handles = [new_handle() for _ in range(HANDLES)]

    def wait_for_all() -> None:
        for value, handle in enumerate(handles):
            try:
                handle.exception(PATIENCE_S)
            except CancelledError:
                pass
            assert is_right(handle, value)

    in_threads(finisher(handles), wait_for_all, wait_for_all, wait_for_all)


def test_as_completed_gives_each_handle_once():
    handles = [new_handle() for _ in range(HANDLES)]
    seen: list[Counter[Any]] = []

    def collect() -> None:
        seen.append(Counter(concurrent.futures.as_completed(handles, timeout=PATIENCE_S)))

    in_threads(finisher(handles), collect, collect)
    assert seen == [Counter(handles)] * 2


@pytest.mark.parametrize(
    "when", [concurrent.futures.ALL_COMPLETED, concurrent.futures.FIRST_COMPLETED, concurrent.futures.FIRST_EXCEPTION]
)
def test_wait_comes_back(when):
    handles = [new_handle() for _ in range(HANDLES)]

    def wait_in_groups() -> None:
        for first in range(0, HANDLES, 10):
            group = handles[first : first + 10]
            done, pending = concurrent.futures.wait(group, timeout=PATIENCE_S, return_when=when)
            assert done
            assert done | pending == set(group)
            assert when != concurrent.futures.ALL_COMPLETED or not pending

    in_threads(finisher(handles), wait_in_groups, wait_in_groups)


def test_each_callback_is_called_once():
    handles = [new_handle() for _ in range(HANDLES)]
    calls: list[Any] = []

    def add_to_all() -> None:
        for handle in handles:
            handle.add_done_callback(calls.append)

    in_threads(finisher(handles), add_to_all, add_to_all)
    assert Counter(calls) == Counter(handles + handles)


WAITS: dict[str, Callable[[TaskHandle[int]], object]] = {
    "exception": lambda handle: handle.exception(PATIENCE_S),
    "wait": lambda handle: concurrent.futures.wait([handle], PATIENCE_S),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("spare", range(4))
def test_a_handle_may_settle_while_a_waiting_thread_collects_garbage(wait, spare):
    """Python 3.11 collects in the middle of making the dict of an object, and then others could make a second one."""
    handle = new_handle()
    waiter = threading.get_ident()
    is_collecting, is_settled = threading.Event(), threading.Event()
    dicts: list[dict[str, Any]] = []

    def on_collection(phase: str, info: Any) -> None:
        if threading.get_ident() == waiter and not is_collecting.is_set():
            is_collecting.set()
            is_settled.wait(PATIENCE_S)

    def settle_amid_it() -> None:
        is_collecting.wait(1)  # or in the middle of the wait, when nothing is collected at its begin
        settle(handle, 0)
        dicts.append(handle.__dict__)
        is_settled.set()

    thread = threading.Thread(target=settle_amid_it)
    thread.start()
    before = gc.get_threshold()
    held: list[Any] = []
    try:
        gc.disable()
        gc.set_threshold(1)  # each second object that is made starts a collection
        gc.collect()  # drops used dicts, too, which Python would take before it makes one
        gc.callbacks.append(on_collection)
        held.extend([] for _ in range(spare))
        gc.enable()
        wait(handle)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(on_collection)
        gc.enable()
        thread.join(PATIENCE_S)
    assert is_right(handle, 0)
    assert dicts[0] is handle.__dict__


def test_handle_that_nobody_waits_for_makes_no_condition():
    handle = new_handle()
    settle(handle, 1)
    assert handle.result() == 1
    assert not {"_condition", "_waiters", "_done_callbacks"} & set(handle.__dict__)


def test_callback_added_after_the_end_is_called_at_once():
    handle = new_handle()
    settle(handle, 1)
    calls: list[Any] = []
    handle.add_done_callback(calls.append)
    assert calls == [handle]


def test_settle_tells_whether_there_are_callbacks():
    plain, waited, called = new_handle(), new_handle(), new_handle()
    concurrent.futures.wait([waited], timeout=0)
    called.add_done_callback(lambda _: None)
    assert [handle._settle(FINISHED, 1, None) for handle in (plain, waited, called)] == [False, False, True]


def test_wait_that_runs_out_leaves_the_handle_as_it_was():
    handle = new_handle()
    with pytest.raises(TimeoutError):
        handle.result(timeout=0)
    with pytest.raises(TimeoutError):
        handle.exception(timeout=-1)
    settle(handle, 1)
    assert handle.result(timeout=0) == 1


def test_raising_the_outcome_twice_raises_the_same_exception():
    handle = new_handle()
    settle(handle, 2)
    errors = []
    for _ in range(2):
        with pytest.raises(ValueError, match="2") as caught:
            handle.result()
        errors.append(caught.value)
    assert errors[0] is errors[1]


def test_waits_that_time_out_leave_no_locks():
    handle = new_handle()
    for _ in range(10_000):
        with pytest.raises(TimeoutError):
            handle.result(timeout=0)
    assert handle.__dict__["_sleepers"] == []


def test_waits_that_time_out_while_the_handle_is_settled_keep_nobody_asleep():
    """A lock that leaves the list just then must not have another one skipped."""
    handles = [new_handle() for _ in range(HANDLES)]

    def look_briefly() -> None:
        for handle in handles:
            while not handle.done():
                try:
                    handle.exception(timeout=1e-6)
                except (TimeoutError, CancelledError):
                    pass

    def wait_for_all() -> None:
        for handle in handles:
            try:
                handle.exception()
            except CancelledError:
                pass

    in_threads(finisher(handles), look_briefly, wait_for_all, look_briefly, wait_for_all)


def test_all_threads_get_the_same_task():
    made: list[Task[int]] = []

    def make(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task[int]:
        task = Task(pow, args, kwargs)
        made.append(task)
        return task

    for _ in range(HANDLES // 4):
        handle: TaskHandle[int] = TaskHandle(NoOwner(), make, (2, 3), {"mod": 5})
        seen: list[Task[int]] = []
        readers = [lambda handle=handle, seen=seen: seen.append(handle.task)] * 4
        in_threads(*readers)
        assert len(set(map(id, seen))) == 1
        assert handle.task is seen[0]
        assert (seen[0].args, seen[0].kwargs) == ((2, 3), {"mod": 5})


@pytest.mark.parametrize("state", [FINISHED, CANCELLED_AND_NOTIFIED])
def test_condition_of_a_handle_works_as_any_other(state: str):
    handle = new_handle()
    with handle._condition:  # type: ignore[attr-defined]
        assert handle._condition._is_owned()  # type: ignore[attr-defined]
        assert not handle._condition.wait(0)  # type: ignore[attr-defined]
    handle._settle(state, 1, None)
    assert handle._condition.acquire(blocking=False)  # type: ignore[attr-defined]
    handle._condition.release()  # type: ignore[attr-defined]
