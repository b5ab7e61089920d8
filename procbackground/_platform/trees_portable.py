"""Process trees from psutil. Its process objects are kept, because a survey of the process table takes milliseconds."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from procbackground._platform.trees import Figures, Follower, Row, figures_of, members_of

if TYPE_CHECKING:
    import psutil


class Trees(Follower):
    """Follows trees through psutil. Only surveys find new descendants."""

    def __init__(self) -> None:
        super().__init__()
        self._processes: dict[int, psutil.Process] = {}

    def _read(self, pid: int) -> Row | None:
        import psutil  # in the parent only

        try:
            process = self._processes.get(pid)
            if process is None:
                process = self._processes[pid] = psutil.Process(pid)
        except psutil.Error:
            return None
        row = _row(process)
        if row is None:
            self._release(pid)
        return row

    def _children_of(self, row: Row) -> list[int]:
        return []

    def _release(self, pid: int) -> None:
        self._processes.pop(pid, None)

    def _read_table(self, roots: Collection[int]) -> dict[int, Row]:
        return _parents()


def survey(roots: Collection[int]) -> dict[int, Figures]:
    """Return the figures of each root's tree, from one survey of the process table; roots that ended are left out."""
    import psutil

    figures = {}
    for root, tree in members_of(_parents(), roots).items():
        table = {}
        for pid in tree:
            try:
                row = _row(psutil.Process(pid))
            except psutil.Error:
                continue  # it has ended
            if row is not None:
                table[pid] = row
        if root in table:
            figures[root] = figures_of(table, tree, root)
    return figures


def resident_bytes(figures: Figures) -> int:
    """Return the resident memory of a tree, in which pages that its processes share count once.

    Where psutil reports proportional shares (PSS), their sum; else the sum of what is each process's own (USS), and the
    most that any of them shares. Never less than the largest process's RSS. What psutil may not read counts in full.
    """
    if len(figures.members) == 1:
        return figures.rss_bytes
    import psutil

    own_bytes = shared_bytes = 0
    for pid, rss_bytes in figures.members.items():
        try:
            info = psutil.Process(pid).memory_full_info()
        except psutil.NoSuchProcess:
            continue
        except psutil.Error:
            own_bytes += rss_bytes
            continue
        share = getattr(info, "pss", None)
        own_bytes += info.uss if share is None else share
        if share is None:
            shared_bytes = max(shared_bytes, info.rss - info.uss)
    return max(own_bytes + shared_bytes, *figures.members.values())


def without_files(figures: Figures) -> Figures:
    """Return the same figures: not on all systems does psutil say which pages belong to files on a disk."""
    return figures


held_bytes = resident_bytes


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds of a process and of the children it has waited for; also of a zombie."""
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(sum(times[:4]))


def _parents() -> dict[int, Row]:
    """Return all processes with their parents only: figures are read for members of a tree."""
    import psutil

    return {
        process.pid: Row(process.pid, process.info["ppid"] or 0, process.pid, 0, 0.0, 0.0)
        for process in psutil.process_iter(["ppid"])
    }


def _row(process: psutil.Process) -> Row | None:
    import psutil

    try:
        with process.oneshot():
            times = process.cpu_times()
            return Row(
                pid=process.pid,
                parent=process.ppid(),
                group=process.pid,
                rss_bytes=process.memory_info().rss,
                cpu_s=float(sum(times[:4])),  # user, system, and those of children where the system reports them
                age_s=max(1e-3, time.time() - process.create_time()),
            )
    except psutil.Error:
        return None  # it has ended
