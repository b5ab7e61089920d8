"""What Linux provides: epoll, eventfd, pidfd, memfd, and a pipe whose end the kernel turns into SIGKILL.

There are no `sys.platform` guards here: `_platform` imports this on Linux only.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import select
import signal
import sys
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Dumps the stacks of a child. A real-time signal, far from those that libraries use; 0 where there is none.
STACK_SIGNAL = int(signal.SIGRTMIN) + 11

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")

_WAITID = {"x86_64": 247, "aarch64": 95, "riscv64": 95}  # the system call, where it was looked up
_PR_SET_CHILD_SUBREAPER = 36

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT


# Of a call that this Python was built without, that this kernel has not, or that a container's profile forbids.
_REFUSALS = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES})


def is_refused(error: Exception) -> bool:
    """Whether the call that raised `error` can never work here, so that another way must be taken."""
    return isinstance(error, AttributeError) or getattr(error, "errno", None) in _REFUSALS


class Poller:
    """Waits for descriptors. Each is registered once, not for each wait."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.poll = self._epoll.poll  # (seconds or None) -> [(descriptor, events)]

    def watch(self, fd: int, *, writable: bool = False) -> None:
        """Report `fd` when it can be read, or with `writable` when it can be written."""
        self._epoll.register(fd, WRITABLE if writable else READABLE)

    def watch_wakeup(self, wakeup: Wakeup) -> None:
        """Report each notification once: so none has to be read, which saves a system call."""
        self._epoll.register(wakeup.fileno(), READABLE | select.EPOLLET)

    def forget(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass  # not registered

    def close(self) -> None:
        self._epoll.close()


class Wakeup:
    """Wakes the supervisor from its wait, from any thread."""

    def __init__(self) -> None:
        # `notify` is a single call of C code: no signal handler runs before it is done. Raises: `BlockingIOError` when
        # so many notifications are unread that one more makes no difference.
        self.notify: Callable[[], object]
        self._fds: tuple[int, ...]
        try:
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._fds = (fd,)
            self.notify = functools.partial(os.eventfd_write, fd, 1)
        except (AttributeError, OSError) as error:
            if not is_refused(error):
                raise
            self._fds = os.pipe()
            for fd in self._fds:
                os.set_blocking(fd, False)
            self.notify = functools.partial(os.write, self._fds[1], b"\0")

    def fileno(self) -> int:
        return self._fds[0]

    def drain(self) -> None:
        """Of an eventfd there is nothing to read: the poller reports each notification once."""
        if len(self._fds) > 1:
            try:
                os.read(self._fds[0], _PAGE_BYTES)
            except BlockingIOError:
                pass

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


def make_memory_file(name: str, size: int = 0) -> int:
    """Return a descriptor of a file in memory without a path. It is freed with its last descriptor, also by SIGKILL.

    Where there are no such files, it is a temporary one.
    """
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
    except (AttributeError, OSError) as error:
        if not is_refused(error):
            raise
        from procbackground._platform.temporary import make_temporary_file  # the warden has not this package

        return make_temporary_file(name, size)
    try:
        if size:
            os.ftruncate(fd, size)  # sparse: a page counts only once it is touched
    except OSError:
        os.close(fd)
        raise
    return fd


def has_pidfd() -> bool:
    """Whether there are pidfds here."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        return not is_refused(error)
    return True


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when `pid` ends; None without such a process, or without pidfds."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError) as error:
        if isinstance(error, ProcessLookupError) or is_refused(error):
            return None
        raise


def send_signal(pidfd: int | None, pid: int, signal_number: int) -> None:
    """Signal one process, through its pidfd if there is one: a pid may be reused."""
    try:
        if pidfd is not None:
            signal.pidfd_send_signal(pidfd, signal_number)
            return
    except ProcessLookupError:
        return
    except (AttributeError, OSError) as error:
        if not is_refused(error):
            raise
    try:
        os.kill(pid, signal_number)
    except (ProcessLookupError, PermissionError):
        pass  # ended, or of another user, as after `sudo`


def open_life_pipe(fd: int) -> int:
    """Open the pipe `fd` again, for a process that the kernel shall kill when the last writer of the pipe is gone.

    The receiver of the signal is a property of the open file, so each process needs its own: of a shared one, only the
    last receiver would be killed. There is no receiver before `own_life_pipe`.
    """
    own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    return own


def own_life_pipe(own: int, leader: int = 0) -> None:
    """Make the kernel kill the group of `leader`, by default this process, at the end of the pipe.

    This also works while C code holds the GIL, when no thread could react.
    """
    fcntl.fcntl(own, fcntl.F_SETOWN, -(leader or os.getpid()))


def rearm_life_pipe(own: int) -> None:
    """Make the kernel kill this process's group again, after `disarm_life_pipe`."""
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    end_if_over(own)


def end_if_over(own: int) -> None:
    """Kill this process's group if the parent died before `own_life_pipe`, or before this process led the group."""
    poll = select.poll()
    poll.register(own, 0)  # its end is reported all the same
    if poll.poll(0):
        os.killpg(0, signal.SIGKILL)


def disarm_life_pipe(own: int) -> None:
    """Make the kernel send only SIGCONT at the parent's end: this process polls the pipe itself and cleans up, which it
    could not do while it is stopped (SIGSTOP)."""
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGCONT)


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed since boot because memory ran out."""
    try:
        fd = os.open("/proc/vmstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    text = b""
    try:
        while more := os.read(fd, _PAGE_BYTES):
            text += more
    finally:
        os.close(fd)
    _, found, rest = text.partition(b"\noom_kill ")
    return int(rest.split(maxsplit=1)[0]) if found else 0


@functools.cache
def _usage_call() -> tuple[Callable[..., int], int, Callable[[], Any], Callable[[], Any]] | None:
    """Return `syscall`, the number of `waitid`, and factories of its two buffers; None where the number is unknown."""
    number = _WAITID.get(os.uname().machine) if sys.maxsize > 1 << 32 else None
    if number is None:
        return None
    import ctypes  # 4 ms, which most processes do not need

    # The buffers are larger than a siginfo_t and a struct rusage.
    return ctypes.CDLL(None).syscall, number, ctypes.c_byte * 128, ctypes.c_long * 36


def usage_of_dead(pid: int) -> tuple[int, float] | None:
    """Return highest resident size in bytes and CPU seconds of a child that has ended and was not waited for.

    They are its `ru_maxrss`, and the sum of its times and of those of the children that it waited for. It remains a
    zombie: only the raw system call reports the usage without reaping. None where it is not available.
    """
    try:
        found = _usage_call()
    except (OSError, ImportError):
        return None  # no descriptor is left to load the library
    if found is None:
        return None
    system_call, number, make_info, make_usage = found
    info, usage = make_info(), make_usage()
    if system_call(number, os.P_PID, pid, info, os.WEXITED | os.WNOHANG | os.WNOWAIT, usage) or not usage[4]:
        return None
    return usage[4] * 1024, usage[0] + usage[2] + (usage[1] + usage[3]) / 1e6


def adopt_orphans() -> bool:
    """Make this process the parent of its descendants' orphans, in place of init; return whether that worked."""
    try:
        import _ctypes  # 0.6 ms, where `ctypes` takes 4: a manager's first worker waits for this

        prctl = _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), "prctl")  # type: ignore[arg-type]
        return int(_ctypes.call_function(prctl, (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))) == 0
    except (OSError, ImportError):
        return False  # there is no C library, or no descriptor is left to load it


def why_not_running(pid: int) -> str | None:
    """Return why `pid` cannot run at the moment, as the end of a sentence; None when it can."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return "it had ended already"
    return {
        b"T": "it was stopped, as by SIGSTOP",
        b"t": "a debugger had stopped it",
        b"D": "it was in a system call that cannot be interrupted",
        b"Z": "it had ended already",
    }.get(state)


def how_cut_off(pid: int, mapped_fd: int) -> str:
    """Return how a process that lives has lost its pipes, to be read after "worker 17 "; "" where it does not live.

    Args:
        mapped_fd: of a file that it has mapped, unless it runs another program by now.
    """
    facts = os.fstat(mapped_fd)
    file_in_maps = f" {os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x} {facts.st_ino} "
    try:
        program = os.readlink(f"/proc/{pid}/exe")
        with open(f"/proc/{pid}/maps") as file:
            maps = file.read()
    except (OSError, UnicodeDecodeError):
        return ""  # it has ended, or is another user's by now
    if file_in_maps in maps:
        return "closed the pipe for its answers"
    return f"was replaced by another program ({program})" if maps else ""


def descendants(pid: int) -> list[tuple[int, int]]:
    """Return (pid, start time) of every process below `pid`, in whatever group or session."""
    found = []
    pids = [pid]
    while pids:
        for child in children(pids.pop()):
            start = start_time(child)
            if start is not None:
                found.append((child, start))
                pids.append(child)
    return found


def start_time(pid: int) -> int | None:
    """Return when `pid` started, in clock ticks since boot. Pid and start time together identify a process.

    None when there is no such process, or only a zombie of it.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def exit_code_of_zombie(pid: int) -> int | None:
    """Return the exit code of a process that has ended and was not reaped, of any parent; None if unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        # The kernel shows 0 in place of the exit code of a process with another user.
        if fields[0] != b"Z" or os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return None
        return os.waitstatus_to_exitcode(int(fields[49]))  # field 52 of proc(5)
    except (OSError, ValueError, IndexError):
        return None


def is_stopped(pid: int) -> bool:
    """Return whether `pid` is stopped by a signal such as SIGSTOP."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split(None, 1)[0] == b"T"
    except (OSError, IndexError):
        return False


def has_children() -> bool:
    """Whether this process has children, zombies included. It takes 1 µs."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def children(pid: int) -> list[int]:
    """Return the pids of the children of `pid`, zombies included."""
    pids: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                pids += map(int, file.read().split())
    except (OSError, ValueError):
        pass  # it has ended
    return pids


def total_memory_bytes() -> int:
    """Return the memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_memory_bytes() -> int:
    """Return the kernel's estimate of the memory that is available without swapping (MemAvailable)."""
    with open("/proc/meminfo", "rb") as file:
        for line in file:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * _PAGE_BYTES  # kernels before 3.14


def peak_bytes(pid: int) -> int:
    """Return the highest resident size of `pid` so far (VmHWM); 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0
