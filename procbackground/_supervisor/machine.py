"""CPUs and free memory, within the limits of the container, and the kernel's kills for want of memory."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from typing import Final

from procbackground import _platform
from procbackground._platform import cgroup

BY_MACHINE: Final = "machine"
BY_CONTAINER: Final = "container"


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use: by its affinity, and its container's quota rounded up."""
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)  # Python 3.13 and later
    if sys.version_info < (3, 13) and hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = count() or 1
    limit = cgroup.cpu_limit() if _platform.IS_LINUX else None
    return cpus if limit is None else max(1, min(cpus, math.ceil(limit)))


def free_memory_bytes() -> int:
    """Return the memory that can be allocated before the machine swaps or the container reaches its limit."""
    free_bytes = _platform.available_memory_bytes()
    limit = cgroup.free_memory_bytes() if _platform.IS_LINUX else None
    return free_bytes if limit is None else min(free_bytes, limit)


def total_memory_bytes() -> int:
    """Return the memory of the machine, or the container's limit if that is less."""
    total_bytes = _platform.total_memory_bytes()
    limit = cgroup.memory_limit_bytes() if _platform.IS_LINUX else None
    return total_bytes if limit is None else min(total_bytes, limit)


class OomKills:
    """Finds out whether a process was killed for want of memory, by counts that have grown since the last such death.

    The count of our control group, in which others do not matter; without one, the machine's since boot
    (/proc/vmstat).
    """

    def __init__(self) -> None:
        self._files = cgroup.oom_files() if _platform.IS_LINUX else cgroup.OomFiles(None, ())
        self._seen = self.read()

    def read(self) -> cgroup.OomCounts:
        """Return the counts as they are now."""
        counts = cgroup.oom_counts(self._files)
        return counts if counts.kills is not None else counts._replace(kills=_platform.count_oom_kills())

    def cause_of_death(self, counts: cgroup.OomCounts) -> str:
        """Return whose memory ran out when a process was killed at these counts: `BY_...`; "" for other causes."""
        seen = self._seen
        self._seen = cgroup.OomCounts(max(counts.kills or 0, seen.kills or 0), max(counts.limits, seen.limits))
        if (counts.kills or 0) <= (seen.kills or 0):
            return ""
        return BY_CONTAINER if counts.limits > seen.limits else BY_MACHINE
