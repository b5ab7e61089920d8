"""The portable rest: poll, a pipe to wake up, a temporary file, and a thread that waits for the parent's end.

What macOS uses; forced on Linux by PROCBACKGROUND_PLATFORM=portable for the tests.
"""

from __future__ import annotations

import os
import select
import signal
import tempfile
import threading

HAS_PIDFD = False
STACK_SIGNAL = 0


class Poller:
    """Waits for descriptors."""

    def __init__(self) -> None:
        self._poll = select.poll()

    def watch(self, fd: int, *, writable: bool = False) -> None:
        """Report `fd` when it can be read, or with `writable` when it can be written."""
        self._poll.register(fd, select.POLLOUT if writable else select.POLLIN)

    def forget(self, fd: int) -> None:
        try:
            self._poll.unregister(fd)
        except KeyError:
            pass

    def poll(self, seconds: float | None = None) -> list[tuple[int, int]]:
        return self._poll.poll(None if seconds is None or seconds < 0 else seconds * 1000)

    def close(self) -> None:
        pass


class Wakeup:
    """Wakes the supervisor out of its wait, from any thread."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)

    def fileno(self) -> int:
        return self._read_fd

    def set(self) -> None:
        try:
            os.write(self._write_fd, b"\0")
        except (BlockingIOError, OSError):
            pass  # full means awake, closed means that nobody waits any more

    def drain(self) -> None:
        try:
            os.read(self._read_fd, 4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        fds = self._read_fd, self._write_fd
        self._read_fd = self._write_fd = -1  # first: a late `set` must not write into what gets this number next
        for fd in fds:
            os.close(fd)


def make_memory_file(name: str, size: int = 0) -> int:
    """Return a descriptor of a temporary file that has no path any more."""
    with tempfile.TemporaryFile(prefix=name) as file:
        fd = os.dup(file.fileno())
    if size:
        os.ftruncate(fd, size)
    return fd


def open_pidfd(pid: int) -> int | None:
    return None


def send_signal(pidfd: int | None, pid: int, signal_number: int) -> None:
    """Signal one process."""
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        pass


def arm_life_pipe(fd: int) -> int:
    """Kill this process's group when the last writer of the pipe `fd` is gone; return what to keep open.

    A thread blocks in a read of the pipe. It cannot run while other code holds the GIL; that is the price of
    being portable.
    """

    def wait_for_end() -> None:
        while True:
            try:
                if os.read(fd, 1) == b"":
                    break
            except OSError:
                return  # the task closed all descriptors; nothing to wait for any more
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=wait_for_end, name="procbackground-life", daemon=True).start()
    return fd


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory: not told here."""
    return 0


def descendants(pid: int) -> list[tuple[int, float]]:
    """Return (pid, start time) of every process below `pid`, whichever group or session it is in."""
    import psutil  # in the parent only

    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [(child.pid, start) for child in children if (start := start_time(child.pid)) is not None]


def start_time(pid: int) -> float | None:
    """Return when `pid` started: with the pid it names a process for good.

    None when there is no such process, or only a zombie of it.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def tree_rss_bytes(pid: int) -> int:
    """Return the resident size of `pid` and its descendants; 0 when it is gone. Shared pages count for each."""
    import psutil  # in the parent only

    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # it ended meanwhile
    return total
