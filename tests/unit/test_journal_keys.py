"""Default keys: equal calls have equal ones, and different calls different ones."""

from __future__ import annotations

import collections
import datetime
import enum
import functools
import math
import operator
import pathlib

import pytest

from procbackground._journal.keys import COMMAND_LENGTH, default_key, function_name
from tests.support.tasks import plain
from tests.support.tasks.journaled import Point


class Colour(enum.Enum):
    RED = 1


class Plain:
    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)

    def method(self, value: object) -> object:
        return value


def key(*args, fn=plain.echo, **kwargs):
    return default_key(fn, args, kwargs)[0]


def copy_of(text: str) -> str:
    return "".join(list(text))  # another object


LONG = "some text that no interpreter keeps once only"
DIFFERENT = [
    0, False, 0.0, -0.0, "0", b"0", bytearray(b"0"), None, 0j, ..., (), [], {}, set(), frozenset(), (0,), [0], {0},
    {0: 0}, "", b"", "a\0b", ("a", "b"), ("ab",), ((), ()), ([], []), [[]], 10**5000, -(10**5000), 1e300, float("inf"),
    float("nan"), "\udcff", {"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": {"b": 1}}, Colour.RED, Point(1, 2.0),
    Point(2, 1.0), datetime.date(2026, 1, 2), datetime.date(2026, 2, 1), pathlib.PurePosixPath("a"),
    pathlib.PurePosixPath("b"), pathlib.PureWindowsPath("a"), pathlib.Path("a"), range(3), range(4),
    int, str, len, plain.echo, functools.partial(pow, 2), functools.partial(pow, 3), operator.itemgetter(1),
    Plain(a=1), Plain(b=1), collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1),
    collections.deque([1]), [1].append, pathlib,
    lambda x: x + 1, lambda x: x + 2, lambda x, y=1: x + 1, lambda: LONG, Plain(a=1).method, Plain(a=2).method,
]  # fmt: skip


# A journal that another version of this library, or of Python, has begun must still be known.
RECORDED = [
    (plain.echo, (1, "a", 2.5, None, b"\0"), {}, "95f5c91559f0b49c8fbe5cf2c15e3507"),
    (math.sqrt, (2,), {}, "2d586f56d0c6fc4aea4c0d3a3a775457"),
    (plain.echo, ([1, {"b": 2, "a": (3,)}], {"z", "y"}), {"flag": True}, "ade1b3eea04ea265be54fe45eb1f8a1d"),
    (functools.partial(plain.echo, 7), (), {}, "b63a76fced1651326eafd43cc598812e"),
    (plain.echo, (Point(1, 2), datetime.date(2026, 11, 30)), {}, "7adb7d5fb78b34093fc6d5bf874c0e8b"),
    (plain.echo, (pathlib.PurePosixPath("a/b"),), {}, "f382631fcce6306ce40e7908df96d3aa"),
]


@pytest.mark.parametrize(("fn", "args", "kwargs", "recorded"), RECORDED)
def test_keys_are_the_same_in_all_versions(fn, args, kwargs, recorded):
    assert default_key(fn, args, kwargs)[0] == recorded


def test_different_values_have_different_keys():
    keys = [key(value) for value in DIFFERENT]
    repeated = [DIFFERENT[index] for index, found in enumerate(keys) if keys.index(found) != index]
    assert not repeated


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([LONG, LONG], [LONG, copy_of(LONG)]),
        ((LONG, LONG), (copy_of(LONG), copy_of(LONG))),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (set("abcdefg"), set("gfedcba")),
        ({"x": {"b", "a"}, "y": frozenset((1, 2))}, {"y": frozenset((2, 1)), "x": {"a", "b"}}),
        (Plain(a=1, b=[2]), Plain(b=[2], a=1)),
        (Point(1, 2.0), Point(1, 2.0)),
        (functools.partial(pow, 2), functools.partial(pow, 2)),
        ([10**5000], [10**5000]),
        ((lambda x: x + 1), (lambda x: x + 1)),
        ([[1, 2]] * 2, [[1, 2], [1, 2]]),
    ],
)
def test_equal_values_have_equal_keys(one, other):
    assert key(one) == key(other)
    assert key(k=one) == key(k=other)


def test_order_of_keyword_arguments_does_not_matter_but_their_way_does():
    assert key(a=1, b=2) == key(b=2, a=1)
    assert len({key(1, 2), key(2, 1), key(1, b=2), key((1, 2)), key([1, 2])}) == 5


def test_functions_count_by_their_names():
    assert len({key(1, fn=fn) for fn in (plain.echo, plain.square, int, len, abs, operator.neg, Plain)}) == 7
    assert len({key(1, fn=fn) for fn in (Plain(a=1).method, Plain(a=2).method, functools.partial(plain.add, 1))}) == 3


def test_closures_count_by_what_they_hold():
    def scaled(scale):
        return lambda x: x * scale

    assert key(1, fn=scaled(2)) == key(1, fn=scaled(2)) != key(1, fn=scaled(3))


def test_values_that_contain_themselves_have_keys():
    def circle(size):
        values: list = list(range(size))
        values.append(values)
        return values

    assert key(circle(2)) == key(circle(2)) != key(circle(3))


def test_what_occurs_often_is_digested_once():
    value: object = "x"
    for _ in range(60):
        value = [value, value]  # 2**60 leaves
    assert key(value) == key(value)


def test_arrays_count_by_content_type_and_shape():
    numpy = pytest.importorskip("numpy")
    zeros = [
        numpy.zeros(6), numpy.zeros(6, "int64"), numpy.zeros((2, 3)), numpy.zeros((3, 2)), numpy.zeros(6, "complex64"),
        numpy.float64(0), numpy.int64(0),
    ]  # fmt: skip
    assert len({key(array) for array in zeros}) == len(zeros)
    wide = numpy.arange(12).reshape(3, 4)
    assert key(wide[:, ::2]) == key(wide[:, ::2].copy())


def test_values_too_deep_or_without_a_pickle_say_so():
    nested: list = []
    for _ in range(10_000):
        nested = [nested]
    with pytest.raises(RecursionError, match="nested"):
        key(nested)
    with pytest.raises(TypeError, match="generator"):
        key([1], (each for each in "ab"))


def test_text_of_a_call_is_for_people():
    assert default_key(plain.add, (1, "b"), {})[1] == "tests.support.tasks.plain.add(1, 'b')"
    assert default_key(plain.add, ([1, 2],), {"b": None})[1] == "tests.support.tasks.plain.add([1, 2], b=None)"
    assert default_key(plain.nothing, (), {})[1] == "tests.support.tasks.plain.nothing()"
    assert default_key(plain.echo, (7,), {})[1] == "tests.support.tasks.plain.echo(7)"
    long = default_key(plain.echo, ("x" * 1000,), {})[1]
    assert len(long) == COMMAND_LENGTH
    assert long.endswith("...)")
    assert function_name(functools.partial(functools.partial(pow, 2), 3)) == "builtins.pow"

    class Rude:
        def __repr__(self):
            raise RuntimeError

    assert default_key(plain.echo, ([Rude()],), {})[1].startswith("tests.support.tasks.plain.echo(")
