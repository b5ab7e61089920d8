"""Marks: how the processes that a worker's tasks have started are recognised when their parents are gone. Linux only.

A mark is a number in a process's soft limit of file locks (RLIMIT_LOCKS), which the kernel has not enforced since Linux
2.4.25. Processes inherit it through `fork` and `exec`. A second fork, a session of its own, closed descriptors and a
cleared environment do not change it, and /proc/PID/limits shows it to everybody, of zombies too. The kernel keeps
neither the environment nor the parent of a process that was forked twice.

Each worker has a mark of its own, from the family of its manager. A process that was given a limit of file locks by
hand, or whose hard limit is too low, has no mark; then only its parents and its group show where it belongs.

The warden loads this module by its path, without the package.
"""

from __future__ import annotations

import os
import sys

RLIMIT_LOCKS = 10  # the module `resource` has no name for it
_NUMBER_BITS = 24
_LIMITS_BYTES = 4096
HELPER = 0  # the number in the mark of a manager's own helper; workers have others


def new_family() -> int:
    """Return a number for a manager that no other manager has: 38 bits, the highest one set."""
    return 1 << 37 | int.from_bytes(os.urandom(5), "little") & (1 << 37) - 1


def mark_of(family: int, number: int) -> int:
    """Return the mark of worker `number`, from 1 on. Numbers repeat after 16 million workers."""
    return family << _NUMBER_BITS | number % ((1 << _NUMBER_BITS) - 1) + 1


def helper_mark(family: int) -> int:
    """Return the mark of a manager's helper."""
    return family << _NUMBER_BITS | HELPER


def family_of(mark: int) -> int:
    """Return the family of a mark."""
    return mark >> _NUMBER_BITS


def set_mark(mark: int, pid: int = 0) -> None:
    """Give this process, or a child, a mark, which all processes that it starts from now on inherit; 0 removes it."""
    if sys.platform != "linux":
        return
    try:
        import resource

        _, hard = resource.prlimit(pid, RLIMIT_LOCKS)
        resource.prlimit(pid, RLIMIT_LOCKS, (mark or hard, hard))
    except (ImportError, OSError, ValueError):
        pass  # no descriptor is left to load the module, or the hard limit is lower


def read_mark(pid: int) -> int:
    """Return the mark of a process, also of a zombie; 0 when it has none, or there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/limits", os.O_RDONLY | os.O_CLOEXEC)
        try:
            limits = os.read(fd, _LIMITS_BYTES)
        finally:
            os.close(fd)
    except OSError:
        return 0
    fields = limits.partition(b"Max file locks")[2].split(None, 1)
    return int(fields[0]) if fields and fields[0].isdigit() else 0


def find_family(family: int) -> dict[int, int]:
    """Return the marks of all processes of a family, by their pids. Looks at every process: 15 µs for each."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            mark = read_mark(int(name))
            if family_of(mark) == family:
                found[int(name)] = mark
    return found
