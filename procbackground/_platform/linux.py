"""What Linux lends: epoll, eventfd, pidfd, memfd, and a pipe whose end the kernel turns into SIGKILL.

Written with `sys.platform` guards left to `_platform`, which imports this on Linux only.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal

HAS_PIDFD = hasattr(os, "pidfd_open")

# Dumps the stacks of a child. A real-time signal, far from those that libraries use; 0 where there is none.
STACK_SIGNAL = int(signal.SIGRTMIN) + 11

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT


class Poller:
    """Waits for descriptors; each is registered once, not once a wait."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.poll = self._epoll.poll  # (seconds or None) -> [(descriptor, events)]

    def watch(self, fd: int, *, writable: bool = False) -> None:
        """Report `fd` when it can be read, or with `writable` when it can be written."""
        self._epoll.register(fd, WRITABLE if writable else READABLE)

    def forget(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass  # not registered

    def close(self) -> None:
        self._epoll.close()


class Wakeup:
    """Wakes the supervisor out of its wait, from any thread."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def set(self) -> None:
        try:
            os.eventfd_write(self._fd, 1)
        except (OSError, ValueError):
            pass  # full means awake, closed means that nobody waits any more

    def drain(self) -> None:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass

    def close(self) -> None:
        fd, self._fd = self._fd, -1  # first: a late `set` must not write into what gets this number next
        os.close(fd)


def make_memory_file(name: str, size: int = 0) -> int:
    """Return a descriptor of a file in memory, without a path: gone with its last holder, also after SIGKILL."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    if size:
        os.ftruncate(fd, size)  # sparse: a page counts only once it is touched
    return fd


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when `pid` ends, or None when there is no such process."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def send_signal(pidfd: int | None, pid: int, signal_number: int) -> None:
    """Signal one process; by its pidfd, which cannot meet a recycled pid."""
    try:
        if pidfd is not None:
            signal.pidfd_send_signal(pidfd, signal_number)
        else:
            os.kill(pid, signal_number)
    except ProcessLookupError:
        pass


def arm_life_pipe(fd: int) -> int:
    """Have the kernel kill this process's group when the last writer of the pipe `fd` is gone; return what to keep
    open.

    Works while the process sits in C with the GIL held, which no thread could see. The owner of the signal is a
    property of the open file, so each process needs an opening of its own: with a shared one the last setting
    wins, and the others survive.
    """
    own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgid(0))
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    try:
        if os.read(own, 1) == b"":  # the parent died before the signal was armed
            os.killpg(os.getpgid(0), signal.SIGKILL)
    except BlockingIOError:
        pass  # nothing to read and somebody holds the other end: the parent lives
    return own


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory since boot."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def descendants(pid: int) -> list[tuple[int, int]]:
    """Return (pid, start time) of every process below `pid`, whichever group or session it is in."""
    found = []
    pids = [pid]
    while pids:
        for child in _children(pids.pop()):
            start = start_time(child)
            if start is not None:
                found.append((child, start))
                pids.append(child)
    return found


def start_time(pid: int) -> int | None:
    """Return when `pid` started, in clock ticks since boot: with the pid it names a process for good.

    None when there is no such process, or only a zombie of it.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _children(pid: int) -> list[int]:
    pids: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                pids += map(int, file.read().split())
    except (OSError, ValueError):
        pass  # it ended meanwhile
    return pids


def tree_rss_bytes(pid: int) -> int:
    """Return the resident size of `pid` and its descendants; 0 when it is gone. Shared pages count for each."""
    total = 0
    pids = [pid]
    while pids:
        pid = pids.pop()
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                total += int(file.read().split()[1]) * _PAGE_BYTES
        except (OSError, ValueError):
            continue  # it ended meanwhile
        pids += _children(pid)
    return total
