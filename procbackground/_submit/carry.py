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
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from procbackground._wire.mainmodule import MAIN_NAMES, main_module
from procbackground._wire.parcel import Parcel
from procbackground._wire.pickling import _explained, dump_arguments, dump_function, dumps, text_of
from procbackground.errors import SerializationError

if TYPE_CHECKING:
    from procbackground.handle import TaskHandle

Home: TypeAlias = tuple[str, str]  # module and name of a variable there

_UNSET = object()


class Passenger(Protocol):
    """Something of an observer's that travels with every task, as a context variable does."""

    @property
    def name(self) -> str:
        """What it is, for errors."""
        ...

    @property
    def home(self) -> Home:
        """Where the child finds an object whose `set` takes what `get_for` returned."""
        ...

    def get_for(self, handle: TaskHandle[Any]) -> Any:
        """Return the value for one task, any number of times. In the thread that gives the task."""
        ...

    def frozen(self) -> Passenger:
        """Return one for tasks that are given later, on behalf of the present caller."""
        ...


def make_carrier(variables: Iterable[ContextVar[Any]], passengers: Iterable[Passenger] = ()) -> Carrier | None:
    """Return a carrier of `variables` and `passengers`, or None if there are none.

    Raises: `TypeError` for anything but a variable, `ValueError` for a variable that a child could not find.
    """
    if isinstance(variables, ContextVar):
        raise TypeError("context takes a list of context variables, not a single one")
    kept, riding = tuple(variables), tuple(passengers)
    return Carrier(kept, riding) if kept or riding else None


class Carrier:
    """Takes the values of some variables, and pickles calls that have them along."""

    def __init__(self, variables: tuple[ContextVar[Any], ...], passengers: tuple[Passenger, ...] = ()) -> None:
        self._variables = variables
        self._passengers = passengers
        self._homes = (*map(_home_of, variables), *(each.home for each in passengers))
        self._values: dict[int, Any] | None = None  # of the variables, once they are frozen
        self._taken: bytes | None = None  # the same, pickled, where nothing is added for each task
        self._refusal: SerializationError | None = None

    def frozen(self) -> Carrier:
        """Return a carrier of the values of now, or of the reason why they cannot be pickled."""
        frozen = object.__new__(Carrier)
        frozen.__dict__.update(self.__dict__)
        frozen._passengers = tuple(each.frozen() for each in self._passengers)
        frozen._values = self._read()
        try:
            taken = self._dump(frozen._values)
            frozen._taken = None if frozen._passengers else taken
        except SerializationError as error:
            frozen._refusal = error
        return frozen

    def board(self, handles: Iterable[TaskHandle[Any]]) -> None:
        """Let passengers know of tasks that are given later, before observers know of them."""
        for passenger in self._passengers:
            for handle in handles:
                passenger.get_for(handle)

    def dump_function(self, fn: Callable[..., Any]) -> bytes | None:
        """Pickle a function that takes the values before its own arguments, as `pickling.dump_function` does."""
        try:
            return dump_function(InContext(self._homes, fn))
        except SerializationError:
            return dump_function(fn)  # raises the error that names the function

    def dump_arguments(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], handle: TaskHandle[Any]
    ) -> bytes | Parcel:
        """Pickle the values and the arguments of a call. Raises: `SerializationError`."""
        values = self._take(handle)
        try:
            return dump_arguments((values, *args), kwargs)
        except SerializationError:
            return dump_arguments(args, kwargs)  # raises, and counts the arguments as the caller does

    def dump_columns(
        self, columns: tuple[Sequence[Any], ...], chunk: TaskHandle[Any], rows: Sequence[TaskHandle[Any]] | None
    ) -> bytes | Parcel:
        """Pickle the rows of a chunk, each with the values; `rows` are their handles if they have any.

        Raises: `SerializationError`.
        """
        if rows is None or not self._passengers:
            values = [self._take(chunk)] * len(columns[0])
        else:
            values = list(map(self._take, rows))
        return dump_arguments((values, *columns), {})

    def _take(self, handle: TaskHandle[Any]) -> bytes:
        if self._taken is not None:
            return self._taken
        if self._refusal is not None:
            raise SerializationError(str(self._refusal)) from self._refusal.__cause__
        values = self._read() if self._values is None else dict(self._values)
        for index, passenger in enumerate(self._passengers, len(self._variables)):
            values[index] = passenger.get_for(handle)
        return self._dump(values)

    def _read(self) -> dict[int, Any]:
        values: dict[int, Any] = {}
        for index, variable in enumerate(self._variables):
            value = variable.get(_UNSET)
            if value is not _UNSET:
                values[index] = value
        return values

    def _dump(self, values: dict[int, Any]) -> bytes:
        try:
            return dumps(values)
        except Exception as error:
            for index, value in values.items():
                try:
                    dumps(value)
                except Exception as own_error:
                    names = [*(each.name for each in self._variables), *(each.name for each in self._passengers)]
                    what = f"value of the context variable {names[index]!r}"
                    raise _explained(what, value, own_error) from own_error
            reason = text_of(error)
            raise SerializationError(f"the values of the context variables cannot be pickled: {reason}") from error


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
                f"the values of the context variables could not be loaded in the child ({kind}: {text_of(error)})"
            ) from error
        for index, value in loaded.items():
            self._variables[index].set(value)
        return self._fn(*args, **kwargs)


def _home_of(variable: Any) -> Home:
    """Return where a child finds `variable`, which cannot be pickled and does not know its module."""
    if not isinstance(variable, ContextVar):
        raise TypeError(f"context takes context variables, not {variable!r}")
    modules = [(name, getattr(module, "__dict__", {})) for name, module in list(sys.modules.items())]
    modules.sort(key=lambda module: module[0] in MAIN_NAMES)  # those that every child can import first
    for module, names in modules:
        if names.get(name := variable.name) is variable:
            return _checked(module, name)
    for module, names in modules:
        for name in [name for name, value in list(names.items()) if value is variable]:
            return _checked(module, name)
    raise ValueError(f"context: {variable.name!r} is no variable of a module, so a child could not find it")


def _checked(module: str, name: str) -> Home:
    if module in MAIN_NAMES and not main_module().has(name):
        raise ValueError(
            f"context: {name!r} is a variable of `__main__`, which a child cannot import here; define it in a module"
        )
    return "__main__" if module in MAIN_NAMES else module, name
