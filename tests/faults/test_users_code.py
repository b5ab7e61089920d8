"""The user's code in the parent cannot stall or end the manager, whatever it does there."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tenacity import stop_after_attempt

from procbackground import InitializerError, Manager, Retry, SerializationError, Task, TaskTimeoutError
from procbackground.observers import Observer
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import failing, pickling, plain, surroundings

SEVERAL = 8  # pieces of code that block at once


class Blockade:
    """Code that blocks until the test is over, and says that it does."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.has_come = threading.Semaphore(0)

    def block(self, *args: object) -> None:
        self.has_come.release()
        self.may_go.wait(PATIENCE_S)

    def wait_for(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.has_come.acquire(timeout=PATIENCE_S)


@pytest.fixture
def manager(make_manager: Callable[..., Manager]) -> Manager:
    """All this happens in the parent, the same under every start method."""
    return make_manager(grace=0.3)


@pytest.fixture
def blockade() -> Iterator[Blockade]:
    blockade = Blockade()
    yield blockade
    blockade.may_go.set()


@contextmanager
def ended_afterwards(manager, blockade) -> Iterator[None]:
    """Let what blocks go on before the manager is closed."""
    try:
        yield
    finally:
        blockade.may_go.set()
        assert manager.wait(PATIENCE_S)


def assert_unimpeded(manager) -> None:
    """Everything that a manager does for tasks, it still does."""
    squares = [manager.run(plain.square, number) for number in range(20)]
    of_a_class = manager.run(plain.echo, plain.Multiplier(3))
    failed = manager.run(failing.fail)
    overdue = manager.run_task(Task(failing.sleep_long, timeout=0.2))
    late = manager.run_task(Task(failing.sleep_long, deadline=0.2))
    retried = manager.run_task(Task(failing.mishap_with, args=(2, None), retry=2))
    assert [handle.result(timeout=PATIENCE_S / 2) for handle in squares] == [number**2 for number in range(20)]
    assert of_a_class.result(timeout=PATIENCE_S / 2).times(2) == 6
    assert isinstance(failed.exception(timeout=PATIENCE_S / 2), failing.Flaky)
    assert isinstance(overdue.exception(timeout=PATIENCE_S / 2), TaskTimeoutError)
    assert isinstance(late.exception(timeout=PATIENCE_S / 2), TaskTimeoutError)
    assert retried.result(timeout=PATIENCE_S / 2) == 2


def test_done_callbacks_that_block(manager, blockade):
    with ended_afterwards(manager, blockade):
        for number in range(SEVERAL):
            manager.run(plain.square_after, 0.05, number).add_done_callback(blockade.block)
        blockade.wait_for(SEVERAL)
        assert_unimpeded(manager)


@pytest.mark.parametrize("error_type", [ValueError, SystemExit, KeyboardInterrupt])
def test_done_callbacks_that_raise(manager, error_type, caplog):
    caplog.set_level(logging.CRITICAL)

    def fail(handle) -> None:
        raise error_type

    handles = [manager.run(plain.square_after, 0.05, number) for number in range(SEVERAL)]
    for handle in handles:
        handle.add_done_callback(fail)
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [number**2 for number in range(SEVERAL)]
    assert_unimpeded(manager)


def test_retry_policies_that_block(manager, blockade):
    class Blocks(stop_after_attempt):
        def __call__(self, state) -> bool:
            blockade.block()
            return True

    with ended_afterwards(manager, blockade):
        handles = [
            manager.run_task(Task(failing.fail, retry=Retry(stop=Blocks(3)), name="blocks")) for _ in range(SEVERAL)
        ]
        blockade.wait_for(SEVERAL)
        assert_unimpeded(manager)
    assert all(isinstance(handle.exception(timeout=PATIENCE_S), failing.Flaky) for handle in handles)


def test_retry_policy_that_exits_fails_its_task_alone(manager):
    class Exits(stop_after_attempt):
        def __call__(self, state) -> bool:
            raise SystemExit("policy")

    handle = manager.run_task(Task(failing.fail, retry=Retry(stop=Exits(3))))
    assert isinstance(handle.exception(timeout=PATIENCE_S), SystemExit)
    assert_unimpeded(manager)


@pytest.mark.parametrize("how", ["block", "SystemExit"])
def test_observers_that_block_or_exit(make_manager, blockade, how):
    class Bad(Observer):
        def on_task_succeeded(self, event) -> None:
            if how == "block":
                blockade.block()
            else:
                blockade.has_come.release()
                raise SystemExit("observer")

    manager = make_manager(observer=Bad())
    with ended_afterwards(manager, blockade):
        manager.run(plain.square, 3)
        blockade.wait_for()
        assert_unimpeded(manager)
        blockade.may_go.set()
        blockade.wait_for(22)  # all others have come, too


def test_log_handlers_that_block(manager, blockade):
    class Bad(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            blockade.block()

    logger, handler = logging.getLogger("tests.child"), Bad()
    logger.addHandler(handler)
    try:
        with ended_afterwards(manager, blockade):
            handles = [manager.run(surroundings.log_by_logging, "heard") for _ in range(100)]
            blockade.wait_for()
            assert all(handle.result(timeout=PATIENCE_S) for handle in handles)
            assert_unimpeded(manager)
            blockade.may_go.set()
            blockade.wait_for(99)
    finally:
        logger.removeHandler(handler)


def test_arguments_and_results_whose_reduction_raises(manager):
    for error in (
        manager.run(plain.echo, pickling.Refuses()).exception(timeout=PATIENCE_S),
        manager.run(pickling.Refuses).exception(timeout=PATIENCE_S),
    ):
        assert isinstance(error, SerializationError)
        assert "this object refuses to be pickled" in str(error)
    assert_unimpeded(manager)


def _fail_slowly_to_load(parent: int) -> BaseException:
    if os.getpid() == parent:
        pickling.is_loading.set()
        pickling.may_load.wait(PATIENCE_S)
    return LoadsSlowlyError(parent)


class LoadsSlowlyError(Exception):
    def __reduce__(self):
        return _fail_slowly_to_load, self.args


def raise_what_loads_slowly(parent: int) -> None:
    raise LoadsSlowlyError(parent)


def test_exceptions_that_block_when_they_are_loaded(manager):
    pickling.may_load.clear()
    pickling.is_loading.clear()
    handles = [manager.run(raise_what_loads_slowly, os.getpid()) for _ in range(SEVERAL)]
    try:
        assert pickling.is_loading.wait(PATIENCE_S)
        assert_unimpeded(manager)
    finally:
        pickling.may_load.set()
    assert all(isinstance(handle.exception(timeout=PATIENCE_S), LoadsSlowlyError) for handle in handles)


def is_refused(manager: Manager) -> bool:
    try:
        manager.run(pow, 2, 2)
    except InitializerError as error:
        return "the initializer failed" in str(error)
    return False


def test_initializers_exception_that_blocks_when_it_is_loaded(make_manager):
    pickling.may_load.clear()
    pickling.is_loading.clear()
    manager = make_manager(initializer=raise_what_loads_slowly, initargs=(os.getpid(),))
    handle = manager.run(pow, 2, 2)
    try:
        assert pickling.is_loading.wait(PATIENCE_S)  # by the log record of it, which comes first
        wait_until(lambda: is_refused(manager), "the supervisor has seen the failure")
        wait_until(lambda: not manager.processes(), "the supervisor is at work, and sees the process end")
    finally:
        pickling.may_load.set()
    assert isinstance(handle.exception(timeout=PATIENCE_S), InitializerError)
