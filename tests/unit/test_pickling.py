"""Pickles inside frames: exceptions that always load again, and errors that name the part that cannot be pickled."""

from __future__ import annotations

import functools
import math
import pickle
import pickletools
import random
import sys
import textwrap
import threading
from collections import OrderedDict
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procbackground import RemoteTraceback, SerializationError
from procbackground._wire.failures import dump_failure, load_failure
from procbackground._wire.pickling import dump_arguments, dump_function, dumps, explain_result, is_stateless
from procbackground._wire.plain import is_plain


class TwoFacts(Exception):
    """Its `args` are not what its `__init__` wants, as with many a home-made exception."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


class HoldsALock(Exception):
    """Refuses to be pickled."""

    def __init__(self) -> None:
        super().__init__("held")
        self.lock = threading.Lock()


class WillNotSay(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class Parts:
    """Has attributes."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)

    def method(self) -> None:
        """Be bound."""


def caught(raise_it: Callable[[], object]) -> BaseException:
    try:
        raise_it()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def raising(error: BaseException) -> BaseException:
    """Return the error with a traceback that goes through this function."""

    def deep() -> None:
        raise error

    return caught(deep)


@pytest.mark.parametrize(
    "error", [ValueError("bad", 3), KeyError("k"), OSError(2, "gone", "path"), KeyboardInterrupt(), SystemExit(3)]
)
def test_exception_crosses_as_itself(error):
    loaded, kind = load_failure(dump_failure(raising(error)))
    assert kind == "raised"
    assert type(loaded) is type(error)
    assert loaded.args == error.args


def test_childs_traceback_is_the_cause():
    loaded, _ = load_failure(dump_failure(raising(ValueError("bad"))))
    assert isinstance(loaded.__cause__, RemoteTraceback)
    assert "in deep" in str(loaded.__cause__)
    assert "ValueError: bad" in str(loaded.__cause__)


def test_our_own_frames_are_left_out_of_the_traceback():
    shown = str(load_failure(dump_failure(raising(ValueError()), frames_to_skip=1))[0].__cause__)
    assert "in caught" not in shown
    assert "in deep" in shown


def test_exception_whose_init_wants_other_arguments_crosses_by_its_parts():
    loaded, kind = load_failure(dump_failure(raising(TwoFacts(7, "odd"))))
    assert kind == "raised"
    assert isinstance(loaded, TwoFacts)
    assert (loaded.code, loaded.detail, str(loaded)) == (7, "odd", "7: odd")


def test_exception_that_cannot_cross_is_told_in_words():
    loaded, kind = load_failure(dump_failure(raising(HoldsALock())))
    assert kind == "exception"
    assert isinstance(loaded, SerializationError)
    assert "HoldsALock: held" in str(loaded)
    assert "in deep" in str(loaded.__cause__)


def test_exception_without_a_text_crosses_all_the_same():
    loaded, kind = load_failure(dump_failure(raising(WillNotSay())))
    assert (type(loaded), kind) == (WillNotSay, "raised")


def test_exception_that_only_the_child_can_load_is_told_in_words():
    vanishing = type("Vanishing", (Exception,), {"__module__": __name__})
    module = sys.modules[__name__]
    vanishing.__qualname__ = "Vanishing"
    module.Vanishing = vanishing  # type: ignore[attr-defined]
    body = dump_failure(raising(vanishing("here and gone")))
    del module.Vanishing  # type: ignore[attr-defined]
    loaded, kind = load_failure(body)
    assert kind == "exception"
    assert isinstance(loaded, SerializationError)
    assert "here and gone" in str(loaded)


@pytest.mark.parametrize("kind", ["function", "arguments", "result"])
def test_failure_to_cross_names_the_thing(kind):
    loaded, told = load_failure(dump_failure(raising(TypeError("refused")), kind))
    assert told == kind
    assert isinstance(loaded, SerializationError)
    assert kind in str(loaded)
    assert "refused" in str(loaded)


def test_failure_is_plain_data():
    assert all(type(part) in (str, bytes) for part in pickle.loads(dump_failure(raising(TwoFacts(1, "x")))))


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((1, threading.Lock()), {}, ["argument 1", "_thread.lock"]),
        ((1,), {"lock": threading.Lock()}, ["argument 'lock'", "_thread.lock"]),
        (([0, {"a": threading.Lock()}],), {}, ["argument 0", "at [1]['a']", "_thread.lock"]),
        ((Parts(inner=Parts(lock=threading.Lock())),), {}, ["argument 0", "at .inner.lock", "_thread.lock"]),
        (({threading.Lock()},), {}, ["argument 0", "at {...}"]),
        ((Parts(lock=threading.Lock()).method,), {}, ["argument 0", ".__self__.lock"]),
    ],
)
def test_argument_that_refuses_is_named_with_its_path(args, kwargs, words):
    with pytest.raises(SerializationError) as caught:
        dump_arguments(args, kwargs)
    assert [word for word in words if word not in str(caught.value)] == []
    assert caught.value.__cause__ is not None


def test_function_that_refuses_is_named_with_what_it_closes_over():
    lock = threading.Lock()
    with pytest.raises(SerializationError, match=r"function cannot be pickled: _thread.lock, at closing over lock"):
        dump_function(lambda: lock)


def function_of(text: str, **variables: Any) -> Any:
    """Return the function `task` of a module that is no file: it is sent by its code, with what it uses of it."""
    namespace = {"__name__": "__main__", **variables}
    exec(textwrap.dedent(text), namespace)
    return namespace["task"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def task(): return lock", "_thread.lock, at global variable lock "),
        ("def task(): return [lock for _ in 'ab'], other.lock", "_thread.lock, at global variable lock "),
        ("def task(): return (lambda: box)", "_thread.lock, at global variable box['key'] "),
        ("def task(): return step()\ndef step(): return task(), lock", "at global variable step global variable lock "),
        ("def task(): return other.lock", None),
        ("def task(): return task()", None),
        (
            "def outer():\n  def inner(): return late, lock\n  return inner\n  late = 1\ntask = outer()",
            "_thread.lock, at global variable lock ",
        ),
    ],
)
def test_function_that_refuses_is_named_with_the_global_variables_it_uses(text, words):
    lock = threading.Lock()
    fn = function_of(text, lock=lock, box={"key": lock}, other=Parts(lock=1))
    if words is None:
        dump_function(fn)
        return
    with pytest.raises(SerializationError) as caught:
        dump_function(fn)
    assert words in str(caught.value)


def test_what_refuses_by_itself_is_not_taken_apart():
    class Refusing:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __reduce__(self) -> Any:
            raise TypeError("a machine cannot be moved")

    with pytest.raises(SerializationError, match=r"Refusing, at \.machine \(a machine cannot be moved\)"):
        dump_arguments((Parts(machine=Refusing()),), {})


def test_result_that_refuses_is_named_with_its_path():
    error = explain_result([1, [threading.Lock()]], TypeError("cannot pickle"))
    assert "the result cannot be pickled: _thread.lock, at [1][0] (cannot pickle)" in str(error)


def test_path_stops_where_it_no_longer_reads_well():
    nested: Any = threading.Lock()
    for _ in range(20):
        nested = [nested]
    assert str(explain_result(nested, TypeError())).count("[0]") == 8


def test_lambda_and_closure_cross():
    factor = 3
    assert pickle.loads(dump_function(lambda x: x * factor))(2) == 6


def test_arguments_are_args_alone_unless_there_are_kwargs():
    assert pickle.loads(dump_arguments((1, 2), {})) == (1, 2)  # type: ignore[arg-type]
    assert pickle.loads(dump_arguments((1,), {"b": 2})) == ((1,), {"b": 2})  # type: ignore[arg-type]


@pytest.mark.parametrize("fn", [pow, math.sqrt, raising, Parts, dict])
def test_what_pickles_as_a_name_is_stateless(fn):
    assert is_stateless(fn)


@pytest.mark.parametrize(
    "fn", [lambda: None, functools.partial(pow, 2), Parts().method, [].append, functools.lru_cache(raising)]
)
def test_what_carries_state_is_not_stateless(fn):
    assert not is_stateless(fn)


# -- what is loaded where ------------------------------------------------------------------------------------

reaching = st.sampled_from(
    [len, math.sqrt, TwoFacts, Decimal("1.5"), Fraction(1, 3), OrderedDict(a=1), 1j, {1, 2}, range]
)
plain = st.integers() | st.floats() | st.text() | st.binary() | st.booleans() | st.none()
values = st.recursive(
    plain | reaching,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.integers(), inner),
    max_leaves=20,
)


def reaches_names(data: bytes) -> bool:
    return any(opcode.name == "STACK_GLOBAL" for opcode, _, _ in pickletools.genops(data))


@settings(max_examples=50, deadline=None)
@given(st.lists(values), st.integers(0, 300))
def test_no_pickle_that_reaches_a_name_is_taken_for_plain(parts, strings):
    data = dumps([[str(number) for number in range(strings)], parts, parts])  # names memoized near, and far
    assert not (is_plain(data) and reaches_names(data))


@pytest.mark.parametrize("size", range(65_500, 65_560))
def test_a_name_behind_the_end_of_a_frame_is_seen(size):
    data = dumps(["a" * size, math.sqrt, math.sqrt])
    assert reaches_names(data)
    assert not is_plain(data)


def test_lists_of_numbers_are_nearly_always_plain():
    chance = random.Random(1)
    pickles = [dumps([chance.randrange(1 << 30) for _ in range(64)]) for _ in range(500)]
    assert sum(b"\x93" in data for data in pickles) > 100
    assert sum(map(is_plain, pickles)) > 480


def test_a_value_full_of_such_bytes_is_not_looked_through():
    assert not is_plain(dumps(b"\x93" * 60_000))


def test_what_ends_before_it_begins_is_no_name():
    assert is_plain(b"")
    assert not is_plain(b"\x94\x93")
