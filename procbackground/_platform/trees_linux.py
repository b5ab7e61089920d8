"""Process trees by /proc, over descriptors that stay open.

A kept descriptor of /proc/PID/stat costs a third of opening it anew, and never shows a process that got the same pid
later: reading it fails once its own is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection

from procbackground._platform.trees import Figures, Row, figures_of, members_of

WALKED = 16  # processes whose children are looked up one by one; above, a pass over the table is cheaper
SURVEY_S = 0.5  # between two passes, which also find what is not the child of a main thread
SURVEY_SHARE = 400  # a pass takes 10 µs a process: the pause is at least this many times that
_STAT_BYTES = 1024

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class Trees:
    """Follows the trees of some processes from look to look. Not safe for use by several threads."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._trees: dict[int, set[int]] = {}
        self._next_survey_s = 0.0
        self.survey_cost_s = 0.0  # CPU time of the pass in the latest look, which looks after its own share

    def look(self, roots: Collection[int]) -> dict[int, Figures]:
        """Return the figures of each root's tree as it is now. Roots that have ended are left out."""
        for root in self._trees.keys() - set(roots):
            self._drop(root)
        for root in roots:
            self._trees.setdefault(root, {root})
        self.survey_cost_s = 0.0
        if time.monotonic() >= self._next_survey_s:
            self._survey(roots)
        walks = sum(map(len, self._trees.values())) <= WALKED
        return {root: figures for root in roots if (figures := self._sum(root, walks)) is not None}

    def close(self) -> None:
        """Let go of all descriptors; `look` begins afresh."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        self._trees.clear()
        self._next_survey_s = 0.0

    def _survey(self, roots: Collection[int]) -> None:
        began_s = time.thread_time()
        try:
            for root, tree in members_of(read_table(), roots).items():
                self._trees[root].update(tree)
        except OSError:
            pass  # no descriptor is left: the next pass may have one
        self.survey_cost_s = time.thread_time() - began_s
        self._next_survey_s = time.monotonic() + max(SURVEY_S, SURVEY_SHARE * self.survey_cost_s)

    def _sum(self, root: int, walks: bool) -> Figures | None:
        tree = self._trees[root]
        todo = list(tree)
        table: dict[int, Row] = {}
        while todo:
            pid = todo.pop()
            row = self._read(pid)
            if row is None:
                tree.discard(pid)
                continue
            table[pid] = row
            if walks:
                found = [child for child in _children(row) if child not in tree]
                tree.update(found)
                todo += found
        if root not in table:
            self._drop(root)
            return None
        return figures_of(table, tree, root)

    def _read(self, pid: int) -> Row | None:
        fd = self._fds.get(pid)
        if fd is not None:
            try:
                return _row(os.pread(fd, _STAT_BYTES, 0))
            except (OSError, ValueError, IndexError):
                os.close(self._fds.pop(pid))  # it has ended; the pid may be another's already
        try:
            fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None  # it has ended, or there is no descriptor left: then the next look tries again
        self._fds[pid] = fd
        try:
            return _row(os.pread(fd, _STAT_BYTES, 0))
        except (OSError, ValueError, IndexError):
            os.close(self._fds.pop(pid))
            return None

    def _drop(self, root: int) -> None:
        tree = self._trees.pop(root)
        for pid in tree:
            fd = self._fds.pop(pid, None)
            if fd is not None:
                os.close(fd)


def survey(roots: Collection[int]) -> dict[int, Figures]:
    """Return the figures of each root's tree, by one pass over the process table; roots that ended are left out."""
    table = read_table()
    return {root: figures_of(table, tree, root) for root, tree in members_of(table, roots).items()}


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds of a process and of the children it has waited for; also of a zombie."""
    row = _read_once(pid)
    return None if row is None else row.cpu_s


def read_table() -> dict[int, Row]:
    """Return all processes. Raises: `OSError` when no descriptor is left."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            row = _read_once(int(name))
            if row is not None:
                table[row.pid] = row
    return table


def _read_once(pid: int) -> Row | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return _row(file.read(_STAT_BYTES))
    except (OSError, ValueError, IndexError):
        return None


def _row(stat: bytes) -> Row:
    """Parse a /proc/PID/stat. The name in it is in parentheses and may hold anything, parentheses too."""
    before, _, after = stat.rpartition(b")")
    fields = after.split(None, 22)
    ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return Row(
        pid=int(before[: before.index(b" ")]),
        parent=int(fields[1]),
        group=int(fields[2]),
        rss_bytes=int(fields[21]) * _PAGE_BYTES,
        cpu_s=ticks * _TICK_S,
        age_s=max(_TICK_S, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) * _TICK_S),
        threads=int(fields[17]),
    )


def _children(row: Row) -> list[int]:
    """Return the children of a process; each thread has those that it started."""
    pids: list[int] = []
    try:
        threads = [str(row.pid)] if row.threads == 1 else os.listdir(f"/proc/{row.pid}/task")
        for thread in threads:
            with open(f"/proc/{row.pid}/task/{thread}/children", "rb", buffering=0) as file:
                pids += map(int, file.read(1 << 16).split())
    except (OSError, ValueError):
        pass  # it ended meanwhile, or the kernel does not list children: a pass finds them
    return pids
