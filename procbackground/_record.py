"""Frozen records: what `dataclasses.dataclass(frozen=True, slots=True)` makes, where a program waits for it.

Before the first result of a program, importing `dataclasses` (with `inspect` and `ast`) and making six classes took 19
of 139 ms of imports; this takes 1 ms. Type checkers see the original. What `dataclasses.fields`, `replace`, `asdict`
and a `dataclass` that derives from a record look for is made by the original on first use.
"""

from __future__ import annotations

from reprlib import recursive_repr

__all__ = ["field", "record"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import field
    from typing import Any
else:

    def record(*, eq: bool = True, **_: bool):
        """Return a decorator. Of the options of `dataclass`, `frozen` and `slots` are always in force."""
        return lambda cls: _make(cls, eq)

    class field:  # noqa: N801  # as in dataclasses
        """A field whose default is made anew for each record."""

        def __init__(self, *, default_factory: Any) -> None:
            self.default_factory = default_factory

        def __repr__(self) -> str:
            return "<factory>"


def _make(cls: Any, eq: bool) -> Any:
    names = tuple(cls.__annotations__)
    defaults = {name: vars(cls)[name] for name in names if name in vars(cls)}
    body = {name: value for name, value in vars(cls).items() if name not in (*defaults, "__dict__", "__weakref__")}
    original = _Original(cls, names, defaults, eq)
    body.update(
        __slots__=names,
        __match_args__=names,
        __init__=_make_init(cls, names, defaults),
        __dataclass_fields__=_OfOriginal(original, "__dataclass_fields__"),
        __dataclass_params__=_OfOriginal(original, "__dataclass_params__"),
        __repr__=_repr,
        __replace__=_replace,
        __getstate__=_get_state,
        __setstate__=_set_state,
    )
    if eq:
        body.update(__eq__=_equals, __hash__=_hash)
    made = type(cls)(cls.__name__, cls.__bases__, body)
    made.__qualname__ = cls.__qualname__

    def refuse(self: Any, name: str, *_: Any) -> None:
        if type(self) is made or name in names:
            from dataclasses import FrozenInstanceError

            raise FrozenInstanceError(f"cannot change field {name!r}")
        (super(made, self).__setattr__ if _ else super(made, self).__delattr__)(name, *_)

    made.__setattr__ = made.__delattr__ = refuse
    return made


def _make_init(cls: Any, names: tuple[str, ...], defaults: dict[str, Any]) -> Any:
    """Return `__init__`. Its text is executed, as in `dataclasses`: a loop over the fields would take twice as long."""
    known = {"_set": object.__setattr__, **{f"_{name}": value for name, value in defaults.items()}}
    parameters = [f"{name}=_{name}" if name in defaults else name for name in names]
    values = {
        name: f"_{name}.default_factory() if {name} is _{name} else {name}"
        for name, value in defaults.items()
        if type(value) is field
    }
    lines = [f"_set(self, {name!r}, {values.get(name, name)})" for name in names]
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    exec(f"def __init__(self, {', '.join(parameters)}):\n " + "\n ".join(lines), known)
    init: Any = known["__init__"]
    init.__module__, init.__qualname__ = cls.__module__, f"{cls.__qualname__}.__init__"
    return init


class _Original:
    """The class as `dataclasses` would have made it."""

    def __init__(self, cls: Any, names: tuple[str, ...], defaults: dict[str, Any], eq: bool) -> None:
        self._cls, self._names, self._defaults, self._eq = cls, names, defaults, eq
        self._made: Any = None

    def make(self) -> Any:
        if self._made is None:
            import dataclasses

            body: dict[str, Any] = {
                name: dataclasses.field(default_factory=value.default_factory) if type(value) is field else value
                for name, value in self._defaults.items()
            }
            body["__annotations__"] = {name: self._cls.__annotations__[name] for name in self._names}
            body["__module__"] = self._cls.__module__
            twin = type(self._cls.__name__, (), body)
            self._made = dataclasses.dataclass(frozen=True, eq=self._eq)(twin)
        return self._made


class _OfOriginal:
    """An attribute of a record that is taken from the original."""

    def __init__(self, original: _Original, name: str) -> None:
        self._original, self._name = original, name

    def __get__(self, instance: object, owner: object) -> Any:
        return getattr(self._original.make(), self._name)


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, name) for name in self.__match_args__)


@recursive_repr()
def _repr(self: Any) -> str:
    texts = (f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({', '.join(texts)})"


def _equals(self: Any, other: Any) -> Any:
    return _values(self) == _values(other) if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _replace(self: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(self, **changes)


def _get_state(self: Any) -> list[Any]:
    return list(_values(self))


def _set_state(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__match_args__, state, strict=True):
        object.__setattr__(self, name, value)
