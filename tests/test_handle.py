"""The handle is a Future: for `concurrent.futures`, for asyncio, and from many threads at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import random
import threading
import weakref
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Executor, Future

import pytest

from procbackground import Manager, Task, TaskHandle, TaskTimeoutError, WorkerDiedError
from tests.support.facts import wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, gated, plain
from tests.support.tasks.failing import Flaky
from tests.support.tasks.pickling import Payload


def test_a_handle_is_a_future_and_a_manager_an_executor(manager):
    handle = manager.run(plain.square, 3)
    assert isinstance(handle, TaskHandle)
    assert isinstance(handle, Future)
    assert isinstance(manager, Executor)
    assert handle.result(timeout=PATIENCE_S) == 9


def test_a_handle_goes_from_running_to_done(manager, gate):
    handle = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    assert (handle.running(), handle.done(), handle.cancelled()) == (True, False, False)
    gate.release(pid, 5)
    assert handle.result(timeout=PATIENCE_S) == 5
    assert (handle.running(), handle.done(), handle.cancelled()) == (False, True, False)
    assert handle.exception() is None


def test_a_queued_handle_is_not_running(make_manager, gate):
    manager = make_manager(max_workers=1)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    handle = manager.run(plain.nothing)
    assert (handle.running(), handle.done(), handle.attempts) == (False, False, [])


def test_asking_too_early_times_out_and_the_task_goes_on(manager, gate):
    handle = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    with pytest.raises(TimeoutError) as caught:
        handle.result(timeout=0.01)
    assert not isinstance(caught.value, TaskTimeoutError)
    with pytest.raises(TimeoutError):
        handle.exception(timeout=0)
    gate.release(pid, "later")
    assert handle.result(timeout=PATIENCE_S) == "later"


def test_a_handle_has_a_readable_repr(manager, gate):
    handle = manager.run_task(Task(gated.stop_and_fail_first, (gate.address,), name="two tries", retry=2))
    head = f"<TaskHandle 'two tries' at {id(handle):#x} state="
    first = gate.wait_for_arrival()
    assert repr(handle) == f"{head}running attempt=1 pid={first}>"
    gate.release(first)
    second = gate.wait_for_arrival()
    assert repr(handle) == f"{head}running attempt=2 pid={second}>"
    gate.open()
    handle.result(timeout=PATIENCE_S)
    assert repr(handle) == f"{head}finished returned NoneType attempt=2 pid={second}>"


def test_a_handle_that_never_ran_has_a_readable_repr(make_manager, gate):
    manager = make_manager(max_workers=1)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    handle = manager.run(plain.nothing)
    assert repr(handle) == f"<TaskHandle 'nothing' at {id(handle):#x} state=pending>"
    handle.cancel()
    assert repr(handle) == f"<TaskHandle 'nothing' at {id(handle):#x} state=cancelled>"
    gate.open()


# -- concurrent.futures -----------------------------------------------------------------------------------


def test_wait_for_all(manager):
    handles = [manager.run(plain.square, number) for number in range(20)]
    done, pending = concurrent.futures.wait(handles, timeout=PATIENCE_S, return_when=ALL_COMPLETED)
    assert (done, pending) == (set(handles), set())


def test_wait_for_the_first(manager, gate):
    blocked = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    quick = manager.run(plain.square, 3)
    done, pending = concurrent.futures.wait([blocked, quick], timeout=PATIENCE_S, return_when=FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {blocked})


def test_wait_for_the_first_exception(manager, gate):
    blocked = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    failed = manager.run(failing.fail)
    done, pending = concurrent.futures.wait([blocked, failed], timeout=PATIENCE_S, return_when=FIRST_EXCEPTION)
    assert (done, pending) == ({failed}, {blocked})


def test_wait_sees_a_cancel(make_manager, gate):
    manager = make_manager(max_workers=1, grace=1.0)
    handle = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    canceller = threading.Thread(target=handle.cancel)
    canceller.start()
    done, _ = concurrent.futures.wait([handle], timeout=PATIENCE_S)
    canceller.join(PATIENCE_S)
    assert done == {handle}
    assert handle.cancelled()


def test_wait_that_times_out_leaves_the_rest_pending(manager, gate):
    handle = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    done, pending = concurrent.futures.wait([handle], timeout=0.01)
    assert (done, pending) == (set(), {handle})


def test_as_completed_gives_each_handle_once(manager):
    handles = [manager.run(failing.fail_if_negative, number - 25) for number in range(100)]
    came = list(concurrent.futures.as_completed(handles, timeout=PATIENCE_S))
    assert len(came) == 100
    assert set(came) == set(handles)


def test_as_completed_gives_the_quick_one_first(manager, gate):
    slow = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    quick = manager.run(plain.square, 2)
    came = concurrent.futures.as_completed([slow, quick], timeout=PATIENCE_S)
    assert next(came) is quick
    gate.open()
    assert next(came) is slow


def test_handles_and_futures_of_others_can_be_waited_for_together(manager):
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        mixed = [manager.run(plain.square, 2), threads.submit(plain.square, 3)]
        assert {future.result() for future in concurrent.futures.as_completed(mixed, PATIENCE_S)} == {4, 9}


# -- callbacks --------------------------------------------------------------------------------------------


def test_callbacks_run_in_the_order_in_which_they_were_added(manager, gate):
    called = []
    has_run = threading.Event()
    handle = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    for number in range(5):
        handle.add_done_callback(lambda done, number=number: called.append((number, done)))
    handle.add_done_callback(lambda _: has_run.set())
    gate.open()
    assert has_run.wait(PATIENCE_S)
    assert called == [(number, handle) for number in range(5)]


def test_a_callback_added_after_the_end_runs_at_once(manager):
    handle = manager.run(plain.square, 3)
    handle.result(timeout=PATIENCE_S)
    called = []
    handle.add_done_callback(called.append)
    assert called == [handle]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_raising_callback_harms_nobody(manager, caplog, kind):
    has_run = threading.Event()

    def broken(_):
        raise kind("this callback is broken")

    handle = manager.run(plain.pause, 0.05)
    handle.add_done_callback(broken)
    handle.add_done_callback(lambda _: has_run.set())
    assert has_run.wait(PATIENCE_S)
    assert handle.result(timeout=PATIENCE_S) == 0.05
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    wait_until(lambda: "this callback is broken" in caplog.text, "it is in the log")


def test_a_blocking_callback_holds_up_no_other_task(manager):
    is_blocked, may_go_on = threading.Event(), threading.Event()

    def block(_):
        is_blocked.set()
        may_go_on.wait(PATIENCE_S)

    first = manager.run(plain.pause, 0.05)
    first.add_done_callback(block)
    assert is_blocked.wait(PATIENCE_S)
    try:
        others = [manager.run(plain.square, number) for number in range(20)]
        assert [other.result(timeout=10) for other in others] == [number**2 for number in range(20)]
    finally:
        may_go_on.set()


def test_a_callback_may_submit_fifty_deep(manager):
    depth = []
    is_deep = threading.Event()

    def deeper(handle):
        depth.append(handle.result())
        if len(depth) == 50:
            is_deep.set()
        else:
            manager.run(plain.square, len(depth)).add_done_callback(deeper)

    manager.run(plain.square, 0).add_done_callback(deeper)
    assert is_deep.wait(PATIENCE_S)
    assert depth == [number**2 for number in range(50)]


def test_a_callback_may_wait_for_the_result_of_another(manager):
    answers = []
    has_answered = threading.Event()

    def ask(_):
        answers.append(manager.run(plain.square, 6).result(timeout=PATIENCE_S))
        has_answered.set()

    manager.run(plain.nothing).add_done_callback(ask)
    assert has_answered.wait(PATIENCE_S)
    assert answers == [36]


# -- asyncio ----------------------------------------------------------------------------------------------


def test_a_handle_can_be_awaited(manager):
    async def main():
        return await manager.run(plain.square, 3)

    assert asyncio.run(main()) == 9


def test_awaiting_raises_what_the_task_raised(manager):
    async def main():
        with pytest.raises(Flaky):
            await manager.run(failing.fail)
        with pytest.raises(WorkerDiedError):
            await manager.run(failing.exit_hard, 2)

    asyncio.run(main())


def test_many_handles_can_be_gathered(manager):
    async def main():
        return await asyncio.gather(*(manager.run(plain.square, number) for number in range(50)))

    assert asyncio.run(main()) == [number**2 for number in range(50)]


def test_wrap_future_works(manager):
    async def main():
        return await asyncio.wait_for(asyncio.wrap_future(manager.run(plain.square, 4)), PATIENCE_S)

    assert asyncio.run(main()) == 16


def test_run_in_executor_works(manager):
    async def main():
        return await asyncio.get_running_loop().run_in_executor(manager, plain.square, 5)

    assert asyncio.run(main()) == 25


def test_cancelling_the_awaiting_task_ends_the_work(make_manager, gate):
    manager = make_manager(max_workers=1, grace=1.0)
    handle = manager.run(stop_at_gate, gate.address)

    async def work():
        return await handle

    async def main():
        waiting = asyncio.create_task(work())
        pid = await asyncio.to_thread(gate.wait_for_arrival)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return pid

    pid = asyncio.run(main())
    assert handle.cancelled()
    wait_until_gone([pid])


def test_an_asyncio_timeout_ends_the_work(make_manager, gate):
    manager = make_manager(max_workers=1, grace=1.0)
    handle = manager.run(stop_at_gate, gate.address)

    async def main():
        pid = await asyncio.to_thread(gate.wait_for_arrival)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await handle
        return pid

    pid = asyncio.run(main())
    wait_until(handle.cancelled, "the handle is cancelled")
    wait_until_gone([pid])


def test_a_task_group_takes_handles(manager):
    async def main():
        async def one(number):
            return await manager.run(plain.square, number)

        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(number)) for number in range(10)]
        return [task.result() for task in running]

    assert asyncio.run(main()) == [number**2 for number in range(10)]


def test_async_with_closes_without_blocking_the_loop(gate):
    async def main():
        ticks = []

        async def tick():
            await asyncio.to_thread(gate.wait_for_arrival)
            for number in range(5):
                ticks.append(number)
                await asyncio.sleep(0)
            gate.open()  # only a loop that still turns lets the task below end

        async with Manager(max_workers=1) as manager:
            ticking = asyncio.create_task(tick())
            handle = manager.run(stop_at_gate, gate.address)
        await ticking
        return handle.done(), ticks

    assert asyncio.run(main()) == (True, [0, 1, 2, 3, 4])


# -- threads ----------------------------------------------------------------------------------------------


def test_submitting_from_eight_threads_loses_nothing(manager):
    answers = [None] * 8

    def submit(index):
        handles = [manager.run(plain.add, index, number) for number in range(250)]
        answers[index] = [handle.result(timeout=PATIENCE_S) for handle in handles]

    threads = [threading.Thread(target=submit, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE_S)
    assert answers == [[index + number for number in range(250)] for index in range(8)]
    stats = manager.stats()
    assert (stats.added, stats.succeeded, stats.failed, stats.queued) == (2000, 2000, 0, 0)


def test_many_threads_may_wait_for_one_handle(manager, gate):
    handle = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(handle.result(timeout=PATIENCE_S))) for _ in range(20)]
    for thread in threads:
        thread.start()
    gate.release(pid, "for all")
    for thread in threads:
        thread.join(PATIENCE_S)
    assert answers == ["for all"] * 20


def test_every_way_of_waiting_agrees_when_used_at_once(manager):
    rounds = 15
    for _ in range(rounds):
        handles = [manager.run(failing.fail_if_negative, number - 10) for number in range(40)]
        failures, called = [], []
        mixed = random.sample(handles, len(handles))

        def by_result(handles=handles, failures=failures):
            for number, handle in enumerate(handles):
                try:
                    value = handle.result(timeout=PATIENCE_S)
                except Flaky:
                    value = None
                if value != (None if number < 10 else number - 10):
                    failures.append(("result", number, value))

        def by_as_completed(handles=mixed, failures=failures):
            came = list(concurrent.futures.as_completed(handles, timeout=PATIENCE_S))
            if sorted(map(id, came)) != sorted(map(id, handles)):
                failures.append(("as_completed", len(came)))

        def by_wait(handles=handles, failures=failures):
            done, pending = concurrent.futures.wait(handles, timeout=PATIENCE_S)
            if len(done) != 40 or pending:
                failures.append(("wait", len(done), len(pending)))

        def by_callback(handles=mixed, called=called):
            for handle in handles:
                handle.add_done_callback(called.append)

        threads = [threading.Thread(target=way) for way in (by_result, by_as_completed, by_wait, by_callback)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert failures == []
        wait_until(lambda called=called: len(called) >= 40, "every callback has run")
        assert sorted(map(id, called)) == sorted(map(id, handles))


# -- memory -----------------------------------------------------------------------------------------------


def test_no_reference_is_kept_to_a_finished_tasks_objects(manager):
    argument = Payload()
    handle = manager.run(plain.echo, argument)
    result = handle.result(timeout=PATIENCE_S)
    references = [weakref.ref(argument), weakref.ref(result), weakref.ref(handle)]
    del argument, result, handle

    def are_gone():
        gc.collect()
        return all(reference() is None for reference in references)

    wait_until(are_gone, "argument, result and handle are gone")


def test_no_reference_is_kept_to_a_failed_task(manager):
    argument = Payload()
    handle = manager.run(failing.raise_with, argument)
    assert handle.exception(timeout=PATIENCE_S) is not None
    references = [weakref.ref(argument), weakref.ref(handle)]
    del argument, handle

    def are_gone():
        gc.collect()
        return all(reference() is None for reference in references)

    wait_until(are_gone, "argument and handle are gone")


def test_the_text_of_a_handle_agrees_with_running(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.2)
    running = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    queued = manager.run(pow, 2, 3)
    assert (running.running(), queued.running()) == (True, False)
    assert repr(running).endswith(f"state=running attempt=1 pid={pid}>")
    assert repr(queued).endswith("state=pending>")
    assert "_condition" not in queued.__dict__  # looking costs nothing
    gate.release(pid)
    assert queued.result(timeout=PATIENCE_S) == 8
    assert "state=finished returned int attempt=1 pid=" in repr(queued)
    failed = manager.run(divmod, 1, 0)
    failed.exception(timeout=PATIENCE_S)
    assert "state=finished raised ZeroDivisionError attempt=1 pid=" in repr(failed)
    cancelled = manager.run(stop_at_gate, gate.address)
    assert cancelled.cancel()
    assert " state=cancelled" in repr(cancelled)
