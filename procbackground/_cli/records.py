"""A task that ended → the object that a result line shows."""

from __future__ import annotations

import json
import re
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

from procbackground._cli.inputs import Call
from procbackground.errors import MemoryLimitError, ProcbackgroundError, RemoteTraceback, TaskTimeoutError, repr_of
from procbackground.handle import TaskHandle

SUCCEEDED, FAILED, TIMED_OUT = "succeeded", "failed", "timed out"
OVER_MEMORY, DIED, CANCELLED = "over memory", "died", "cancelled"
# Of a task whose output is captured.
_OUR_FRAMES = re.compile(r'  File "[^"]*_cli.child\.py", line .*\n(?:    .*\n)*')
LEFT_OUT = "left out"  # it was not to be run, and is not shown


class Failure(NamedTuple):
    """An error as text."""

    type: str
    message: str
    traceback: str | None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class Ended(NamedTuple):
    """How a call ended. `attempts` is 0 for a result of an earlier run, and for what never began."""

    call: Call
    outcome: str
    value: Any = None
    failure: Failure | None = None
    attempts: int = 0
    seconds: float = 0.0  # of the last attempt
    busy_s: float = 0.0  # of all attempts
    cpu_s: float = 0.0
    peak_bytes: int = 0
    began_s: float | None = None
    exit_code: int | None = None
    is_stored: bool = False

    @property
    def has_failed(self) -> bool:
        return self.outcome not in (SUCCEEDED, CANCELLED, LEFT_OUT)

    @property
    def is_shown(self) -> bool:
        """Whether it has a result line: calls that never began have none."""
        return self.outcome != LEFT_OUT and not (self.outcome == CANCELLED and not self.attempts)


def ended_of(call: Call, handle: TaskHandle[Any]) -> Ended:
    """Return how a handle that is done ended."""
    attempts = handle.attempts
    value, failure, outcome = None, None, SUCCEEDED
    try:
        error = handle.exception(0)
    except CancelledError:
        outcome = CANCELLED
    else:
        if error is None:
            value = handle.result(0)
        else:
            outcome, failure = outcome_of(error), failure_of(error)
    took = [(each.ended or each.started) - each.started for each in attempts]
    return Ended(
        call,
        outcome,
        value,
        failure,
        attempts=len(attempts),
        seconds=max(0.0, took[-1]) if took else 0.0,
        busy_s=sum(took),
        cpu_s=sum(each.cpu_seconds or 0.0 for each in attempts),
        peak_bytes=max((each.peak_memory or 0 for each in attempts), default=0),
        began_s=attempts[-1].started if attempts else None,
        exit_code=attempts[-1].exit_code if attempts else None,
        is_stored=not attempts and outcome == SUCCEEDED,
    )


def outcome_of(error: BaseException) -> str:
    """Return the word for an error."""
    from procbackground import WorkerDiedError

    for kind, word in ((TaskTimeoutError, TIMED_OUT), (MemoryLimitError, OVER_MEMORY), (WorkerDiedError, DIED)):
        if isinstance(error, kind):
            return word
    return FAILED


def failure_of(error: BaseException) -> Failure:
    """Return an error as text; the traceback is that of the child, or where it was when it was stopped."""
    try:
        message = str(error)
    except Exception:  # the user's own
        message = "<its message cannot be shown>"
    cause = error.__cause__
    trace = cause.text if isinstance(cause, RemoteTraceback) else None
    trace = None if trace is None else _OUR_FRAMES.sub("", trace)
    stack = getattr(error, "stack", None)
    if isinstance(error, TaskTimeoutError) and stack:
        from procbackground._supervisor.stack_text import readable

        trace = readable(stack) or None
        # The stack is in the message, too, in the interpreter's words: a place of its own reads better.
        message = message.partition(stack.splitlines()[0])[0].rstrip()
        message = message.removesuffix("; it was here:")
    kind = type(error)
    is_plain = kind.__module__ == "builtins" or isinstance(error, ProcbackgroundError)
    name = kind.__qualname__ if is_plain else f"{kind.__module__}.{kind.__qualname__}"
    return Failure(name, message, trace)


def record_of(ended: Ended, pickled_at: str | None = None) -> dict[str, Any]:
    """Return the object of a result line. `pickled_at`: the file that has a value which is no JSON."""
    call = ended.call
    record: dict[str, Any] = {"index": call.index}
    if call.name is not None:
        record["name"] = call.name
    record |= {"input": call.input, "outcome": ended.outcome}
    if ended.outcome == SUCCEEDED:
        if is_json(ended.value):
            record["value"] = ended.value
        else:
            record["repr"] = repr_of(ended.value)
            if pickled_at is not None:
                record["pickle"] = pickled_at
    if ended.failure is not None:
        record["error"] = ended.failure._asdict()
    return record | {"seconds": round(ended.seconds, 6), "attempts": ended.attempts}


def line_of(record: dict[str, Any]) -> str:
    """Return a record as a line of JSON."""
    try:
        return json.dumps(record, allow_nan=False)
    except (TypeError, ValueError):  # an input with NaN in it
        return json.dumps(record, default=repr_of)


def raw_text(value: Any) -> str:
    """Return a value alone: text as it is, else JSON, else its repr."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if is_json(value) else repr_of(value)


def is_json(value: Any) -> bool:
    """Whether JSON can hold a value."""
    if value is None or type(value) in (str, bool):
        return True
    try:
        json.dumps(value, allow_nan=False)
    except Exception:  # an int may have too many digits, and the user's classes may raise anything
        return False
    return True
