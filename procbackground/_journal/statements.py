"""A batch of entries → few statements, each for many rows.

SQLite's module gives the interpreter's lock away in each step of a statement, and gets it back only when another thread
lets go of it: up to 5 ms later, while one computes. So there is one step for all rows of a kind. Statements have one of
a few lengths, and those that are longer than needed are filled up with NULL: to compile one takes as long as to run it.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from procbackground._journal import records as r
from procbackground._journal.values import PICKLE, is_whole

MAX_ROWS = 1024  # of one statement; their parameters are below SQLite's limit of 32766
_SIZES = sorted({1, MAX_ROWS, *(step << shift for step in (2, 3) for shift in range(9))})
_NULL = [None]


class Found(NamedTuple):
    """The answer to `Asked`: a stored result, or the state that the task saved in an earlier run, or None."""

    form: str | None  # of a result, as in `values`
    data: bytes
    function: str  # of the task that has the key in the file
    checkpoint: bytes | None


NOTHING = Found(None, b"", "", None)


def begin_run(connection: sqlite3.Connection, facts: tuple[Any, ...]) -> int:
    """Enter a new manager; what an earlier one was running when it was killed counts as interrupted. Returns its id."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE tasks SET state = 'interrupted', outcome = 'interrupted' WHERE state = 'running'")
    columns = "started, pid, host, command, version"
    run = connection.execute(f"INSERT INTO runs ({columns}) VALUES ({_marks(5)})", facts).lastrowid
    connection.execute("COMMIT")
    assert run is not None
    return run


def enter(connection: sqlite3.Connection, asked: Sequence[r.Facts], run: int) -> dict[str, Found]:
    """Enter tasks as queued, but for those that have a result. Return by key what an earlier run has left.

    Tasks are entered before they are looked for: in a new file, there is nothing to look for.
    """
    if _insert_queued(connection, asked, run, " ON CONFLICT DO NOTHING") == len(asked):
        return {}
    found: dict[str, Found] = {}
    again: set[str] = set()
    tried: list[str] = []
    for piece in _pieces([facts.key for facts in asked]):
        marks, keys = _keys_of(piece)
        rows = connection.execute(
            "SELECT tasks.key, tasks.state, function, format, tasks.crc, result, started, tasks.run, checkpoints.crc, "
            f"checkpoints.state FROM tasks LEFT JOIN checkpoints USING (key) WHERE tasks.key IN ({marks})",
            keys,
        )
        for key, state, function, form, crc, data, started, of_run, saved_crc, saved in rows:
            if state == r.SUCCEEDED and is_whole(key, form, crc, data):
                found[key] = Found(form, data or b"", function, None)
                continue
            if is_whole(key, PICKLE, saved_crc, saved):
                found[key] = Found(None, b"", function, saved)
            if state != r.QUEUED or of_run != run:
                again.add(key)
            if started is not None:
                tried.append(key)
    keep_last_attempts(connection, tried)
    _insert_queued(connection, [facts for facts in asked if facts.key in again], run, _REPLACED_BY_QUEUED)
    return found


def keep_last_attempts(connection: sqlite3.Connection, keys: Sequence[str]) -> None:
    """Copy the last attempt of tasks that will run again."""
    columns = ", ".join(r.ATTEMPT_COLUMNS)
    for piece in _pieces(keys):
        marks, values = _keys_of(piece)
        chosen = f"SELECT {columns} FROM tasks WHERE key IN ({marks})"
        connection.execute(f"INSERT OR IGNORE INTO attempts ({columns}) {chosen}", values)


def withdraw(connection: sqlite3.Connection, entries: Iterable[r.Withdrawn], run: int) -> None:
    """Enter how tasks have ended that did not come to run. Where the file has a result, or other news, that stays."""
    for entry in entries:
        connection.execute(
            "UPDATE tasks SET state = ?, error_type = ?, error = ?, traceback = ? "
            "WHERE key = ? AND state = 'queued' AND run = ?",
            (entry.state, *r.error_values(entry.error), entry.facts.key, run),
        )


def write(connection: sqlite3.Connection, entries: Iterable[r.Entry], run: int) -> None:
    """Write entries of tasks that came to run, in their order; of one task only the last state."""
    tasks: dict[str, r.Started | r.Retrying | r.Success | r.Ended] = {}
    attempts: list[tuple[Any, ...]] = []
    checkpoints: dict[str, r.Saved] = {}
    done: list[str] = []
    for entry in entries:
        if isinstance(entry, r.Succeeded):
            for success in entry.tasks:
                tasks[success[0][0]] = success
        elif isinstance(entry, r.Started):
            tasks[entry.facts.key] = entry
        elif isinstance(entry, r.Saved):
            checkpoints[entry.facts.key] = entry
        elif isinstance(entry, r.Retrying):
            tasks[entry.facts.key] = entry
            attempts.append(r.attempt_row(entry, run))
        elif isinstance(entry, r.Ended):
            key = entry.facts.key
            tasks[key] = entry
            if entry.state == r.SUCCEEDED and entry.has_checkpoint:
                checkpoints.pop(key, None)
                done.append(key)
    queued, running, succeeded, ended = [], [], [], []
    for last in tasks.values():
        if type(last) is tuple:
            succeeded.append(last)
        elif isinstance(last, r.Started):
            running.append(r.running_row(last, run))
        elif isinstance(last, r.Retrying):
            queued.append(last.facts)
        elif isinstance(last, r.Ended):
            ended.append(r.ended_row(last, run))
    _insert_queued(connection, queued, run, _REPLACED_BY_QUEUED)
    _insert(connection, "tasks", r.RUNNING_COLUMNS, running, _REPLACED_BY_RUNNING)
    row = r.SUCCEEDED_ROW.format(run=run)
    _insert(connection, "tasks", r.SUCCEEDED_COLUMNS, succeeded, _REPLACED_BY_SUCCEEDED, row, r.succeeded_values)
    _insert(connection, "tasks", r.TASK_COLUMNS, ended, _REPLACED_BY_ENDED)
    _insert(connection, "attempts", r.ATTEMPT_COLUMNS, attempts, " ON CONFLICT DO NOTHING")
    saved = [r.checkpoint_row(entry, run) for entry in checkpoints.values()]
    _insert(connection, "checkpoints", r.CHECKPOINT_COLUMNS, saved, _REPLACED_BY_CHECKPOINT)
    for piece in _pieces(done):
        marks, keys = _keys_of(piece)
        connection.execute(f"DELETE FROM checkpoints WHERE key IN ({marks})", keys)


def _replacing(columns: tuple[str, ...], given: tuple[str, ...], condition: str = "") -> str:
    """Return the end of a statement that puts the columns `given` in place of a row with the same key."""
    changes = ", ".join(f"{name} = {f'excluded.{name}' if name in given else 'NULL'}" for name in columns[1:])
    return f" ON CONFLICT (key) DO UPDATE SET {changes}{condition}"


# Nothing takes the place of a result but another result.
_UNLESS_FINISHED = " WHERE tasks.state <> 'succeeded' OR excluded.state = 'succeeded' OR tasks.format = 'not kept'"
_REPLACED_BY_QUEUED = _replacing(r.TASK_COLUMNS, r.QUEUED_COLUMNS, _UNLESS_FINISHED)
_REPLACED_BY_RUNNING = _replacing(r.TASK_COLUMNS, r.RUNNING_COLUMNS, _UNLESS_FINISHED)
_REPLACED_BY_SUCCEEDED = _replacing(r.TASK_COLUMNS, r.SUCCEEDED_COLUMNS, _UNLESS_FINISHED)
_REPLACED_BY_ENDED = _replacing(r.TASK_COLUMNS, r.TASK_COLUMNS, _UNLESS_FINISHED)
_REPLACED_BY_CHECKPOINT = _replacing(r.CHECKPOINT_COLUMNS, r.CHECKPOINT_COLUMNS)


def _insert_queued(connection: sqlite3.Connection, tasks: Sequence[r.Facts], run: int, tail: str) -> int:
    return _insert(connection, "tasks", r.QUEUED_COLUMNS, tasks, tail, r.QUEUED_ROW.format(run=run))


def _insert(
    connection: sqlite3.Connection,
    table: str,
    columns: tuple[str, ...],
    rows: Sequence[Any],
    tail: str,
    row: str = "",
    flatten: Callable[[Any], Iterable[Any]] = chain.from_iterable,
) -> int:
    """Insert rows; return how many that has made or changed.

    Args:
        row: of the text of the statement; without it, each value of a row is passed.
        flatten: returns the values that are passed for some of `rows`, in order.
    """
    count = 0
    row = row or f"({_marks(len(columns))})"
    for piece in _pieces(rows):
        size = _padded(len(piece))
        values = list(flatten(piece))
        values += _NULL * (len(values) // len(piece) * (size - len(piece)))
        count += connection.execute(_insertion(table, columns, row, size, tail), values).rowcount
    return count


# A row that fills up a statement is ignored, as it has no key.
@lru_cache(256)  # a text that is the same object also has its statement found sooner
def _insertion(table: str, columns: tuple[str, ...], row: str, count: int, tail: str) -> str:
    return f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * count)}{tail}"


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _keys_of(keys: Sequence[str]) -> tuple[str, list[str | None]]:
    """Return the marks and the values of a list of keys in a statement."""
    size = _padded(len(keys))
    return _marks(size), [*keys, *_NULL * (size - len(keys))]


def _pieces(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut into as few pieces as can be; each is for one statement."""
    for position in range(0, len(items), MAX_ROWS):
        yield items[position : position + MAX_ROWS]


def _padded(count: int) -> int:
    """Return the number of rows in the statement for so many: there are few different ones to compile, and to keep."""
    return _SIZES[bisect_left(_SIZES, count)]
