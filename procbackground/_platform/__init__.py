"""What the operating system provides. `linux` or `portable` is chosen once, here.

    linux                           epoll, eventfd, pidfd, memfd, and a pipe whose end kills its readers' groups; other
                                    means where a call is missing or refused
    portable                        the fallback: poll, a wake-up pipe, a temporary file
    temporary                       a temporary file in place of one in memory
    trees                           process trees and the sums of their figures
    trees_linux, trees_portable     where the figures come from: /proc, or psutil
    cgroup                          the limits of a container, and its kills for want of memory
    marks                           marks that show which worker's tasks started a process
    files                           descriptors that belong to an object; mappings that hold no descriptor
    passing                         descriptors that come through a socket
    standard                        descriptors 0 to 2 of programs that were started without them

PROCBACKGROUND_PLATFORM=portable selects the fallback on Linux, so that the tests can run it there.
"""

from __future__ import annotations

# ruff: noqa: F403, F405  # the names are those of `__all__`: written once
import os
import sys

TYPE_CHECKING = False

IS_LINUX = sys.platform == "linux" and os.environ.get("PROCBACKGROUND_PLATFORM") != "portable"

if TYPE_CHECKING or IS_LINUX:
    from procbackground._platform.linux import *
else:  # it provides the same names, as a test checks; types are checked as on Linux
    from procbackground._platform.portable import *

__all__ = [
    "IS_LINUX",
    "STACK_SIGNAL",
    "Poller",
    "Wakeup",
    "adopt_orphans",
    "available_memory_bytes",
    "children",
    "count_oom_kills",
    "descendants",
    "disarm_life_pipe",
    "end_if_over",
    "exit_code_of_zombie",
    "has_children",
    "has_pidfd",
    "how_cut_off",
    "is_stopped",
    "make_memory_file",
    "open_life_pipe",
    "open_pidfd",
    "own_life_pipe",
    "peak_bytes",
    "rearm_life_pipe",
    "send_signal",
    "start_time",
    "total_memory_bytes",
    "usage_of_dead",
    "why_not_running",
]
