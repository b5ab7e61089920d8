"""Pickles how a call failed, and loads that again: in the worker, and in the parent."""

from __future__ import annotations

import pickle

from procbackground._wire.pickling import PROTOCOL, dumps, text_of
from procbackground.errors import RemoteTraceback, SerializationError, _rebuild, repr_of, set_cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Failure:
    """How a call failed, as the child reports it: plain strings and bytes, which can always be pickled.

    `kind` is "raised", with the pickled exception; or "function", "arguments", "result" or "exception": the part that
    could not be pickled or loaded.
    """

    def __init__(self, kind: str, type_name: str, text: str, traceback: str, pickled: bytes | None) -> None:
        self.kind = kind
        self.type_name = type_name
        self.text = text
        self.traceback = traceback
        self.pickled = pickled


def dump_failure(error: BaseException, kind: str = "raised", frames_to_skip: int = 1) -> bytes:
    """Pickle the failure of a call that raised `error`, without the first `frames_to_skip` frames of its traceback."""
    import traceback  # here: it would add 2 ms to a worker's start

    trace = error.__traceback__
    for _ in range(frames_to_skip):
        trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    type_name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    try:
        shown = "".join(traceback.format_exception(type(error), error, trace))
    except BaseException as broken:  # the user's __str__ may raise too
        shown = f"{type_name}: (no traceback: {repr_of(broken)})\n"
    pickled = _dump_exception(error) if kind == "raised" else None
    if kind == "raised" and pickled is None:
        kind = "exception"
    return pickle.dumps((kind, type_name, text_of(error), shown, pickled), PROTOCOL)


class _ByParts:
    """Pickles an exception without its `__init__`, which may take other arguments than `args`."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self.error), self.error.args, dict(self.error.__dict__))


def _dump_exception(error: BaseException) -> bytes | None:
    """Pickle `error`, or return None unless the pickle can be loaded. Tried here: in the parent it is too late."""
    for form in (error, _ByParts(error)):
        try:
            data = dumps(form)
            loaded = pickle.loads(data)
        except BaseException:  # also an exit: it is not the worker's
            continue
        if type(loaded).__qualname__ == type(error).__qualname__:
            return data
    return None


def load_failure(body: bytes) -> tuple[BaseException, str]:
    """Return the exception that a call failed with, and the kind of the failure.

    The child's traceback is its `__cause__`. Runs the user's code (`__setstate__` and the like); its errors are caught.
    """
    failure = Failure(*pickle.loads(body))
    error: BaseException | None = None
    if failure.pickled is not None:
        try:
            error = pickle.loads(failure.pickled)
        except BaseException:
            failure.kind = "exception"
    if not isinstance(error, BaseException):
        error = SerializationError(_crossing_message(failure))
    set_cause(error, RemoteTraceback(failure.traceback))
    return error, failure.kind


def _crossing_message(failure: Failure) -> str:
    if failure.kind == "exception":
        return (
            f"the task raised {failure.type_name}: {failure.text}\nbut that exception cannot be pickled and "
            f"loaded again; the traceback below is the child's"
        )
    if failure.kind == "function":
        return (
            f"the function could not be loaded in the child ({failure.type_name}: {failure.text}); it must be "
            f"importable there: define it in a module, or above the `if __name__ == '__main__':` of the script"
        )
    if failure.kind == "arguments":
        return f"the arguments could not be loaded in the child ({failure.type_name}: {failure.text})"
    if failure.type_name.endswith(SerializationError.__qualname__):
        return failure.text  # from `explain_result`, which is complete
    return f"the {failure.kind} could not be pickled: {failure.text}"
