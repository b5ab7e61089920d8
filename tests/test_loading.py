"""Loading a task's function, with all that it imports: bounded by `start_timeout`, and not charged to `timeout`."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import sys
import time
from importlib import import_module

import pytest

from procbackground import Outcome, Task, TaskTimeoutError, TaskType, WorkerDiedError
from procbackground._state import job, launches, limits
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import plain

MODULE = """
import multiprocessing, time
if multiprocessing.parent_process() is not None:
    time.sleep({seconds})
def echo(value, seconds=0):
    time.sleep(seconds)
    return value
class Number(int):
    pass
def tell_slowly_or_die(address, item):
    from tests.support.tasks import failing
    return failing.tell_slowly_or_die(address, item)
def iterate(address):
    from tests.support.gate import tell_gate
    tell_gate(address, "iterating")
"""


@pytest.fixture
def slow_module(tmp_path, monkeypatch):
    """A function that makes a module whose import takes so long in a child."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(seconds: float):
        name = f"slow_to_load_{len(list(tmp_path.iterdir()))}"
        (tmp_path / f"{name}.py").write_text(MODULE.format(seconds=seconds))
        module = import_module(name)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return make


@pytest.fixture
def manager(make_manager, slow_module):
    """A manager whose worker imports what it runs itself, and has started."""
    manager = make_manager(max_workers=1, mp_context=multiprocessing.get_context("spawn"), grace=0.2)
    manager.run(plain.square, 3).result(timeout=PATIENCE_S)
    return manager


def test_imports_are_not_charged_to_the_timeout_and_the_call_is(manager, slow_module):
    module = slow_module(0.6)
    limited = manager.options(timeout=0.3)
    assert limited.run(module.echo, 1).result(timeout=PATIENCE_S) == 1
    began_s = time.monotonic()
    assert isinstance(limited.run(module.echo, 2, 60).exception(timeout=PATIENCE_S), TaskTimeoutError)
    assert time.monotonic() - began_s < 5


def test_the_timeout_of_a_call_begins_once_its_function_is_loaded(manager, slow_module):
    module = slow_module(0.6)
    began_s = time.monotonic()
    error = manager.options(timeout=0.3).run(module.echo, 1, 60).exception(timeout=PATIENCE_S)
    assert isinstance(error, TaskTimeoutError)
    assert "in echo" in str(error)
    assert time.monotonic() - began_s < 10


def test_imports_of_arguments_that_come_with_a_new_function_are_not_charged(manager, slow_module):
    module = slow_module(0.6)
    value = module.Number(4)
    assert manager.options(timeout=0.3).run(plain.echo, value).result(timeout=PATIENCE_S) == 4


def test_a_call_that_is_as_silent_as_its_import_was_is_reported_once(make_manager, recorder, slow_module):
    module = slow_module(0.3)
    manager = make_manager(max_workers=1, mp_context=multiprocessing.get_context("spawn"), observer=recorder)
    manager.run(plain.square, 3).result(timeout=PATIENCE_S)
    handle = manager.run_task(Task(module.echo, args=(1, 60), stalled_threshold=0.1, timeout=0.4))
    assert isinstance(handle.exception(timeout=PATIENCE_S), TaskTimeoutError)
    manager.close()
    assert [event.attempt for event in recorder.events("task_stalled")] == [1]


def test_chunks_and_loops_have_the_same_clock(manager, slow_module, gate):
    module = slow_module(0.6)
    assert list(manager.options(timeout=0.3).map(module.echo, range(4), chunksize=4)) == [0, 1, 2, 3]
    module = slow_module(0.6)
    task = Task(module.iterate, args=(gate.address,), type=TaskType.LOOP, interval=0.01, timeout=0.3)
    loop = manager.run_task(task)
    arrival = gate.next_arrival()
    assert arrival.label == "iterating"
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S)
    assert loop.attempts == []


def test_imports_are_bounded_by_start_timeout(make_manager, slow_module):
    module = slow_module(60)
    manager = make_manager(
        max_workers=1, mp_context=multiprocessing.get_context("spawn"), grace=0.2, start_timeout=3, timeout=0.1
    )
    handle = manager.run(module.echo, 1)
    error = handle.exception(timeout=PATIENCE_S)
    assert isinstance(error, TaskTimeoutError)
    assert "was still loading its function" in str(error)
    assert "start_timeout of 3 s" in str(error)
    assert module.__name__ in str(error)  # the stack
    assert handle.attempts[0].outcome is Outcome.TIMED_OUT


def test_a_function_that_cannot_be_loaded_does_not_stop_the_clock_of_the_next_call(manager):
    assert manager.run(Unloadable().method).exception(timeout=PATIENCE_S) is not None
    assert isinstance(manager.options(timeout=0.2).run(time.sleep, 60).exception(PATIENCE_S), TaskTimeoutError)
    assert isinstance(manager.options(timeout=0.2).run(time.sleep, 60).exception(PATIENCE_S), TaskTimeoutError)


class Unloadable:
    def method(self) -> None:
        pass

    def __reduce__(self):
        return _refuse, ()


def _refuse() -> None:
    raise RuntimeError("not here")


def test_slow_rows_after_a_load_ran_once_when_a_later_one_dies(manager, slow_module, gate):
    """The first look at the chunk finds it loading its function; there is another one soon after."""
    module = slow_module(0.1)
    gate.open()
    items = [None] * 100 + [0, 1, 2, 3, 4, 5, "die"]
    results = manager.map(module.tell_slowly_or_die, itertools.repeat(gate.address), items, chunksize=200)
    assert [next(results) for _ in items[:-1]] == items[:-1]
    with pytest.raises(WorkerDiedError):
        next(results)
    assert [gate.wait_for_label() for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    assert not gate.has_arrivals()


def test_imports_of_a_task_without_a_timeout_are_bounded_too(make_manager, slow_module):
    module = slow_module(60)
    context = multiprocessing.get_context("spawn")
    manager = make_manager(max_workers=1, mp_context=context, grace=0.2, start_timeout=3)
    error = manager.run(module.echo, 1).exception(timeout=PATIENCE_S)
    assert isinstance(error, TaskTimeoutError)
    assert module.__name__ in str(error)  # the stack


def test_slow_imports_are_logged_with_where_they_are(make_manager, slow_module, caplog, monkeypatch):
    monkeypatch.setattr(launches, "SLOW_START_S", 1.0)
    monkeypatch.setattr(limits, "SLOW_START_S", 1.0)
    monkeypatch.setattr(job, "LOADING_LOOK_S", 0.2)
    monkeypatch.setattr(limits, "LOADING_LOOK_S", 0.2)
    module = slow_module(3)
    manager = make_manager(max_workers=1, mp_context=multiprocessing.get_context("spawn"))
    with caplog.at_level(logging.WARNING):
        assert manager.run(module.echo, 1).result(timeout=PATIENCE_S) == 1
        wait_until(lambda: "task 'echo' has not begun" in caplog.text, "a warning")
    assert f"{module.__name__}.py" in caplog.text
    assert caplog.text.count("has not begun") == 1


def test_a_slow_start_is_logged(make_manager, caplog, monkeypatch):
    monkeypatch.setattr(launches, "SLOW_START_S", 0.2)
    manager = make_manager(max_workers=2, initializer=plain.pause, initargs=(1,))
    with caplog.at_level(logging.WARNING):
        assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
        wait_until(lambda: "runs the initializer, for 0 s now" in caplog.text, "a warning")
    assert "start_timeout is 300 s" in caplog.text
