"""The portable fallback: poll, a pipe for wake-ups, a temporary file, and a thread that waits for the parent's end.

macOS uses it; PROCBACKGROUND_PLATFORM=portable selects it on Linux, for the tests.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import threading
from collections.abc import Callable

from procbackground._platform.temporary import make_temporary_file

STACK_SIGNAL = 0

make_memory_file = make_temporary_file


class Poller:
    """Waits for descriptors."""

    def __init__(self) -> None:
        self._poll = select.poll()

    def watch(self, fd: int, *, writable: bool = False) -> None:
        """Report `fd` when it can be read, or with `writable` when it can be written."""
        self._poll.register(fd, select.POLLOUT if writable else select.POLLIN)

    def watch_wakeup(self, wakeup: Wakeup) -> None:
        """Report notifications until they are drained."""
        self.watch(wakeup.fileno())

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
    """Wakes the supervisor from its wait, from any thread."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        # A single call of C code: no signal handler runs before it is done. Raises: `BlockingIOError` when so many
        # notifications are unread that one more makes no difference.
        self.notify: Callable[[], object] = functools.partial(os.write, self._write_fd, b"\0")

    def fileno(self) -> int:
        return self._read_fd

    def drain(self) -> None:
        try:
            os.read(self._read_fd, 4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)


def has_pidfd() -> bool:
    """Whether there are pidfds here."""
    return False


def open_pidfd(pid: int) -> int | None:
    return None


def send_signal(pidfd: int | None, pid: int, signal_number: int) -> None:
    """Signal one process."""
    try:
        os.kill(pid, signal_number)
    except (ProcessLookupError, PermissionError):
        pass  # ended, or of another user, as after `sudo`


def open_life_pipe(fd: int) -> int:
    """Return the argument for `own_life_pipe`: here the pipe itself."""
    return fd


def own_life_pipe(own: int) -> None:
    """Kill this process's group, which it leads already, when the last writer of the pipe is gone.

    A thread blocks in a read of the pipe. Unlike the kernel, it cannot react while other code holds the GIL.
    """

    def wait_for_end() -> None:
        while True:
            try:
                if os.read(own, 1) == b"":
                    break
            except OSError:
                return  # the task closed all descriptors
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=wait_for_end, name="procbackground-life", daemon=True).start()


def end_if_over(own: int) -> None:
    """Do nothing: the thread of `own_life_pipe` also sees an end that came before it started."""


def rearm_life_pipe(own: int) -> None:
    """Do nothing: the thread of `own_life_pipe` is still there."""


def disarm_life_pipe(own: int) -> None:
    """Do nothing: only the zygote needs it, and there is none here."""


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed because memory ran out: unknown here."""
    return 0


def usage_of_dead(pid: int) -> tuple[int, float] | None:
    """Return highest resident size and CPU seconds of a child that has ended: unknown here."""
    return None


def why_not_running(pid: int) -> str | None:
    """Return why `pid` cannot run at the moment, as the end of a sentence; None when it can."""
    import psutil

    try:
        status = psutil.Process(pid).status()
    except psutil.Error:
        return "it had ended already"
    return {
        psutil.STATUS_STOPPED: "it was stopped, as by SIGSTOP",
        psutil.STATUS_ZOMBIE: "it had ended already",
    }.get(status)


def adopt_orphans() -> bool:
    """Make this process the parent of its descendants' orphans: not possible here."""
    return False


def has_children() -> bool:
    """Whether this process has children, zombies included; False where that is not to be found out quickly."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (AttributeError, ChildProcessError):
        return False  # macOS has no `waitid` before Python 3.13
    return True


def children(pid: int) -> list[int]:
    """Return the pids of the children of `pid`, zombies included."""
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def descendants(pid: int) -> list[tuple[int, float]]:
    """Return (pid, start time) of every process below `pid`, in whatever group or session."""
    import psutil  # in the parent only

    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [(child.pid, start) for child in children if (start := start_time(child.pid)) is not None]


def how_cut_off(pid: int, mapped_fd: int) -> str:
    """Return how a process that lives has lost its pipes: it is not known here."""
    return ""


def start_time(pid: int) -> float | None:
    """Return when `pid` started. Pid and start time together identify a process.

    None when there is no such process, or only a zombie of it.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def exit_code_of_zombie(pid: int) -> int | None:
    """Return the exit code of a process that has ended and was not reaped: not possible here."""
    return None


def is_stopped(pid: int) -> bool:
    """Return whether `pid` is stopped by a signal such as SIGSTOP."""
    import psutil

    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def total_memory_bytes() -> int:
    """Return the memory of the machine."""
    import psutil

    return int(psutil.virtual_memory().total)


def available_memory_bytes() -> int:
    """Return the memory that is available without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def peak_bytes(pid: int) -> int:
    """Return the highest resident size of `pid` so far: unknown here."""
    return 0
