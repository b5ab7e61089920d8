"""A manager without processes: the same handles, retries, events and counters, in the caller's thread."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import Any

import loguru
import pytest

from procbackground import (
    InitializerError,
    Manager,
    ManagerClosedError,
    Outcome,
    SerializationError,
    Task,
    TaskType,
    current,
)
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import plain, saving


@pytest.fixture
def inline(make_manager: Any) -> Manager:
    return make_manager(inline=True)  # type: ignore[no-any-return]


class Flaky:
    def __init__(self, failures: int) -> None:
        self.failures = failures

    def __call__(self) -> int:
        if self.failures:
            self.failures -= 1
            raise ValueError(self.failures)
        return os.getpid()


def test_a_task_runs_in_the_callers_thread_before_run_returns(inline):
    seen: list[threading.Thread] = []
    handle = inline.run(lambda: seen.append(threading.current_thread()))
    assert handle.done()
    assert seen == [threading.current_thread()]


def test_the_result_is_the_very_object_and_the_error_has_its_traceback(inline):
    value = object()
    assert inline.run(lambda: value).result() is value
    error = inline.run(int, "x").exception()
    assert isinstance(error, ValueError)
    assert inline.run(plain.add, 1).exception().__traceback__ is not None


def test_retries_and_attempts_are_as_with_processes(make_manager, recorder):
    manager = make_manager(inline=True, observer=recorder, retry=3)
    handle = manager.run(Flaky(2))
    assert handle.result() == os.getpid()
    assert [attempt.outcome for attempt in handle.attempts] == [Outcome.RAISED, Outcome.RAISED, Outcome.SUCCEEDED]
    assert str(manager.run(Flaky(5)).exception()) == "2"
    stats = manager.stats()
    assert (stats.added, stats.succeeded, stats.failed, stats.retried) == (2, 1, 1, 4)
    manager.close()
    started, retrying = "task_started", "task_retrying"
    assert recorder.kinds(handle) == ["task_added", *[started, retrying] * 2, started, "task_succeeded"]
    assert len(recorder.events("task_failed")) == len(recorder.events("manager_closed")) == 1


def test_map_and_stream_take_the_same_way(inline):
    assert list(inline.map(plain.square, range(20), chunksize=7)) == [x * x for x in range(20)]
    handles = inline.stream(Task(plain.square, args=(x,)) for x in range(20))
    assert sorted(handle.result() for handle in handles) == [x * x for x in range(20)]
    failing = inline.map(int, ["1", "x", "3"])
    assert next(failing) == 1
    with pytest.raises(ValueError, match="'x'"):
        next(failing)


def test_a_failed_row_is_tried_again(make_manager):
    manager = make_manager(inline=True, retry=2)
    rows = [Flaky(1), Flaky(0), Flaky(1)]
    assert list(manager.map(lambda row: row(), rows)) == [os.getpid()] * 3


def test_the_task_has_its_context(inline):
    def task() -> tuple[str, int, bool]:
        current().progress(3, 4, "nearly")
        return current().name, current().attempt, current().stopping

    handle = inline.run_task(Task(task, name="mine"))
    assert handle.result() == ("mine", 1, False)
    assert (handle.progress.done, handle.progress.total, handle.progress.message) == (3, 4, "nearly")
    assert current().name == ""


def test_a_manager_in_a_task_of_another(inline):
    def outer() -> tuple[int, str]:
        with Manager(inline=True) as inner:
            return inner.run(lambda: 7).result(), current().name

    assert inline.run_task(Task(outer, name="outer")).result() == (7, "outer")


def test_a_loop_runs_in_a_thread_until_it_is_cancelled(inline):
    iterations: list[str] = []
    handle = inline.run_task(Task(lambda: iterations.append(current().name), type=TaskType.LOOP, name="tick"))
    wait_until(lambda: len(iterations) > 3, "the loop iterates")
    assert inline.count_of(TaskType.LOOP) == 1
    assert inline.cancel(timeout=PATIENCE_S)
    assert handle.cancelled()
    assert set(iterations) == {"tick"}
    assert inline.run_task(Task(plain.nothing, type=TaskType.LOOP)).cancelled()


def test_a_failed_iteration_is_told_and_the_loop_goes_on(make_manager, recorder):
    manager = make_manager(inline=True, observer=recorder)
    handle = manager.run_task(Task(Flaky(2), type=TaskType.LOOP, interval=0.001))
    recorder.wait_for("task_failed", 2)
    assert not handle.done()
    handle.cancel()


def test_ctrl_c_in_a_task_reaches_the_caller(inline):
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inline.run(interrupted)
    assert inline.stats().cancelled == 1
    assert inline.run(plain.square, 3).result() == 9


def test_exit_in_a_task_is_its_error(inline):
    error = inline.run(exit, 3).exception()
    assert isinstance(error, SystemExit)


def test_what_could_not_cross_fails_here_too(inline):
    assert isinstance(inline.run(plain.echo, threading.Lock()).exception(), SerializationError)


def test_the_initializer_runs_once_and_its_failure_is_the_managers(make_manager):
    calls: list[int] = []
    manager = make_manager(inline=True, initializer=calls.append, initargs=(1,))
    for _ in range(2):
        manager.run(plain.nothing)
    assert calls == [1]
    broken = make_manager(inline=True, initializer=int, initargs=("x",))
    for _ in range(2):
        with pytest.raises(InitializerError, match="invalid literal"):
            broken.run(plain.nothing)


_held: dict[str, Any] = {}  # what tasks reach that cannot be pickled


def close_own_manager() -> None:
    _held["manager"].close()  # from within: waits for others only


def wait_for_a_stop() -> bool:
    _held["begun"].set()
    return current().wait(PATIENCE_S)


def wait_for_the_end() -> None:
    _held["begun"].set()
    assert _held["end"].wait(PATIENCE_S)


def in_another_task(act: str) -> Any:
    return _held["manager"].run(call_own_manager, act).result()


def call_own_manager(act: str) -> Any:
    return getattr(_held["manager"], act)()


def the_end_has_come() -> bool:
    return bool(_held["end"].is_set())


def test_after_the_close_nothing_runs(inline):
    _held["manager"] = inline
    assert inline.run(close_own_manager).result() is None
    assert "'close_own_manager'" in inline.close().left[0]  # which ran on when all else had ended
    with pytest.raises(ManagerClosedError):
        inline.run(plain.nothing)


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_a_close_that_cannot_wait_asks_tasks_to_stop(inline, timeout):
    begun = _held["begun"] = threading.Event()
    handles: list[Any] = []
    thread = threading.Thread(target=lambda: handles.append(inline.run(wait_for_a_stop)))
    thread.start()
    assert begun.wait(PATIENCE_S)
    assert inline.close(timeout=timeout).left == ()
    thread.join(PATIENCE_S)
    assert handles[0].result() is True


def test_a_close_says_what_has_not_stopped(make_manager):
    manager = make_manager(inline=True, grace=0.1)
    begun, end = _held["begun"], _held["end"] = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: manager.run(wait_for_the_end))
    thread.start()
    assert begun.wait(PATIENCE_S)
    assert "'wait_for_the_end'" in manager.close(timeout=0).left[0]
    end.set()
    thread.join(PATIENCE_S)


@pytest.mark.parametrize("act", ["close", "wait", "cancel"])
def test_a_task_that_another_runs_does_not_wait_for_itself(inline, act):
    _held["manager"] = inline
    assert inline.run(in_another_task, act).result() is not False


def test_a_loop_may_close_its_manager(inline):
    _held["manager"] = inline
    handle = inline.run_task(Task(close_own_manager, type=TaskType.LOOP))
    wait_until(handle.cancelled, "the loop has ended")


def test_other_threads_wait_for_the_initializer(make_manager):
    begun, end = _held["begun"], _held["end"] = threading.Event(), threading.Event()
    manager = make_manager(inline=True, initializer=wait_for_the_end)
    seen: list[Any] = []
    threads = [threading.Thread(target=lambda: seen.append(manager.run(the_end_has_come).result())) for _ in range(2)]
    threads[0].start()
    assert begun.wait(PATIENCE_S)
    threads[1].start()
    threads[1].join(0.1)  # long enough for a task that does not wait
    end.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert seen == [True, True]


def test_callbacks_run(inline):
    called: list[Any] = []
    handle = inline.run(plain.square, 4)
    handle.add_done_callback(lambda done: called.append(done.result()))
    assert called == [16]


def test_streams_and_lazy_maps_run_in_the_thread_that_reads_them(make_manager):
    manager = make_manager(inline=True)
    me = threading.get_ident()

    def tasks():
        for _ in range(5):
            assert threading.get_ident() == me
            yield Task(threading.get_ident)

    assert [handle.result() for handle in manager.stream(tasks(), buffersize=2)] == [me] * 5
    assert [handle.result() for handle in manager.stream(tasks(), ordered=True)] == [me] * 5
    assert list(manager.map(abs, iter([-1, 2, -3]), buffersize=2)) == [1, 2, 3]
    assert list(manager.map(abs, iter([-1, 2, -3]), buffersize=2, chunksize=2)) == [1, 2, 3]
    came = list(manager.map(abs, [-1, "two", 3], return_exceptions=True))
    assert [type(value) for value in came] == [int, TypeError, int]


def test_an_asynchronous_source_can_be_streamed_inline(make_manager):
    manager = make_manager(inline=True)

    async def tasks():
        for number in range(4):
            yield Task(abs, args=(-number,))

    async def main():
        plain = [handle.result() async for handle in manager.stream(Task(abs, args=(n,)) for n in range(4))]
        return plain, [handle.result() async for handle in manager.stream(tasks(), buffersize=2)]

    assert asyncio.run(main()) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_inline_tasks_save_their_state():
    with Manager(inline=True, retry=3) as manager:
        handle = manager.run(saving.count_to, 5, (2, 4), "raise")
        assert handle.result() == 5
        assert len(handle.attempts) == 3


def test_inline_tasks_are_not_recorded(tmp_path):
    with pytest.raises(ValueError, match="not recorded"):
        Manager(inline=True, journal=tmp_path / "batch.sqlite")


def log_all(name: str) -> None:
    logging.getLogger(name).warning("plain")
    logging.getLogger(name).warning("own", extra={"task": "mine", "other": 1})
    loguru.logger.warning("of loguru")
    loguru.logger.bind(task="mine").warning("own of loguru")


def test_log_records_have_the_attributes_of_those_from_workers(inline, caplog):
    sink: list[Any] = []
    number = loguru.logger.add(lambda message: sink.append(message.record), level="WARNING")
    try:
        inline.run(abs, 1)
        inline.run_task(Task(log_all, args=("inline.records",), name="named"))
        logging.getLogger("inline.records").warning("outside")
        loguru.logger.warning("outside")
    finally:
        loguru.logger.remove(number)
    ours = {"task": "named", "task_id": 2, "attempt": 1, "pid": os.getpid()}
    plain_record, own, outside = (vars(each) for each in caplog.records if each.name == "inline.records")
    assert plain_record.items() >= ours.items()
    assert own.items() >= {**ours, "task": "mine", "other": 1}.items()
    assert "task_id" not in outside
    assert [each["extra"] for each in sink] == [ours, {**ours, "task": "mine"}, {}]


def log_and_fail() -> None:
    logging.getLogger("inline.records").warning("inner")
    raise ValueError


def log_around_another() -> None:
    _held["manager"].run_task(Task(log_and_fail, name="inner"))
    logging.getLogger("inline.records").warning("outer")


def test_each_attempt_of_a_task_in_another_has_its_own_records(make_manager, caplog):
    _held["manager"] = manager = make_manager(inline=True, retry=2)
    manager.run_task(Task(log_around_another, name="outer"))
    seen = [(each.task, each.attempt) for each in caplog.records if each.name == "inline.records"]
    assert seen == [("inner", 1), ("inner", 2), ("outer", 1)]
