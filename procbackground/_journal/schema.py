"""The tables of a journal, and the checks of a file before it is used.

`tasks` has one row for each key:

    key           as given by `Task(key=...)`, or the default: 32 hexadecimal digits
    name          of the task
    function      module and qualified name
    command       the call as text, shortened
    state         queued, running, succeeded, failed, cancelled; or interrupted: it ran when its manager was killed
    run           `runs.id` of the manager that wrote this last
    queued        time at which it was given, in seconds since 1970, as all times here
    started, ended, attempt, pid, exit_code, cpu_seconds, peak_memory, outcome
                  of its last attempt, as in `procbackground.Attempt`; an exit code below 0 is a signal's number
    error_type, error, traceback
                  what it failed with
    format        of `result`: none (it is None), pickle, buffers (see `values`), or not kept (too large, say)
    crc           `zlib.crc32(result, zlib.crc32(key))`, the key as UTF-8, no result as no bytes
    result        the value of a task that has succeeded

`attempts` has the attempts of a task before its last one, also those of earlier runs. `checkpoints` has the state that
a task saved last, until the task has succeeded. `runs` has one row for each manager that had the file; `ended` is
empty for one that still has it, or was killed.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from procbackground.errors import JournalError

APPLICATION_ID = 0x70726F63  # "proc", in the header of the file
VERSION = 2  # of the first one, the checksums did not cover the key
# Smaller files are looked through when they are opened: up to a fifth of a second. Damage to a larger one is found when
# its place is read.
CHECKED_BYTES = 64 << 20
FULL_BYTES = 1 << 18
BUSY_S = 10.0  # that another program may hold the file for itself

_TABLES = (
    """CREATE TABLE runs (
        id INTEGER PRIMARY KEY, started REAL NOT NULL, ended REAL, pid INTEGER NOT NULL, host TEXT NOT NULL,
        command TEXT NOT NULL, version TEXT NOT NULL)""",
    """CREATE TABLE tasks (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, function TEXT NOT NULL,
        command TEXT NOT NULL, state TEXT NOT NULL, run INTEGER NOT NULL REFERENCES runs, queued REAL NOT NULL,
        started REAL, ended REAL, attempt INTEGER, pid INTEGER, exit_code INTEGER, cpu_seconds REAL,
        peak_memory INTEGER, outcome TEXT, error_type TEXT, error TEXT, traceback TEXT, format TEXT, crc INTEGER,
        result BLOB)""",
    "CREATE INDEX running ON tasks (key) WHERE state = 'running'",
    """CREATE TABLE attempts (
        key TEXT NOT NULL, run INTEGER NOT NULL REFERENCES runs, attempt INTEGER NOT NULL, pid INTEGER,
        started REAL NOT NULL, ended REAL, exit_code INTEGER, cpu_seconds REAL, peak_memory INTEGER, outcome TEXT,
        error_type TEXT, error TEXT, traceback TEXT, PRIMARY KEY (key, run, attempt, started)) WITHOUT ROWID""",
    """CREATE TABLE checkpoints (
        key TEXT PRIMARY KEY, saved REAL NOT NULL, run INTEGER NOT NULL REFERENCES runs, attempt INTEGER NOT NULL,
        crc INTEGER NOT NULL, state BLOB NOT NULL)""",
)


def check_and_prepare(path: str) -> None:
    """Make the file if it is not there; check that it is a journal that can be written. Raises: `JournalError`.

    A file that could be made only in part is removed.
    """
    is_new = not os.path.exists(path)
    try:
        _check_and_prepare(path)
    except BaseException:
        if is_new:
            for name in (path, f"{path}-wal", f"{path}-shm"):
                with suppress(OSError):
                    os.unlink(name)
        raise


def _check_and_prepare(path: str) -> None:
    with explained(path):
        connection = connect(path)
        try:
            _check_identity(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            if not _version(connection):
                for statement in _TABLES:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            if _version(connection) != VERSION:  # an earlier one has the same tables
                connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
            if os.path.getsize(path) <= CHECKED_BYTES:
                found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if found != "ok":
                    raise damaged(path, found)
        finally:
            connection.close()


def connect(path: str) -> sqlite3.Connection:
    """Return a connection that writes; transactions are begun and ended by statements."""
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA cache_size = -32768")  # KiB: keys are scattered over the index
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
    except BaseException:
        connection.close()
        raise
    return connection


def identity_of(path: str) -> tuple[int, int] | None:
    """Return what the file at `path` is known by to the system, or None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def check_identity(connection: sqlite3.Connection, path: str) -> None:
    """Raise `JournalError` unless the file is a journal of this version or an earlier one."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        raise JournalError(f"{path!r} is no journal: it is a database of another program", path=path)
    if _version(connection) > VERSION:
        raise JournalError(
            f"the journal {path!r} was written by a newer version of procbackground (format {_version(connection)}, "
            f"known is {VERSION}): update this one, or use another file",
            path=path,
        )


def _check_identity(connection: sqlite3.Connection, path: str) -> None:
    is_new = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if is_new and not _version(connection) and not connection.execute("PRAGMA application_id").fetchone()[0]:
        return
    check_identity(connection, path)


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def damaged(path: str, what: object) -> JournalError:
    """Return the error for a file that is damaged."""
    return JournalError(
        f"the journal {path!r} is damaged ({what}): move it away, or restore a copy; `sqlite3 FILE .recover` may "
        "still read what is left of it",
        path=path,
    )


# Text that is damaged, also in a message of SQLite's, cannot be decoded.
ERRORS = (sqlite3.Error, OSError, UnicodeDecodeError)


class explained:  # noqa: N801  # as contextlib's
    """A context in which SQLite's errors, and the system's, become a `JournalError` that says what to do."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ERRORS) and not isinstance(error, JournalError):
            raise explain(error, self._path) from error


def explain(error: Exception, path: str) -> JournalError:
    """Return the `JournalError` for an error of SQLite or of the system."""
    if isinstance(error, OSError):
        text = f"the journal {path!r} cannot be used: {error.strerror or error}"
        return JournalError(text, path=path, number=error.errno)
    if isinstance(error, UnicodeDecodeError):
        return damaged(path, "some text in it is none")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    make = _BY_CODE.get(code)
    if make is None:
        return JournalError(f"the journal {path!r} cannot be used: {error}", path=path)
    return make(path, error)


def _full(path: str, error: Exception) -> JournalError:
    text = f"the journal {path!r} cannot be written: its disk is full"
    return JournalError(text, path=path, number=errno.ENOSPC)


def _failing(path: str, error: Exception) -> JournalError:
    if is_full(path):  # SQLite says so only where it writes to the database itself
        return _full(path, error)
    text = f"the journal {path!r} cannot be read or written: its disk fails, or is out of reach ({error})"
    return JournalError(text, path=path, number=errno.EIO)


def is_full(path: str) -> bool:
    """Whether the disk of the file has no room for what SQLite writes beside it to begin with."""
    try:
        disk = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < FULL_BYTES


def _read_only(path: str, error: Exception) -> JournalError:
    text = f"the journal {path!r} cannot be written: the file or its folder is read-only"
    return JournalError(text, path=path, number=errno.EROFS)


def _cannot_open(path: str, error: Exception) -> JournalError:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return JournalError(
            f"the journal {path!r} cannot be opened: there is no folder {folder!r}", path=path, number=errno.ENOENT
        )
    text = f"the journal {path!r} cannot be opened: it is no file, or may not be read and written by this user"
    return JournalError(text, path=path, number=errno.EACCES)


def _busy(path: str, error: Exception) -> JournalError:
    text = f"the journal {path!r} is locked by another program, which writes to it or has it for itself"
    return JournalError(text, path=path, number=errno.EBUSY)


def _no_database(path: str, error: Exception) -> JournalError:
    text = f"{path!r} is no journal: it is no SQLite database, or its beginning is damaged; use another file"
    return JournalError(text, path=path)


_BY_CODE: dict[int, Callable[[str, Exception], JournalError]] = {
    sqlite3.SQLITE_FULL: _full,
    sqlite3.SQLITE_IOERR: _failing,
    sqlite3.SQLITE_READONLY: _read_only,
    sqlite3.SQLITE_CANTOPEN: _cannot_open,
    sqlite3.SQLITE_PERM: _cannot_open,
    sqlite3.SQLITE_BUSY: _busy,
    sqlite3.SQLITE_LOCKED: _busy,
    sqlite3.SQLITE_CORRUPT: damaged,
    sqlite3.SQLITE_NOTADB: _no_database,
}
