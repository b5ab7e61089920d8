"""A task's exception arrives as it was raised, with the child's traceback as its cause."""

from __future__ import annotations

import os
import pickle
import traceback
from concurrent.futures.process import BrokenProcessPool

import pytest

import procbackground
from procbackground import (
    InitializerError,
    ManagerClosedError,
    MemoryLimitError,
    ProcbackgroundError,
    SerializationError,
    TaskTimeoutError,
    UnknownTaskTypeError,
    WorkerDiedError,
)
from tests.support.gate import PATIENCE_S
from tests.support.tasks import failing, plain, raising, surroundings
from tests.support.tasks.failing import Flaky
from tests.support.tasks.raising import KeywordOnly, TwoArguments


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (TaskTimeoutError, TimeoutError),
        (MemoryLimitError, MemoryError),
        (WorkerDiedError, BrokenProcessPool),
        (SerializationError, pickle.PicklingError),
        (InitializerError, BrokenProcessPool),
        (ManagerClosedError, RuntimeError),
        (UnknownTaskTypeError, ValueError),
    ],
)
def test_every_error_has_the_root_and_is_what_others_expect(error, also):
    assert issubclass(error, ProcbackgroundError)
    assert issubclass(error, also)
    assert error.__name__ in procbackground.__all__


def test_the_original_exception_arrives(manager):
    handle = manager.run(failing.fail, "out of paper")
    with pytest.raises(Flaky) as caught:
        handle.result(timeout=PATIENCE_S)
    assert caught.value.args == ("out of paper",)
    assert handle.exception() is caught.value


def test_the_childs_traceback_is_its_cause(manager):
    error = manager.run(failing.fail).exception(timeout=PATIENCE_S)
    assert error.__cause__ is not None
    shown = str(error.__cause__)
    for word in ("Traceback", "in fail", "failing.py", "Flaky", "broken on purpose"):
        assert word in shown


def test_the_childs_traceback_shows_when_printed(manager):
    handle = manager.run(failing.fail)
    with pytest.raises(Flaky) as caught:
        handle.result(timeout=PATIENCE_S)
    printed = "".join(traceback.format_exception(caught.value))
    assert "in fail" in printed
    assert "failing.py" in printed


def test_asking_twice_raises_the_same(manager):
    handle = manager.run(failing.fail)
    errors = []
    for _ in range(2):
        with pytest.raises(Flaky) as caught:
            handle.result(timeout=PATIENCE_S)
        errors.append(caught.value)
    assert errors[0] is errors[1]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1),
        KeyError("missing"),
        StopIteration(4),
        TimeoutError("the task's own"),
        FileNotFoundError(2, "No such file", "/nowhere"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        NotImplementedError(),
        GeneratorExit(),
        KeyboardInterrupt(),
        MemoryError("the task's own"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_builtin_exceptions_arrive_as_they_are(manager, error):
    came = manager.run(failing.raise_this, error).exception(timeout=PATIENCE_S)
    assert type(came) is type(error)
    assert came.args == error.args
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4


def test_an_exception_with_two_required_arguments_arrives(manager):
    others = [manager.run(plain.square, number) for number in range(4)]
    error = manager.run(raising.raise_two_arguments).exception(timeout=PATIENCE_S)
    assert type(error) is TwoArguments
    assert (error.code, error.reason, str(error)) == (7, "out of paper", "out of paper (7)")
    assert "raise_two_arguments" in str(error.__cause__)
    assert [other.result(timeout=PATIENCE_S) for other in others] == [0, 1, 4, 9]


def test_an_exception_with_keywords_only_arrives(manager):
    error = manager.run(raising.raise_keyword_only).exception(timeout=PATIENCE_S)
    assert type(error) is KeywordOnly
    assert error.code == 9


@pytest.mark.parametrize(
    ("fn", "args", "words"),
    [
        (raising.raise_holding_a_lock, (), ["HoldsALock", "locked away"]),
        (raising.raise_unreducible, (), ["Unreducible", "irreducible"]),
        (raising.raise_loads_elsewhere, (os.getpid(),), ["LoadsElsewhereError", "not for"]),
    ],
    ids=["cannot be pickled", "raises in __reduce__", "does not load"],
)
def test_an_exception_that_cannot_cross_is_told_with_type_text_and_traceback(manager, fn, args, words):
    others = [manager.run(plain.square, number) for number in range(4)]
    handle = manager.run(fn, *args)
    error = handle.exception(timeout=PATIENCE_S)
    assert error is not None
    for word in words:  # it may be rebuilt by its parts, or a stand-in may tell of it
        assert word in f"{type(error).__name__}: {error}"
    assert fn.__name__ in str(error.__cause__)
    assert [other.result(timeout=PATIENCE_S) for other in others] == [0, 1, 4, 9]


def test_an_exception_without_a_text_arrives(manager):
    error = manager.run(raising.raise_mute).exception(timeout=PATIENCE_S)
    assert type(error) is raising.Mute
    assert "raise_mute" in str(error.__cause__)


def test_a_chain_of_exceptions_shows_in_the_cause(manager):
    error = manager.run(raising.raise_chained).exception(timeout=PATIENCE_S)
    assert isinstance(error, KeyError)
    assert "the first fault" in str(error.__cause__)
    assert "the second fault" in str(error.__cause__)


def test_an_exception_group_arrives(manager):
    error = manager.run(raising.raise_group).exception(timeout=PATIENCE_S)
    assert isinstance(error, ExceptionGroup)
    assert [type(part) for part in error.exceptions] == [Flaky, ValueError]


def test_a_note_arrives(manager):
    error = manager.run(raising.raise_with_note).exception(timeout=PATIENCE_S)
    assert error.__notes__ == ["seen at midnight"]


def test_an_exception_of_a_class_made_in_a_function_arrives(manager):
    error = manager.run(raising.raise_local_class).exception(timeout=PATIENCE_S)
    assert type(error).__name__ == "LocalError"
    assert str(error) == "from inside"


def test_calling_with_wrong_arguments_is_the_tasks_failure(manager):
    error = manager.run(plain.add, 1).exception(timeout=PATIENCE_S)
    assert isinstance(error, TypeError)
    assert "add" in str(error)


def test_the_packages_errors_survive_pickle():
    for kind in (TaskTimeoutError, MemoryLimitError, WorkerDiedError, SerializationError, ManagerClosedError):
        error = kind("what happened", attempt=2, pid=17)
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.attempt, copy.pid) == (kind, str(error), 2, 17)


def test_a_nested_managers_error_arrives(manager):
    error = manager.run(surroundings.nested_death).exception(timeout=60)
    assert isinstance(error, WorkerDiedError)
    assert error.exit_code == 3
