"""Process trees by psutil: one pass over the process table each time."""

from __future__ import annotations

import time
from collections.abc import Collection

from procbackground._platform.trees import Figures, Row, figures_of, members_of


class Trees:
    """Looks at the trees of some processes."""

    survey_cost_s = 0.0  # of a look that has a share of its own: there is none

    def look(self, roots: Collection[int]) -> dict[int, Figures]:
        """Return the figures of each root's tree as it is now. Roots that have ended are left out."""
        return survey(roots)

    def close(self) -> None:
        """Nothing is kept."""


def survey(roots: Collection[int]) -> dict[int, Figures]:
    """Return the figures of each root's tree, by one pass over the process table; roots that ended are left out."""
    import psutil  # in the parent only

    processes = {process.pid: process for process in psutil.process_iter(["ppid"])}
    # Only who is whose child at first: figures are asked of those that belong to a root.
    parents = {pid: Row(pid, process.info["ppid"] or 0, pid, 0, 0.0, 0.0) for pid, process in processes.items()}
    figures = {}
    for root, tree in members_of(parents, roots).items():
        table = {pid: row for pid in tree if (row := _row(processes[pid])) is not None}
        if root in table:
            figures[root] = figures_of(table, tree, root)
    return figures


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds of a process and of the children it has waited for; also of a zombie."""
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(sum(times[:4]))


def _row(process: object) -> Row | None:
    import psutil

    assert isinstance(process, psutil.Process)
    try:
        with process.oneshot():
            times = process.cpu_times()
            return Row(
                pid=process.pid,
                parent=process.ppid(),
                group=process.pid,
                rss_bytes=process.memory_info().rss,
                cpu_s=float(sum(times[:4])),  # user, system, and those of children where they are told
                age_s=max(1e-3, time.time() - process.create_time()),
            )
    except psutil.Error:
        return None  # it ended meanwhile
