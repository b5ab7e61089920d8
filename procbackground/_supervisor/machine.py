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
    """Finds out whether a process was killed for want of memory, by a count that has grown since the last such death.

    The count of our control group, in which others do not matter; without one, the machine's since boot
    (/proc/vmstat).
    """

    def __init__(self) -> None:
        self._files = cgroup.oom_files() if _platform.IS_LINUX else cgroup.OomFiles(None, ())
        self._seen = self.count()
        self._limits_seen = cgroup.limits_reached(self._files)

    def count(self) -> int:
        """Return the count as it is now."""
        kills = cgroup.oom_kills(self._files)
        return _platform.count_oom_kills() if kills is None else kills

    def cause_of_death(self, kills: int) -> str:
        """Return whose memory ran out when a process was killed at this count: `BY_...`; "" for other causes."""
        if kills <= self._seen:
            return ""  # most deaths: whose memory it was takes more files, and the error waits for this
        self._seen = kills
        before, self._limits_seen = self._limits_seen, cgroup.limits_reached(self._files)
        return BY_CONTAINER if self._limits_seen > before else BY_MACHINE
