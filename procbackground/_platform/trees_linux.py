"""Process trees from /proc, through descriptors that stay open.

Reading an open descriptor of /proc/PID/stat costs a third of opening it again, and never shows another process that
reuses the pid: reading fails once the original process is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection

from procbackground._platform.marks import read_mark
from procbackground._platform.trees import Figures, Follower, Row, figures_of, members_of

_STAT_BYTES = 1024
MOMENT_S = 1.0  # between the readings of two ages, at most

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_STATUS_BYTES = 65536  # of /proc/PID/status, which lists a user's groups before the sizes
_ALL = (b"\nPss:",)
_WITHOUT_FILES = (b"\nPss_Anon:", b"\nPss_Shmem:")
_HAS_PROPORTIONS = os.path.exists("/proc/self/smaps_rollup")  # since Linux 4.14


class Trees(Follower):
    """Follows trees through /proc."""

    def __init__(self) -> None:
        super().__init__()
        self._fds: dict[int, int] = {}

    def _read(self, pid: int) -> Row | None:
        fd = self._fds.get(pid)
        if fd is not None:
            try:
                return _row(os.pread(fd, _STAT_BYTES, 0))
            except (OSError, ValueError, IndexError):
                self._release(pid)  # it has ended; the pid may be reused
        try:
            fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None  # it has ended, or no descriptor is left; then the next look tries again
        self._fds[pid] = fd
        try:
            return _row(os.pread(fd, _STAT_BYTES, 0))
        except (OSError, ValueError, IndexError):
            self._release(pid)
            return None

    def _children_of(self, row: Row) -> list[int]:
        return _children(row)

    def _release(self, pid: int) -> None:
        fd = self._fds.pop(pid, None)
        if fd is not None:
            os.close(fd)

    def _read_table(self, roots: Collection[int]) -> dict[int, Row]:
        return read_table(roots)


def survey(roots: Collection[int]) -> dict[int, Figures]:
    """Return the figures of each root's tree, from one survey of the process table; roots that ended are left out."""
    table = read_table(roots)
    return {root: figures_of(table, tree, root) for root, tree in members_of(table, roots).items()}


def resident_bytes(figures: Figures) -> int:
    """Return the resident memory of a tree, in which pages that its processes share count once.

    The sum of each process's proportional share (PSS): a page counts for each process that maps it by an equal part. It
    takes the kernel a walk over all pages, 20 to 50 ms for a GiB. So it is read only of trees of several processes. The
    result is never less than the largest process's RSS, as pages that are shared with processes outside of the tree
    count in part only. Raises: `OSError` when no descriptor is left.
    """
    if len(figures.members) == 1:
        return figures.rss_bytes
    shares = sum(_proportional_bytes(pid, rss_bytes, _ALL) for pid, rss_bytes in figures.members.items())
    return max(shares, *figures.members.values())


def without_files(figures: Figures) -> Figures:
    """Return the same figures without the pages of files on a disk, which belong to the page cache.

    The kernel takes such pages back whenever memory is short. What was written to a private map does count, and so does
    shared memory. A process costs 60 µs, as the kernel counts each kind of page. Raises: `OSError` when no descriptor
    is left.
    """
    if not _HAS_KINDS:
        return figures
    members = {pid: _bytes_without_files(pid) for pid in figures.members}
    return figures._replace(rss_bytes=sum(members.values()), members=members)


def held_bytes(figures: Figures) -> int:
    """Return the memory of a tree as `resident_bytes` does, from figures and of pages without files."""
    if len(figures.members) == 1:
        return figures.rss_bytes
    shares = sum(_proportional_bytes(pid, held, _WITHOUT_FILES) for pid, held in figures.members.items())
    return max(shares, *figures.members.values())


def _bytes_without_files(pid: int) -> int:
    """Return the part of a process's RSS that is no page of a file on a disk; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            return _sum_of(file.read(_STATUS_BYTES), (b"\nRssAnon:", b"\nRssShmem:")) or 0
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _proportional_bytes(pid: int, rss_bytes: int, kinds: tuple[bytes, ...]) -> int:
    """Return the PSS of a process, of pages of these kinds: 0 if it has ended, `rss_bytes` if it may not be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as file:
            text = file.read(4096)
    except PermissionError:
        return rss_bytes  # of another user
    except (FileNotFoundError, ProcessLookupError):
        return 0 if _HAS_PROPORTIONS else rss_bytes
    found = _sum_of(text, kinds)
    return min(rss_bytes, _sum_of(text, _ALL) or rss_bytes) if found is None else found  # before Linux 5.4


def _sum_of(text: bytes, names: tuple[bytes, ...]) -> int | None:
    """Return the sum of lines of a file of /proc, such as `RssAnon: 16 kB`, in bytes; None where there are none."""
    found = [int(after.split(None, 1)[0]) for name in names if (after := text.partition(name)[2])]
    return sum(found) * 1024 if found else None


def _has_kinds() -> bool:
    try:
        with open("/proc/self/status", "rb", buffering=0) as file:
            return b"\nRssAnon:" in file.read(_STATUS_BYTES)
    except OSError:
        return False


_HAS_KINDS = _has_kinds()  # since Linux 4.5


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds of a process and of the children it has waited for; also of a zombie."""
    row = _read_once(pid)
    return None if row is None else row.cpu_s


def read_table(roots: Collection[int]) -> dict[int, Row]:
    """Return all processes, those with the mark of a root as members of its group.

    So an orphan in a session of its own is found. Raises: `OSError` when no descriptor is left.
    """
    table = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            row = _read_once(int(name))
            if row is not None:
                table[row.pid] = row
    root_of_mark = {mark: root for root in roots if root in table and (mark := read_mark(root))}
    if root_of_mark:
        oldest_s = MOMENT_S + max(table[root].age_s for root in root_of_mark.values())
        for row in list(table.values()):
            if row.age_s <= oldest_s and row.pid not in roots and row.group not in roots:
                root = root_of_mark.get(read_mark(row.pid))
                if root is not None:
                    table[row.pid] = row._replace(group=root)
    return table


def _read_once(pid: int) -> Row | None:
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _row(os.read(fd, _STAT_BYTES))
        finally:
            os.close(fd)
    except (OSError, ValueError, IndexError):
        return None


def _row(stat: bytes) -> Row:
    """Parse a /proc/PID/stat. The name in it is in parentheses and may contain anything, also parentheses."""
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
    """Return the children of a process. Each thread lists those that it started."""
    pids: list[int] = []
    try:
        threads = [str(row.pid)] if row.threads == 1 else os.listdir(f"/proc/{row.pid}/task")
        for thread in threads:
            with open(f"/proc/{row.pid}/task/{thread}/children", "rb", buffering=0) as file:
                pids += map(int, file.read(1 << 16).split())
    except (OSError, ValueError):
        pass  # it has ended, or the kernel does not list children: a survey finds them
    return pids
