"""Context variables that travel with a task: taken where it is given, set in the child while it runs.

In a manager with such variables, the function of every request is an `InContext`, and its first argument is the
pickled values. So nothing else on a task's way knows of them, and other managers pay nothing for them.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar, copy_context
from importlib import import_module
from typing import Any, TypeAlias

from procbackground._wire.parcel import Parcel
from procbackground._wire.pickling import _explained, dump_arguments, dump_function, dumps, main_is_importable
from procbackground.errors import SerializationError

Home: TypeAlias = tuple[str, str]  # module and name of a variable there

_UNSET = object()
_MAIN = ("__main__", "__mp_main__")


def make_carrier(variables: Iterable[ContextVar[Any]]) -> Carrier | None:
    """Return a carrier of `variables`, or None if there are none.

    Raises: `TypeError` for anything but a variable, `ValueError` for a variable that a child could not find.
    """
    if isinstance(variables, ContextVar):
        raise TypeError("context takes a list of context variables, not a single one")
    kept = tuple(variables)
    return Carrier(kept) if kept else None


class Carrier:
    """Takes the values of some variables, and pickles calls that have them along."""

    def __init__(self, variables: tuple[ContextVar[Any], ...]) -> None:
        self._variables = variables
        self._homes = tuple(map(_home_of, self._variables))
        self._taken: bytes | None = None
        self._refusal: SerializationError | None = None

    def frozen(self) -> Carrier:
        """Return a carrier of the values of now, or of the reason why they cannot be pickled."""
        frozen = object.__new__(Carrier)
        frozen.__dict__.update(self.__dict__)
        try:
            frozen._taken = self._take()
        except SerializationError as error:
            frozen._refusal = error
        return frozen

    def dump_function(self, fn: Callable[..., Any]) -> bytes:
        """Pickle a function that takes the values before its own arguments. Raises: `SerializationError`."""
        try:
            return dumps(InContext(self._homes, fn))
        except Exception:
            return dump_function(fn)  # raises the error that names the function

    def dump_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes | Parcel:
        """Pickle the values and the arguments of a call. Raises: `SerializationError`."""
        values = self._take()
        try:
            return dump_arguments((values, *args), kwargs)
        except SerializationError:
            return dump_arguments(args, kwargs)  # raises, and counts the arguments as the caller does

    def dump_columns(self, columns: tuple[Sequence[Any], ...]) -> bytes | Parcel:
        """Pickle the rows of a chunk, each with the values. Raises: `SerializationError`."""
        return dump_arguments(([self._take()] * len(columns[0]), *columns), {})

    def _take(self) -> bytes:
        if self._taken is not None:
            return self._taken
        if self._refusal is not None:
            raise SerializationError(str(self._refusal)) from self._refusal.__cause__
        values: dict[int, Any] = {}
        for index, variable in enumerate(self._variables):
            value = variable.get(_UNSET)
            if value is not _UNSET:
                values[index] = value
        try:
            return dumps(values)
        except Exception as error:
            for index, value in values.items():
                try:
                    dumps(value)
                except Exception as own_error:
                    what = f"value of the context variable {self._variables[index].name!r}"
                    raise _explained(what, value, own_error) from own_error
            raise SerializationError(f"the values of the context variables cannot be pickled: {error}") from error


class InContext:
    """A function as the child has it: called with the pickled values, then with its own arguments.

    It runs in a copy of the child's context, so that afterwards the variables are what they were, and so is every
    other that it has set.
    """

    def __init__(self, homes: tuple[Home, ...], fn: Callable[..., Any]) -> None:
        self._homes = homes
        self._fn = fn
        self._variables = [getattr(import_module(module), name) for module, name in homes]

    def __reduce__(self) -> tuple[Any, ...]:
        return InContext, (self._homes, self._fn)

    def __call__(self, values: bytes, /, *args: Any, **kwargs: Any) -> Any:
        return copy_context().run(self._run, values, args, kwargs)

    def _run(self, values: bytes, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            loaded: dict[int, Any] = pickle.loads(values)
        except Exception as error:
            kind = type(error).__name__
            raise SerializationError(
                f"the values of the context variables could not be loaded in the child ({kind}: {error})"
            ) from error
        for index, value in loaded.items():
            self._variables[index].set(value)
        return self._fn(*args, **kwargs)


def _home_of(variable: Any) -> Home:
    """Return where a child finds `variable`, which cannot be pickled and does not know its module."""
    if not isinstance(variable, ContextVar):
        raise TypeError(f"context takes context variables, not {variable!r}")
    modules = [(name, getattr(module, "__dict__", {})) for name, module in list(sys.modules.items())]
    modules.sort(key=lambda module: module[0] in _MAIN)  # those that every child can import first
    for module, names in modules:
        if names.get(name := variable.name) is variable:
            return _checked(module, name)
    for module, names in modules:
        for name in [name for name, value in list(names.items()) if value is variable]:
            return _checked(module, name)
    raise ValueError(f"context: {variable.name!r} is no variable of a module, so a child could not find it")


def _checked(module: str, name: str) -> Home:
    if module in _MAIN and not main_is_importable():
        raise ValueError(
            f"context: {name!r} is a variable of `__main__`, which a child cannot import here; define it in "
            "a module"
        )
    return "__main__" if module in _MAIN else module, name
