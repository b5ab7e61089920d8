"""CPUs and free memory of the machine, within the limits of the container."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable

from procbackground import _platform
from procbackground._platform import cgroup


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
