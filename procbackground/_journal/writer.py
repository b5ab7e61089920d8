"""The thread that owns a journal's connection. Entries come by a queue, and are committed in groups.

Whatever comes while a group is being synced to the disk makes the next group. So one task alone waits for a sync of its
own, and ten thousand wait for little more than that together.

A write that fails costs no task its result: those who wait are notified all the same, as if it had been written.
The entries are kept, up to a limit, and written with a later group if the trouble was passing, such as a full disk.

The connection is a local variable of the thread. In a fork of the process that thread is not there, and its variables
are neither used nor finalized: closing a copied connection could destroy the parent's file.
"""

from __future__ import annotations

import errno
import os
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from procbackground._journal import records as r
from procbackground._journal import schema, spools, statements
from procbackground._journal.lock import FileLock, network_of
from procbackground._journal.statements import Found
from procbackground._log import logger
from procbackground.errors import JournalError

GROUP_ENTRIES = 2000
GROUP_BYTES = 64 << 20
# Entries that could not be written and are kept for another try. Beyond these, results are only at their handles.
KEPT_ENTRIES = 100_000
KEPT_BYTES = 256 << 20
# Errors of the moment, as SQLite numbers them; after others the same entries would fail again.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM,
    }
)  # fmt: skip

Deliver: TypeAlias = "Callable[[list[Any], dict[str, Found], list[r.Succeeded | r.Ended]], None]"


class Writer:
    """A journal that is open for writing. Raises: `JournalError`.

    Args:
        deliver: called in the writer's thread once a group is committed, with the subjects of `Asked`, what was found
            by key, and the `Succeeded` and `Ended` that have a subject.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given = os.fspath(path)
        if not isinstance(given, str) or not given:
            raise TypeError(f"journal must be the name of a file, not {path!r}")
        self.path: str = os.path.realpath(given)
        self.spool: str = spools.begin_names(self.path)
        self.lost: int = 0  # results that are not in the file
        self.error: JournalError | None = None  # of the latest write, if that failed
        self._queue: queue.SimpleQueue[r.Entry | None] = queue.SimpleQueue()
        self.put: Callable[[r.Entry], None] = self._queue.put  # have an entry written: a call less
        self._thread: threading.Thread | None = None
        self._has_ended = threading.Event()
        self._kept: list[r.Entry] = []
        self._kept_bytes = 0
        with schema.explained(self.path):
            if os.path.isdir(self.path) or not os.path.isdir(os.path.dirname(self.path)):
                raise sqlite_cannot_open()
            self._lock = FileLock(self.path)
        try:
            schema.check_and_prepare(self.path)
            self._identity = schema.identity_of(self.path)
            self._log_identity: tuple[int, int] | None = None  # of the -wal file, known after the first commit
            network = network_of(self.path)
            if network is not None:
                logger.warning(
                    "the journal %r is on a network file system (%s), where SQLite cannot promise that it survives a "
                    "crash, nor that other hosts keep off: use a local disk",
                    self.path,
                    network,
                )
        except BaseException:
            self._lock.release()
            raise

    # -- the supervisor ------------------------------------------------------------------------------------

    def start(self, deliver: Deliver, name: str) -> None:
        """Start the thread. Raises: `RuntimeError` when the system has none to give."""
        if self._thread is None:
            self._deliver = deliver
            thread = threading.Thread(target=self._run, name=f"{name}-journal", daemon=True)
            thread.start()
            self._thread = thread

    def stop(self, timeout_s: float) -> bool:
        """Write what is left and close the file; return False when that has not ended after `timeout_s`."""
        if self._thread is None:
            self._lock.release()
            return True
        self._queue.put(None)
        return self._has_ended.wait(timeout_s)

    # -- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        run = 0
        try:
            while True:
                group, is_last = self._next_group()
                if group or self._kept:
                    connection, run = self._handle(connection, run, group)
                if is_last:
                    break
            if connection is not None:
                self._close(connection, run)
                if not self.lost and not self._kept:
                    spools.remove(self.spool)
        except BaseException:
            logger.exception("the journal %r failed, and records nothing more", self.path)
        finally:
            self.lost += _count_results(self._kept)
            self._lock.release()
            self._has_ended.set()

    def _next_group(self) -> tuple[list[r.Entry], bool]:
        """Wait for an entry; return it with those that follow, and whether these are the last ones."""
        group: list[r.Entry] = []
        count = size = 0
        entry = self._queue.get()
        while entry is not None:
            group.append(entry)
            count += _tasks_of(entry)
            size += _bytes_of(entry)
            if count >= GROUP_ENTRIES or size >= GROUP_BYTES:
                return group, False
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _handle(
        self, connection: sqlite3.Connection | None, run: int, group: list[r.Entry]
    ) -> tuple[sqlite3.Connection | None, int]:
        """Commit a group, and notify those who wait for it, whether or not it could be written."""
        answers: dict[str, Found] = {}
        entries = self._kept + group
        try:
            self._check_place()
            if connection is None:
                connection = schema.connect(self.path)
                host = os.uname().nodename if hasattr(os, "uname") else ""
                version = getattr(sys.modules["procbackground"], "__version__", "")
                facts = (time.time(), os.getpid(), r.text(host), r.text(" ".join(sys.argv)), version)
                spools.take_over(connection, self.path, self.spool)
                run = statements.begin_run(connection, facts)
            answers = _commit(connection, run, entries)
            self._check_place()  # again: what has gone to a file that nobody finds is not recorded
            connection = self._with_its_log(connection)
        except Exception as error:
            _roll_back(connection)
            if connection is not None and not run:
                connection.close()
                connection = None
            self._note_failure(error, entries)
        else:
            self._note_success()
            for each in group:
                if type(each) is r.Gone:
                    spools.remove(self.spool, each.pid)
        asked: list[Any] = []
        ended: list[r.Succeeded | r.Ended] = []
        for entry in group:
            if isinstance(entry, r.Succeeded) or (isinstance(entry, r.Ended) and entry.subject is not None):
                ended.append(entry)
            elif isinstance(entry, r.Asked):
                asked += entry.subjects
        if asked or ended:
            self._deliver(asked, answers, ended)
        return connection, run

    def _check_place(self) -> None:
        """Raise `JournalError` unless the file is still in its place, and locked for this manager."""
        if schema.identity_of(self.path) != self._identity:
            raise JournalError(
                f"the journal {self.path!r} was moved, removed or replaced while it was in use: move it back",
                path=self.path,
                number=errno.ENOENT,
            )
        self._lock.renew()

    def _with_its_log(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Return the connection; or a new one, if its -wal file was removed: other connections cannot read that file.

        What is in there goes to the journal first. Raises: `sqlite3.Error`, `OSError`.
        """
        found = schema.identity_of(f"{self.path}-wal")
        if self._log_identity is not None and found != self._log_identity:
            logger.warning("the file %r-wal was removed while it was in use: it is made again", self.path)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            other = schema.connect(self.path)
            connection.close()
            connection = other
            found = None  # made by the next commit
        self._log_identity = found
        return connection

    def _note_success(self) -> None:
        self._kept, self._kept_bytes = [], 0
        if self.error is not None:
            self.error = None
            logger.warning("the journal %r can be written again", self.path)

    def _note_failure(self, error: Exception, entries: list[r.Entry]) -> None:
        is_first = self.error is None
        known = isinstance(error, schema.ERRORS)
        if isinstance(error, JournalError):
            self.error = error
        else:
            self.error = schema.explain(error, self.path) if known else JournalError(f"{error!r}", path=self.path)
        may_pass = isinstance(error, OSError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING
        if is_first:
            what = "what is not recorded is tried again" if may_pass else "what is not recorded will be run again"
            text = "%s; tasks continue, and their handles get the results; %s"
            logger.error(text, self.error, what, exc_info=None if known else error)
        dropped = (r.Asked, r.Gone)  # the files of a worker that has gone stay, as they may be needed
        kept = [_without_subject(entry) for entry in entries if not isinstance(entry, dropped)] if may_pass else []
        self._kept_bytes = sum(map(_bytes_of, kept))
        if not may_pass or sum(map(_tasks_of, kept)) > KEPT_ENTRIES or self._kept_bytes > KEPT_BYTES:
            self.lost += _count_results(entries)
            kept, self._kept_bytes = [], 0
        self._kept = kept

    def _close(self, connection: sqlite3.Connection, run: int) -> None:
        try:
            connection.execute("UPDATE runs SET ended = ? WHERE id = ?", (time.time(), run))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            logger.error("%s", schema.explain(error, self.path))
        finally:
            connection.close()


def _commit(connection: sqlite3.Connection, run: int, entries: list[r.Entry]) -> dict[str, Found]:
    """Write entries and commit them; return what is found for those that ask."""
    asked: list[r.Facts] = []
    withdrawn: list[r.Withdrawn] = []
    others: list[r.Entry] = []
    for entry in entries:
        if isinstance(entry, r.Asked):
            asked += entry.facts
        elif isinstance(entry, r.Withdrawn):
            withdrawn.append(entry)
        else:
            others.append(entry)
    has_results = any(isinstance(entry, (r.Succeeded, r.Ended)) for entry in others)
    # Only a result has to survive a power cut: without the rest of the record, a task just runs again.
    connection.execute("PRAGMA synchronous = FULL" if has_results else "PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")
    statements.write(connection, others, run)
    # After the results of this group, which may be what is asked for. Of its key, an `Asked` is the last in a group.
    answers = statements.enter(connection, asked, run)
    if withdrawn:
        latest = {facts.key: facts for facts in asked}  # a later task of the same key waits in its place
        ended = [entry for entry in withdrawn if latest.get(entry.facts.key, entry.facts) is entry.facts]
        statements.withdraw(connection, ended, run)
    connection.execute("COMMIT")
    return answers


def _roll_back(connection: sqlite3.Connection | None) -> None:
    try:
        if connection is not None and connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        pass


def _bytes_of(entry: r.Entry) -> int:
    if isinstance(entry, r.Succeeded):
        return sum([len(task[6]) for task in entry.tasks])
    if isinstance(entry, r.Saved):
        return len(entry.state)
    if isinstance(entry, r.Ended) and entry.body is not None:
        return len(entry.body) if isinstance(entry.body, bytes) else entry.body.size
    return 0


def _tasks_of(entry: r.Entry) -> int:
    return len(entry[0]) if isinstance(entry, (r.Asked, r.Succeeded)) else 1


def _without_subject(entry: r.Entry) -> r.Entry:
    if isinstance(entry, r.Succeeded):
        return r.Succeeded([(*task[:-1], None) for task in entry.tasks])
    return entry._replace(subject=None) if isinstance(entry, r.Ended) else entry


def _count_results(entries: Iterable[r.Entry]) -> int:
    count = 0
    for entry in entries:
        if isinstance(entry, r.Succeeded):
            count += len(entry.tasks)
        elif isinstance(entry, r.Ended) and entry.state == r.SUCCEEDED:
            count += 1
    return count


def sqlite_cannot_open() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    return error
