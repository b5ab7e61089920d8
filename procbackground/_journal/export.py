"""A journal as text for other programs: JSON lines, CSV, and the columns of GNU parallel's joblog."""

from __future__ import annotations

import csv
import json
import pickle
import signal
from collections.abc import Collection, Iterator
from typing import Any, TextIO

from procbackground._journal import records, values
from procbackground._journal.reader import Entry, Journal
from procbackground._wire.plain import EXTENSION_CODES, is_plain
from procbackground.report import Outcome

CSV_COLUMNS = (
    "key", "name", "function", "command", "state", "run", "queued", "started", "ended", "seconds", "attempt", "pid",
    "exit_code", "signal", "cpu_seconds", "peak_memory", "outcome", "error_type", "error", "result_bytes",
)  # fmt: skip
JOBLOG_COLUMNS = (
    "Seq", "Host", "Starttime", "JobRuntime", "Send", "Receive", "Exitval", "Signal", "Command",
)  # fmt: skip

_ENDED = (records.SUCCEEDED, records.FAILED, records.INTERRUPTED)


def json_lines(journal: Journal, states: Collection[str] = records.STATES) -> Iterator[str]:
    """Yield a JSON object for each task.

    `value` is there where the task has succeeded and its result is plain data, which can be loaded without running
    anybody's code, and can be written as JSON.
    """
    for entry in journal.entries(states):
        facts: dict[str, Any] = {name: _field(entry, name) for name in (*CSV_COLUMNS, "traceback")}
        try:
            facts["value"] = _plain_value(journal, entry)
            line = json.dumps(facts, allow_nan=False)
        except (LookupError, TypeError, ValueError, RecursionError):
            facts.pop("value", None)
            line = json.dumps(facts)
        yield line


def write_json_lines(journal: Journal, file: TextIO, states: Collection[str] = records.STATES) -> None:
    """Write `json_lines`, a line each."""
    for line in json_lines(journal, states):
        file.write(f"{line}\n")


def write_csv(journal: Journal, file: TextIO, states: Collection[str] = records.STATES) -> None:
    """Write a row for each task, after one with the names of the columns. Open `file` with `newline=""`."""
    writer = csv.writer(file)
    writer.writerow(CSV_COLUMNS)
    for entry in journal.entries(states):
        writer.writerow([_field(entry, name) for name in CSV_COLUMNS])


def write_joblog(journal: Journal, file: TextIO, states: Collection[str] = _ENDED) -> None:
    """Write a line for each task that ended, as `parallel --joblog` does: of its last attempt.

    `Exitval` is 0 for a success or a signal, 1 for an exception, -1 for a timeout, else the exit code of the process.
    `Send` is 0, `Receive` the size of the result.
    """
    file.write("\t".join(JOBLOG_COLUMNS) + "\n")
    hosts = journal.host_of_runs()
    for number, entry in enumerate(journal.entries(states), 1):
        if entry.started is None:
            continue
        exit_value, signal_number = _exit_of(entry)
        fields = (
            number, hosts.get(entry.run) or ":", f"{entry.started:.3f}", f"{entry.seconds or 0:10.3f}", 0,
            entry.result_bytes, exit_value, signal_number, entry.command.translate(_ESCAPES),
        )  # fmt: skip
        file.write("\t".join(map(str, fields)) + "\n")


_ESCAPES = {code: repr(chr(code))[1:-1] for code in range(32)}


def _exit_of(entry: Entry) -> tuple[int, int]:
    """Return exit value and signal of a task, as GNU parallel would."""
    if entry.state == records.SUCCEEDED:
        return 0, 0
    if entry.outcome == Outcome.TIMED_OUT:
        return -1, signal.SIGTERM.value
    if entry.state == records.INTERRUPTED:
        return 0, signal.SIGKILL.value  # its manager ended first, for an unknown reason
    if entry.exit_code is not None and entry.exit_code < 0:
        return 0, -entry.exit_code
    return entry.exit_code or 1, 0


def _field(entry: Entry, name: str) -> Any:
    return getattr(entry, name)


def _plain_value(journal: Journal, entry: Entry) -> Any:
    """Return the value of a task if its pickle names no class or function. Raises: `LookupError`, `ValueError`."""
    form, data = journal.stored(entry.key)
    if form == values.NONE:
        return None
    if form != values.PICKLE or EXTENSION_CODES or not is_plain(data):
        raise ValueError("not plain data")
    return pickle.loads(data)
