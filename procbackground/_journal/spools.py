"""Takes over the results that workers of a killed manager have kept; see `_wire.spool`."""

from __future__ import annotations

import fcntl
import glob
import os
import sqlite3
import time

from procbackground._journal import values
from procbackground._log import logger
from procbackground._wire import spool

# For workers to end whose manager was killed: they do within a second, or when the disk lets them.
ORPHANS_S = 10.0
LOOK_S = 0.02

_FORMS = (values.NONE, values.PICKLE, values.BUFFERS)


def begin_names(path: str) -> str:
    """Return the beginning of the names of files that workers of one manager keep; another one has others."""
    return f"{path}{spool.INFIX}{time.time_ns()}-"


def take_over(connection: sqlite3.Connection, path: str, own: str) -> None:
    """Enter the results that workers of earlier managers have kept, and remove their files.

    Waits for workers that are still there. Names that begin with `own` are those of this manager's workers.
    """
    names = _files_of_others(path, own)
    if not names:
        return
    until_s = time.monotonic() + ORPHANS_S
    for name in names:
        if name.endswith("-a"):
            _wait_for_end(name, until_s)
    names = _files_of_others(path, own)  # again: a worker may have begun its second file
    connection.execute("PRAGMA synchronous = FULL")  # the files are removed after this
    connection.execute("BEGIN IMMEDIATE")
    for name in names:
        with open(name, "rb") as file:
            content = file.read()
        pid = name.removesuffix("-a").removesuffix("-b").rpartition("-")[2]
        for record in spool.load(content):
            _enter(connection, record, int(pid) if pid.isdigit() else None)
    connection.execute("COMMIT")
    for name in names:
        os.unlink(name)


def remove(own: str, pid: int | None = None) -> None:
    """Remove the files of a worker that has ended, or of all workers of this manager."""
    names = glob.glob(f"{glob.escape(own)}*") if pid is None else [f"{own}{pid}-{letter}" for letter in "ab"]
    for name in names:
        try:
            os.unlink(name)
        except OSError:
            pass


def _files_of_others(path: str, own: str) -> list[str]:
    found = glob.glob(f"{glob.escape(path)}{spool.INFIX}[0-9]*-[ab]")
    return sorted(name for name in found if not name.startswith(own))


def _wait_for_end(name: str, until_s: float) -> None:
    """Wait until the worker that has this file locked has ended."""
    fd = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() >= until_s:
                    logger.warning("a worker of an earlier manager has not ended, and may still run a task: %s", name)
                    return
                time.sleep(LOOK_S)
            else:
                return
    finally:
        os.close(fd)


def _enter(connection: sqlite3.Connection, record: spool.Record, pid: int | None) -> None:
    form = _FORMS[record.form]
    data = None if form == values.NONE else record.data
    if data is not None and len(data) > values.MAX_BYTES:
        return
    key = record.key.decode()
    connection.execute(
        "UPDATE tasks SET state = 'succeeded', outcome = 'succeeded', attempt = ?, pid = ?, started = ?, ended = ?, "
        "exit_code = NULL, error_type = NULL, error = NULL, traceback = NULL, format = ?, crc = ?, result = ? "
        "WHERE key = ? AND (state <> 'succeeded' OR format = 'not kept')",
        (
            record.attempt, pid, record.started, record.ended, form, values.checksum(key, data), data, key,
        ),
    )  # fmt: skip
