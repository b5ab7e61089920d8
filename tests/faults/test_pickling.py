"""Faults 5 to 9 and 24: arguments, results and exceptions that cannot be pickled or loaded."""

from __future__ import annotations

import copyreg
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from tenacity import stop_after_attempt

from procbackground import Retry, SerializationError, Task, TaskTimeoutError
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.scripts import ENVIRONMENT
from tests.support.tasks import failing, gated, pickling, plain
from tests.support.tasks.plain import Multiplier
from tests.support.tasks.raising import TwoArguments, Unreducible


def test_05_argument_that_cannot_be_pickled(manager, gate):
    neighbour = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    before = [manager.run(plain.square, number) for number in range(6)]
    error = manager.run(plain.echo, {"guard": threading.Lock()}).exception(timeout=PATIENCE_S)
    behind = [manager.run(plain.square, number) for number in range(6)]
    assert isinstance(error, SerializationError)
    assert "argument 0 cannot be pickled: _thread.lock, at ['guard']" in str(error)
    for handles in (before, behind):
        assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [0, 1, 4, 9, 16, 25]
    gate.release(pid, "unharmed")
    assert neighbour.result(timeout=PATIENCE_S) == "unharmed"


def test_06_result_that_cannot_be_pickled(scene):
    error = scene.play("lock", is_fatal=False)
    assert isinstance(error, SerializationError)
    assert "the result cannot be pickled: _thread.lock, at ['inner'][1]" in str(error)


def test_07_exception_with_two_required_arguments(scene):
    error = scene.play("two arguments", is_fatal=False)
    assert type(error) is TwoArguments
    assert (error.code, error.reason) == (7, "out of paper")
    assert "raise_two_arguments" in str(error.__cause__)


def test_08_exception_whose_reduce_raises(scene):
    error = scene.play("no reduction", is_fatal=False)
    assert type(error) is Unreducible or isinstance(error, SerializationError)
    assert "irreducible" in str(error)
    assert "raise_unreducible" in str(error.__cause__)


def test_09a_result_that_raises_when_the_parent_unpickles_it(manager, gate):
    neighbour = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    guilty = manager.run(pickling.return_unloadable, os.getpid())
    behind = [manager.run(plain.square, number) for number in range(6)]
    error = guilty.exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    assert "the result could not be loaded in the parent" in str(error)
    assert "this object does not load here" in str(error)
    assert [handle.result(timeout=PATIENCE_S) for handle in behind] == [0, 1, 4, 9, 16, 25]
    gate.release(pid, "unharmed")
    assert neighbour.result(timeout=PATIENCE_S) == "unharmed"


def test_09b_result_that_blocks_when_the_parent_unpickles_it(manager, gate):
    """Nothing else waits for it: neither results nor dispatch, timeouts, deadlines, retries and cancels."""
    pickling.may_load.clear()
    pickling.is_loading.clear()
    started = time.monotonic()
    blocking = [manager.run(pickling.return_slow_loader, os.getpid()) for _ in range(3)]
    try:
        wait_until(pickling.is_loading.is_set, "a result is being loaded")
        others = [manager.run(plain.square, number) for number in range(50)]
        assert [handle.result(timeout=PATIENCE_S) for handle in others] == [number**2 for number in range(50)]
        not_plain = manager.run(plain.echo, Multiplier(3))  # a class of the user's: the same threads load it
        assert not_plain.result(timeout=PATIENCE_S).times(2) == 6
        overdue = manager.run_task(Task(failing.sleep_long, timeout=0.2))
        late = manager.run_task(Task(failing.sleep_long, deadline=0.2))
        assert isinstance(overdue.exception(timeout=PATIENCE_S), TaskTimeoutError)
        assert isinstance(late.exception(timeout=PATIENCE_S), TaskTimeoutError)
        retried = manager.run_task(Task(failing.mishap_with, args=(2, None), retry=Retry(stop=stop_after_attempt(2))))
        assert retried.result(timeout=PATIENCE_S) == 2
        running = manager.run(gated.stop_then_do, gate.address)
        gate.wait_for_arrival()
        assert running.cancel()
        assert not any(handle.done() for handle in blocking)
        assert time.monotonic() - started < PATIENCE_S  # while `_load_when_allowed` would wait that long
    finally:
        pickling.may_load.set()
    assert [handle.result(timeout=PATIENCE_S) for handle in blocking] == ["loaded"] * 3


def test_09b_result_that_blocks_and_is_reached_by_an_extension_code(make_manager, gate):
    """Its pickle names no class; such a code may stand for anything."""
    pickling.may_load.clear()
    pickling.is_loading.clear()
    extension = ("tests.support.tasks.pickling", "_load_when_allowed", 200)
    copyreg.add_extension(*extension)
    try:
        manager = make_manager(mp_context=multiprocessing.get_context("fork"))  # whose children have the code, too
        blocking = manager.run(pickling.return_slow_loader, os.getpid())
        wait_until(pickling.is_loading.is_set, "a result is being loaded")
        others = [manager.run(plain.square, number) for number in range(50)]
        assert [handle.result(timeout=PATIENCE_S / 2) for handle in others] == [number**2 for number in range(50)]
        assert not blocking.done()
    finally:
        pickling.may_load.set()
        copyreg.remove_extension(*extension)
    assert blocking.result(timeout=PATIENCE_S) == "loaded"


@pytest.mark.parametrize("what", ["lambda", "closure"])
def test_24_lambda_or_closure(manager, what):
    base = 40

    def add(number):
        return base + number

    fn = add if what == "closure" else lambda number: number + 40
    handles = [manager.run(fn, number) for number in range(6)]
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [40, 41, 42, 43, 44, 45]


def test_24_function_of_main(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import multiprocessing
            from procbackground import Manager

            def square(number):
                return number * number

            if __name__ == "__main__":
                with Manager(max_workers=2, mp_context=multiprocessing.get_context({method!r})) as manager:
                    print(manager.run(square, 4).result(timeout=20), manager.run(lambda: 5).result(timeout=20))
            """
        )
    )
    finished = subprocess.run(
        [sys.executable, script], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True
    )
    assert (finished.stdout, finished.stderr) == ("16 5\n", "")
