"""Finds the processes that a call has left running: `execute` looks after each call, and the worker then leaves.

A process ends with the attempt that has started it. The worker ends those that it has found, and then leaves, as it
need not have found all: once it has ended, the helper ends what has its mark (see `_platform.marks`).
"""

from __future__ import annotations

import os
import signal
import sys

from procbackground import _platform
from procbackground._platform import marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STARTS_ONE_S = 0.00005  # less than any call takes that starts a process


class Leftovers:
    """What this worker's calls have left running, apart from what was there before the first one."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._mark = 0
        self._adopter = 0  # process that adopts our orphans; 0 if there is none
        self._faults = 0  # of children that were waited for

    def open(self, mark: int, adopter: int) -> None:
        """Look for orphans by this mark from now on, among the children of `adopter` or, if that is 0, everywhere.

        Without a mark nothing is looked for: a worker that is rehearsed in the zygote would find the zygote's workers.
        """
        self._mark, self._adopter = mark, adopter

    def keep(self) -> None:
        """Count what runs now as the worker's own: an initializer has started it, say, or the import of a module."""
        self._known |= self.find()

    def find(self) -> set[int]:
        """Return the pids of what runs and should not. It takes 2 µs where no process was started."""
        if not self._mark:
            return set()
        found = {pid for pid in _children() if _platform.start_time(pid) is not None}  # zombies are no matter
        if _platform.IS_LINUX and self._has_waited():
            found.update(self._orphans())
        return found - self._known - _helpers() if found else found

    def _has_waited(self) -> bool:
        """Whether a child was waited for since the last look: each has had page faults, and may have left orphans."""
        import resource

        before, self._faults = self._faults, resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
        return self._faults != before

    def _orphans(self) -> list[int]:
        if not self._adopter:
            family = marks.find_family(marks.family_of(self._mark))
            return [pid for pid, mark in family.items() if mark == self._mark and pid != os.getpid()]
        return [
            pid
            for pid in _platform.children(self._adopter)
            if pid != os.getpid() and marks.read_mark(pid) == self._mark
        ]


def end_all(pids: set[int]) -> None:
    """End processes that were found. For one that cannot be waited for, the manager does not wait either."""
    for pid in pids:
        _platform.send_signal(None, pid, signal.SIGKILL)
    for pid in pids:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass  # an orphan


def _children() -> list[int]:
    return _platform.children(os.getpid()) if _platform.has_children() else []


def _helpers() -> set[int]:
    """Return the pids of the processes that `multiprocessing` keeps here until this process ends."""
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    server: Any = sys.modules.get("multiprocessing.forkserver")
    pids = {
        tracker and tracker._resource_tracker._pid,
        server and server._forkserver._forkserver_pid,
    }
    return {pid for pid in pids if pid is not None}
