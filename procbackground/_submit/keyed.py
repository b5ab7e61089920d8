"""Gives a job its key, in a manager with a journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from procbackground._journal.keys import call_text, default_key, function_name
from procbackground._journal.records import Facts, text
from procbackground._state.job import Job, KeyedJob
from procbackground.errors import JournalError, ProcbackgroundError

# Job, function, arguments and the key that the user gave → the job with its key, or why it has none.
WithKey: TypeAlias = (
    "Callable[[Job, Callable[..., Any], tuple[Any, ...], Mapping[str, Any], str | None], Job | ProcbackgroundError]"
)


def with_key(
    job: Job, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], key: str | None
) -> KeyedJob | JournalError:
    """Return the job with its key, or why it has none. Runs the user's `__reduce_ex__` and `__repr__`."""
    try:
        if key is None:
            key, command = default_key(fn, args, kwargs)
        else:
            command = call_text(fn, args, kwargs)
    except Exception as error:
        refusal = JournalError(f"no key can be made of the arguments ({error!r}); give the task one: Task(key=...)")
        refusal.__cause__ = error
        return refusal
    facts = Facts(text(key), text(job.recipe.name), text(function_name(fn)), text(command), time.time())
    return KeyedJob(job.handle, job.recipe, job.payload, job.flags, facts)
