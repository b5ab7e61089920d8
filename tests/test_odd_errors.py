"""Exceptions that refuse attributes, that exit when they are pickled or loaded, or that mean something to asyncio."""

from __future__ import annotations

import asyncio
import threading

import pytest
import tenacity

from procbackground import InitializerError, Manager, RemoteTraceback, Retry, SerializationError, Task
from procbackground._supervisor import settle
from procbackground.observers import LoggingObserver
from tests.support.gate import PATIENCE_S
from tests.support.tasks import odd_errors
from tests.support.tasks.odd_errors import FrozenError, StubbornError, UnspeakableError

EXITS = [SystemExit, KeyboardInterrupt, GeneratorExit]


@pytest.mark.parametrize(("kind", "args"), [(FrozenError, (5, "five")), (StubbornError, (5,))])
def test_exceptions_that_refuse_attributes_arrive(make_manager, kind, args):
    manager = make_manager(max_workers=1)
    handle = manager.run(odd_errors.fail_with, kind, *args)
    error = handle.exception(timeout=PATIENCE_S)
    assert type(error) is kind
    assert (error.code, error.args) == (5, args)
    assert isinstance(error.__cause__, RemoteTraceback)
    with pytest.raises(kind):
        handle.result()
    returned = manager.run(odd_errors.make, kind, *args).result(timeout=PATIENCE_S)
    assert (type(returned), returned.code) == (kind, 5)
    assert manager.run(odd_errors.code_of, kind(*args)).result(timeout=PATIENCE_S) == 5
    assert [each.code for each in manager.map(odd_errors.make, [kind] * 4, [6] * 4)] == [6] * 4


@pytest.mark.parametrize("exit_", EXITS)
def test_an_exit_while_a_value_is_pickled_or_loaded_costs_an_error_and_no_worker(make_manager, exit_):
    manager = make_manager(max_workers=1)
    pid = manager.run(odd_errors.pid_of_worker).result(timeout=PATIENCE_S)
    handles = [
        manager.run(odd_errors.take, odd_errors.ExitsWhenLoaded(exit_)),
        manager.run(odd_errors.make, odd_errors.ExitsWhenPickled, exit_),
        manager.run(odd_errors.make, odd_errors.ExitsWhenLoaded, exit_),
    ]
    for handle in handles:
        assert isinstance(handle.exception(timeout=PATIENCE_S), SerializationError)
    assert manager.run(odd_errors.pid_of_worker).result(timeout=PATIENCE_S) == pid


@pytest.mark.parametrize("kind", ["ErrorThatExitsWhenPickled", "ErrorThatExitsWhenLoaded", "ErrorThatExitsAnyWay"])
def test_an_exception_whose_pickling_or_loading_exits_costs_no_worker(make_manager, kind):
    manager = make_manager(max_workers=1)
    pid = manager.run(odd_errors.pid_of_worker).result(timeout=PATIENCE_S)
    error = manager.run(odd_errors.fail_with, getattr(odd_errors, kind)).exception(timeout=PATIENCE_S)
    assert isinstance(error, (SerializationError, getattr(odd_errors, kind)))
    assert kind in str(error) or type(error).__name__ == kind
    assert manager.run(odd_errors.pid_of_worker).result(timeout=PATIENCE_S) == pid


@pytest.mark.parametrize("kind", [odd_errors.ExitsWhenPickled, odd_errors.ExitsWhenLoaded])
def test_a_row_of_a_map_whose_value_exits_fails_alone(make_manager, kind):
    manager = make_manager(max_workers=1)
    results = manager.map(odd_errors.make_if_odd, [kind] * 3, [SystemExit] * 3, [0, 1, 2], chunksize=3)
    assert next(results) == 0
    with pytest.raises(SerializationError):
        next(results)


def test_an_exit_while_an_argument_is_pickled_fails_the_task_except_in_the_main_thread(make_manager):
    # There it may be a signal handler's, which wants the program to end.
    manager = make_manager(max_workers=1)
    with pytest.raises(SystemExit):
        manager.run(odd_errors.take, odd_errors.ExitsWhenPickled(SystemExit))
    handles = []
    argument = odd_errors.ExitsWhenPickled(SystemExit)
    thread = threading.Thread(target=lambda: handles.append(manager.run(odd_errors.take, argument)))
    thread.start()
    thread.join(PATIENCE_S)
    error = handles[0].exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    assert "argument 0" in str(error)


@pytest.mark.parametrize(("fn", "args"), [
    (odd_errors.first_of, ([],)),
    (odd_errors.fail_with, (odd_errors.QuietStop, 3)),
])  # fmt: skip
def test_a_stop_iteration_ends_an_await_with_a_runtime_error(make_manager, fn, args):
    manager = make_manager(max_workers=1)

    async def await_handle() -> None:
        with pytest.raises(RuntimeError) as caught:
            await asyncio.wait_for(manager.run(fn, *args), PATIENCE_S)
        assert isinstance(caught.value.__cause__, StopIteration)

    async def await_executor() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError):
            await asyncio.wait_for(loop.run_in_executor(manager, fn, *args), PATIENCE_S)

    asyncio.run(await_handle())
    asyncio.run(await_executor())
    handle = manager.run(fn, *args)
    assert isinstance(handle.exception(timeout=PATIENCE_S), StopIteration)
    with pytest.raises(StopIteration):
        handle.result()


class MyTryAgain(tenacity.TryAgain):
    pass


@pytest.mark.parametrize("kind", [tenacity.TryAgain, MyTryAgain])
def test_a_task_that_raises_try_again_is_tried_again_whatever_the_predicate_says(make_manager, kind):
    manager = make_manager(max_workers=1)
    policy = Retry(stop=tenacity.stop_after_attempt(3), retry=tenacity.retry_if_exception_type(ConnectionError))
    handle = manager.run_task(Task(odd_errors.fail_with, args=(kind,), retry=policy))
    assert type(handle.exception(timeout=PATIENCE_S)) is kind
    assert len(handle.attempts) == 3
    other = manager.run_task(Task(odd_errors.fail_with, args=(ValueError,), retry=policy))
    other.exception(timeout=PATIENCE_S)
    assert len(other.attempts) == 1


def test_errors_without_a_text_fail_their_task_alone(make_manager, tmp_path, caplog):
    manager = make_manager(max_workers=1, journal=tmp_path / "journal")
    make = odd_errors.make_one_that_is_unspeakable_when_loaded
    assert type(manager.run(odd_errors.fail_unspeakably).exception(timeout=PATIENCE_S)) is UnspeakableError
    keyed = [manager.run_task(Task(make, key="one")) for _ in range(3)]
    loose = manager.run_task(Task(make, args=(1,), retry=2))
    for handle in (*keyed, loose):
        assert "could not be loaded in the parent" in str(handle.exception(timeout=PATIENCE_S))
        assert isinstance(handle.exception().__cause__, UnspeakableError)
    with pytest.raises(SerializationError, match="could not be loaded in the parent"):
        list(manager.map(make, range(3)))
    with pytest.raises(SerializationError, match="argument 0"):
        raise manager.run(odd_errors.take, odd_errors.UnspeakableWhenPickled()).exception(timeout=PATIENCE_S)
    manager.run(odd_errors.log_an_unspeakable_value).result(timeout=PATIENCE_S)
    manager.close()
    [record] = [each for each in caplog.records if each.name == "unspeakable"]
    assert record.value == "<UnspeakableWhenPickled whose repr fails>"
    with pytest.raises(TypeError, match=r"UnspeakableError\(\.\.\.\)"):
        Task(pow, args=UnspeakableError())


def test_failure_without_a_text_is_logged(make_manager, caplog):
    manager = make_manager(max_workers=1, observer=LoggingObserver())
    manager.run(odd_errors.fail_unspeakably).exception(timeout=PATIENCE_S)
    manager.close()
    assert any("<UnspeakableError whose repr fails>" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("inline", [False, True])
def test_an_initializer_whose_error_has_no_text_fails_all_tasks(make_manager, inline):
    manager = make_manager(max_workers=1, initializer=odd_errors.fail_unspeakably, inline=inline)
    try:
        error = manager.run(pow, 2, 3).exception(timeout=PATIENCE_S)
    except InitializerError as refusal:
        error = refusal
    assert isinstance(error, InitializerError)
    assert isinstance(error.__cause__, UnspeakableError)


def test_an_initializer_that_cannot_be_pickled_and_says_nothing_is_refused():
    with pytest.raises(SerializationError, match="initializer or its arguments"):
        Manager(initializer=odd_errors.take, initargs=(odd_errors.UnspeakableWhenPickled(),))


def test_tasks_fail_also_where_the_reason_for_a_broken_manager_cannot_be_explained(make_manager, monkeypatch):
    def explain(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(settle, "explain", explain)
    manager = make_manager(max_workers=1, initializer=odd_errors.fail_with, initargs=(ValueError,))
    assert isinstance(manager.run(pow, 2, 3).exception(timeout=PATIENCE_S), InitializerError)
