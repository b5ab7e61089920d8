"""Reads a journal: for `procbackground journal`, and for programs. A manager may write to the file meanwhile.

Values are pickles, which can run any code when they are loaded: `Journal.value` does that, nothing else here does.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from procbackground._journal import records, schema, values
from procbackground._journal.lock import is_held
from procbackground.errors import JournalError, signal_name


class Entry(NamedTuple):
    """A task in a journal; see `schema` for what each column means. `result_bytes` is the size of its result."""

    key: str
    name: str
    function: str
    command: str
    queued: float
    state: str
    run: int
    attempt: int | None
    pid: int | None
    started: float | None
    ended: float | None
    exit_code: int | None
    cpu_seconds: float | None
    peak_memory: int | None
    outcome: str | None
    error_type: str | None
    error: str | None
    traceback: str | None
    format: str | None
    result_bytes: int

    @property
    def signal(self) -> str | None:
        """Name of the signal that ended the process of the last attempt, or None."""
        return signal_name(self.exit_code)

    @property
    def seconds(self) -> float | None:
        """How long the last attempt took, or None if it has not ended."""
        return None if self.started is None or self.ended is None else self.ended - self.started


class PastAttempt(NamedTuple):
    """An attempt before a task's last one."""

    key: str
    run: int
    attempt: int
    pid: int | None
    started: float
    ended: float | None
    exit_code: int | None
    cpu_seconds: float | None
    peak_memory: int | None
    outcome: str | None
    error_type: str | None
    error: str | None
    traceback: str | None


class Run(NamedTuple):
    """A manager that had the file. `ended` is None for one that has it still, or was killed."""

    id: int
    started: float
    ended: float | None
    pid: int
    host: str
    command: str
    version: str


_COLUMNS = ", ".join(records.TASK_COLUMNS[:-2]) + ", ifnull(length(result), 0)"


class Journal:
    """A journal that is open for reading: a context manager. Raises: `JournalError`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: str = os.path.realpath(path)
        if not os.path.exists(self.path):
            raise JournalError(f"there is no journal {self.path!r}", path=self.path)
        with schema.explained(self.path):
            self._connection = self._open()
        self.is_in_use: bool = is_held(self.path)

    def _open(self) -> sqlite3.Connection:
        address = Path(self.path).as_uri()
        modes = self._modes()
        for mode in modes:
            connection = sqlite3.connect(f"{address}?{mode}", uri=True, timeout=schema.BUSY_S)
            try:
                connection.execute("PRAGMA query_only = 1")
                if mode == "mode=rw" and not os.path.exists(f"{self.path}-shm") and schema.is_full(self.path):
                    # There is no room for the index of the -wal file: it is in memory, and others wait for this reader.
                    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                schema.check_identity(connection, self.path)
            except BaseException as error:
                connection.close()
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if mode == modes[-1] or code not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                    raise
            else:
                return connection
        raise AssertionError

    def _modes(self) -> list[str]:
        """Return how to open the file so that nothing is left beside it, the best way first.

        To read, SQLite makes two files beside a database in WAL mode. The last connection removes them when it is
        closed, but only if it may write; it then also moves to the database what a killed manager has left in them.
        Other connections leave them, so those look at the database alone, unless the files are there already.
        """
        folder = os.path.dirname(self.path)
        if os.access(self.path, os.W_OK) and os.access(folder, os.W_OK):
            return ["mode=rw", "immutable=1"]
        return ["mode=ro", "immutable=1"] if os.path.exists(f"{self.path}-wal") else ["immutable=1"]

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def entries(self, states: Collection[str] = records.STATES) -> Iterator[Entry]:
        """Yield the tasks in one of `states`, in the order in which their keys were first given.

        One that was running when its manager was killed is interrupted, also while the file does not say so yet.
        """
        for row in self._rows(f"SELECT {_COLUMNS} FROM tasks ORDER BY id"):
            entry = Entry(*row)
            if entry.state == records.RUNNING and not self.is_in_use:
                entry = entry._replace(state=records.INTERRUPTED, outcome=records.INTERRUPTED)
            if entry.state in states:
                yield entry

    def counts(self) -> dict[str, int]:
        """Return how many tasks are in each state that occurs."""
        found = dict(self._rows("SELECT state, count(*) FROM tasks GROUP BY state"))
        if not self.is_in_use and records.RUNNING in found:
            found[records.INTERRUPTED] = found.get(records.INTERRUPTED, 0) + found.pop(records.RUNNING)
        return {state: found[state] for state in records.STATES if state in found}

    def past_attempts(self, key: str | None = None) -> Iterator[PastAttempt]:
        """Yield the attempts before the last one, of a task or of all, in order of time for each task."""
        columns = ", ".join(records.ATTEMPT_COLUMNS)
        where, values_ = ("", ()) if key is None else (" WHERE key = ?", (key,))
        for row in self._rows(f"SELECT {columns} FROM attempts{where} ORDER BY key, started", values_):
            yield PastAttempt(*row)

    def runs(self) -> list[Run]:
        """Return the managers that had the file, in order."""
        return [Run(*row) for row in self._rows(f"SELECT {', '.join(Run._fields)} FROM runs ORDER BY id")]

    def host_of_runs(self) -> dict[int, str]:
        """Return the host of each run."""
        return dict(self._rows("SELECT id, host FROM runs"))

    def value(self, key: str) -> Any:
        """Load the result of a task that has succeeded. Runs the code that its pickle names.

        Raises: `KeyError` where there is no result; `JournalError` for one whose bytes are damaged.
        """
        form, data = self.stored(key)
        return values.load(form, data)

    def stored(self, key: str) -> tuple[str, bytes]:
        """Return the format of a result, and its bytes. Raises: as `value`."""
        rows = list(self._rows("SELECT state, format, crc, result FROM tasks WHERE key = ?", (key,)))
        if not rows or rows[0][0] != records.SUCCEEDED or rows[0][1] == values.NOT_KEPT:
            raise KeyError(key)
        _, form, crc, data = rows[0]
        if not values.is_whole(key, form, crc, data):
            raise schema.damaged(self.path, f"the result of {key!r} is not what was written")
        return form, data or b""

    def _rows(self, statement: str, parameters: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        with schema.explained(self.path):
            yield from self._connection.execute(statement, parameters)
