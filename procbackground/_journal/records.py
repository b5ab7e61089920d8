"""What is written: entries, each complete in itself, so that one that was lost spoils no later one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from zlib import crc32

from procbackground import errors
from procbackground._journal.values import NONE, PICKLE, checksum, stored_form
from procbackground.errors import ProcbackgroundError, RemoteTraceback

if TYPE_CHECKING:
    from procbackground._wire.parcel import ReceivedParcel
    from procbackground.report import Attempt

QUEUED = "queued"
RUNNING = "running"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"
INTERRUPTED = "interrupted"
STATES = (QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED, INTERRUPTED)


class Facts(NamedTuple):
    """What is known of a task before it runs."""

    key: str
    name: str
    function: str
    command: str
    queued: float


class Asked(NamedTuple):
    """Tasks were given: are there results? Those without one are entered as queued."""

    facts: list[Facts]
    subjects: list[Any]  # come back with the answers


class Started(NamedTuple):
    """An attempt has begun."""

    facts: Facts
    number: int
    pid: int | None
    started: float


class Retrying(NamedTuple):
    """An attempt has ended, and another one will follow."""

    facts: Facts
    attempt: Attempt


class Saved(NamedTuple):
    """The task saved its state."""

    facts: Facts
    number: int
    saved: float
    state: bytes


# A task that has succeeded at once: its facts, pid, started, ended, cpu_seconds, peak_memory, the value as it came from
# the child, and what is passed back. A plain tuple takes a tenth of the time of one whose fields have names.
Success: TypeAlias = "tuple[Facts, int, float, float, float | None, int | None, bytes, Any]"


class Succeeded(NamedTuple):
    """Tasks have succeeded at once: in their first attempt, without a saved state, with a plain value.

    Most end so, and their entries are quicker to make and to write than those of `Ended`.
    """

    tasks: list[Success]


class Ended(NamedTuple):
    """The task has ended in any way. `body` is the value of one that has succeeded, as it came from the child."""

    facts: Facts
    state: str
    attempt: Attempt | None  # its last
    body: bytes | ReceivedParcel | None
    error: BaseException | None
    subject: Any  # passed back once this is committed; None if no job waits
    has_checkpoint: bool


class Withdrawn(NamedTuple):
    """The task has failed, or was cancelled, before its `Asked` was answered: its handle is done already."""

    facts: Facts
    state: str
    error: BaseException | None


class Gone(NamedTuple):
    """A worker has ended, and all that came from it precedes this."""

    pid: int


Entry: TypeAlias = Asked | Started | Retrying | Saved | Succeeded | Ended | Withdrawn | Gone

TASK_COLUMNS = (
    "key", "name", "function", "command", "queued", "state", "run", "attempt", "pid", "started", "ended", "exit_code",
    "cpu_seconds", "peak_memory", "outcome", "error_type", "error", "traceback", "format", "crc", "result",
)  # fmt: skip
ATTEMPT_COLUMNS = (
    "key", "run", "attempt", "pid", "started", "ended", "exit_code", "cpu_seconds", "peak_memory", "outcome",
    "error_type", "error", "traceback",
)  # fmt: skip
CHECKPOINT_COLUMNS = ("key", "saved", "run", "attempt", "crc", "state")

# A row takes longer the more columns are given for it, so that what has no value yet is left out.
QUEUED_COLUMNS = TASK_COLUMNS[:7]
RUNNING_COLUMNS = TASK_COLUMNS[:10]
_NOT_OF_SUCCESS = ("exit_code", "error_type", "error", "traceback")
SUCCEEDED_COLUMNS = tuple(name for name in TASK_COLUMNS if name not in _NOT_OF_SUCCESS)
# What is the same in all rows of a kind is in the text of the statement: each value that is passed takes a while.
QUEUED_ROW = "(?, ?, ?, ?, ?, 'queued', {run})"
SUCCEEDED_ROW = "(?, ?, ?, ?, ?, 'succeeded', {run}, 1, ?, ?, ?, ?, ?, 'succeeded', ?, ?, ?)"

_NO_ATTEMPT = (None,) * 8
_NO_ERROR = (None, None, None)
_NO_RESULT = (None,) * 3


def running_row(entry: Started, run: int) -> tuple[Any, ...]:
    """Return the row of `tasks` for one that runs, in `RUNNING_COLUMNS`."""
    return (*entry.facts, RUNNING, run, entry.number, entry.pid, entry.started)


def succeeded_values(tasks: Iterable[Success]) -> list[Any]:
    """Return what is passed for the rows of tasks that have succeeded at once: a `SUCCEEDED_ROW` each."""
    values: list[Any] = []
    for facts, pid, started, ended, cpu_seconds, peak_memory, body, _ in tasks:
        form, data = (PICKLE, body) if body else (NONE, None)  # as `stored_form`, whose call takes longer than the rest
        values += facts
        values += (pid, started, ended, cpu_seconds, peak_memory, form, crc32(body, crc32(facts[0].encode())), data)
    return values


def ended_row(entry: Ended, run: int) -> tuple[Any, ...]:
    """Return the row of `tasks` for one that has ended, in `TASK_COLUMNS`."""
    last = _NO_ATTEMPT if entry.attempt is None else _attempt_values(entry.attempt)
    result: tuple[Any, ...] = _NO_RESULT
    if entry.state == SUCCEEDED:
        form, data = stored_form(b"" if entry.body is None else entry.body)
        result = form, checksum(entry.facts.key, data), data
    return (*entry.facts, entry.state, run, *last, *error_values(entry.error), *result)


def attempt_row(entry: Retrying, run: int) -> tuple[Any, ...]:
    """Return the row of `attempts` for an attempt that another one follows."""
    return (entry.facts.key, run, *_attempt_values(entry.attempt), *error_values(entry.attempt.error))


def checkpoint_row(entry: Saved, run: int) -> tuple[Any, ...]:
    key = entry.facts.key
    return (key, entry.saved, run, entry.number, checksum(key, entry.state), entry.state)


def _attempt_values(attempt: Attempt) -> tuple[Any, ...]:
    return (
        attempt.number, attempt.pid, attempt.started, attempt.ended, attempt.exit_code, attempt.cpu_seconds,
        attempt.peak_memory, None if attempt.outcome is None else attempt.outcome.value,
    )  # fmt: skip


def error_values(error: BaseException | None) -> tuple[str | None, str | None, str | None]:
    """Return type, message and traceback of an error; runs none of the user's code, as its `__str__`."""
    if error is None:
        return _NO_ERROR
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    cause = error.__cause__
    traceback = cause.text if isinstance(cause, RemoteTraceback) else None
    if isinstance(error, ProcbackgroundError) and kind.__module__ == errors.__name__:
        message: str | None = str(error)
    else:
        message = None if traceback is None else _message_in(traceback)
    return text(name), None if message is None else text(message), None if traceback is None else text(traceback)


def _message_in(traceback: str) -> str:
    """Return the message of the error that a traceback ends with."""
    lines = traceback.rstrip("\n").split("\n")
    # What is not indented, and follows the last line that is, is "Type: message", whose message may have lines.
    first = len(lines) - 1
    while first > 0 and not lines[first - 1].startswith(" "):
        first -= 1
    return "\n".join(lines[first:]).partition(": ")[2]


def text(value: str) -> str:
    """Return text that SQLite can store: lone surrogates, as in names of files, are written as escapes."""
    if value.isascii():
        return value
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
