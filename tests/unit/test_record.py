"""Records and named tuples are to users what `dataclasses` and `typing` make."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any, NamedTuple

import pytest

from procbackground._named import NamedTuple as OurNamedTuple
from procbackground._record import field, record


@record(frozen=True, slots=True)
class Ours:
    """A point."""

    x: int
    y: float | None = None
    tags: dict[str, Any] = field(default_factory=dict)

    @property
    def both(self) -> tuple[int, float | None]:
        return self.x, self.y


@dataclasses.dataclass(frozen=True, slots=True)
class Theirs:
    """A point."""

    x: int
    y: float | None = None
    tags: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def both(self) -> tuple[int, float | None]:
        return self.x, self.y


@record(frozen=True, slots=True, eq=False)
class Unequal:
    x: int


class OurRow(OurNamedTuple):
    """A row."""

    x: int
    y: str = "y"

    @property
    def shown(self) -> str:
        return f"{self.x}{self.y}"


class TheirRow(NamedTuple):
    """A row."""

    x: int
    y: str = "y"

    @property
    def shown(self) -> str:
        return f"{self.x}{self.y}"


def failure_of(act: Any) -> type:
    with pytest.raises((AttributeError, TypeError)) as caught:
        act()
    return caught.type


@pytest.mark.parametrize(
    "look",
    [
        lambda kind: repr(kind(1, tags={"a": 2})).replace("Theirs", "Ours"),
        lambda kind: kind(1) == kind(1) and kind(1) != kind(2) and kind(1) != (1, None, {}),
        lambda kind: kind(1).tags is kind(1).tags,
        lambda kind: dataclasses.asdict(kind(1, 2.0)),
        lambda kind: dataclasses.replace(kind(1), x=3).both,
        lambda kind: [(each.name, each.type) for each in dataclasses.fields(kind)],
        lambda kind: kind(2, 3.0) == copy.copy(kind(2, 3.0)) == pickle.loads(pickle.dumps(kind(2, 3.0))),
        lambda kind: (kind.__match_args__, kind.__slots__, kind.__doc__, kind.__module__),
        lambda kind: [(each.name, each.kind) for each in inspect.signature(kind).parameters.values()],
        lambda kind: failure_of(lambda: setattr(kind(1), "x", 2)),
        lambda kind: failure_of(lambda: delattr(kind(1), "x")),
        lambda kind: failure_of(lambda: hash(kind(1))),
        lambda kind: failure_of(kind),
    ],
)
def test_a_record_is_a_frozen_dataclass(look):
    assert look(Ours) == look(Theirs)


def test_a_dataclass_may_derive_from_a_record():
    derived = dataclasses.make_dataclass("Derived", [("z", int, 3)], bases=(Unequal,), frozen=True)
    assert derived(1).z == 3
    assert [each.name for each in dataclasses.fields(derived)] == ["x", "z"]


def test_a_record_without_equality_is_compared_by_identity():
    one = Unequal(1)
    assert one != Unequal(1)
    assert hash(one) == object.__hash__(one)


def test_records_match_by_position():
    match Ours(1, 2.0):
        case Ours(x, y):
            assert (x, y) == (1, 2.0)


@pytest.mark.parametrize(
    "look",
    [
        lambda kind: (kind._fields, kind._field_defaults, kind.__doc__, kind.__module__),
        lambda kind: (kind(1), kind(1).shown, kind(1)._replace(x=2), repr(kind(1)).replace("Their", "Our")),
        lambda kind: pickle.loads(pickle.dumps(kind(3))),
        lambda kind: [(each.name, each.default) for each in inspect.signature(kind).parameters.values()],
        lambda kind: (kind(y="z", x=2), kind._make((5, 6)), kind(7)._asdict(), kind(8).y, kind.__match_args__),
        lambda kind: [failure_of(lambda arguments=each: kind(**arguments)) for each in ({}, {"x": 1, "z": 2})],
        lambda kind: kind.__annotations__["x"] if isinstance(kind.__annotations__["x"], str) else "int",
    ],
)
def test_a_named_tuple_is_that_of_typing(look):
    assert look(OurRow) == look(TheirRow)
