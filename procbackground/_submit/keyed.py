"""Makes jobs that have keys, in a manager with a journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from procbackground._journal.keys import default_key, describe
from procbackground._journal.records import Facts, text
from procbackground._state.job import KeyedJob, Recipe
from procbackground.errors import JournalError, repr_of
from procbackground.handle import TaskHandle

# `make_keyed_job`, whose last four arguments are those of `Job`.
MakeKeyedJob: TypeAlias = "Callable[..., KeyedJob | JournalError]"

_make_tuple = tuple.__new__  # the class itself, which is Python code, takes three times as long


def make_keyed_job(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    key: str | None,
    handle: TaskHandle[Any],
    recipe: Recipe,
    payload: Any,
    flags: int,
) -> KeyedJob | JournalError:
    """Return the job of a call, or why it has no key. Runs the user's `__reduce_ex__` and `__repr__`."""
    try:
        if key is None:
            key, command, function = default_key(fn, args, kwargs)
        else:
            key = text(key)
            command, function = describe(fn, args, kwargs)
    except Exception as error:
        refusal = JournalError(
            f"no key can be made of the arguments ({repr_of(error)}); give the task one: Task(key=...)"
        )
        refusal.__cause__ = error
        return refusal
    name = recipe.name
    if not (name.isascii() and function.isascii() and command.isascii()):
        name, function, command = text(name), text(function), text(command)
    facts = _make_tuple(Facts, (key, name, function, command, time.time()))
    return KeyedJob(handle, recipe, payload, flags, facts)
