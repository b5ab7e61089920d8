"""A head start: the interpreter of the first zygote is started before the manager is made.

An interpreter and the child's modules take longer to load than the parent's side, so both load at the same time. Once
the manager has its first task, `_supervisor.adoption` makes a process of `multiprocessing` of it. Only the first
manager of a process has one: later ones fork theirs from the fork server, which takes half the time once it runs.
Imports nothing that the parent would not need before its first result.
"""

from __future__ import annotations

import _socket
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PROGRAM = (
    # The collector would find nothing, and take a tenth of the time.
    "import gc, sys; gc.disable(); sys.path[:] = sys.argv[2:]; from procbackground._worker.adopted import main; "
    # As nearly all main modules, which are imported next, and as `runpy`, which does that: 5 ms with `typing`. And what
    # logs on its behalf.
    "import procbackground.manager, pkgutil, procbackground._worker.log_handler; "
    "gc.enable(); main(int(sys.argv[1]))"
)
# Those that `subprocess` turns into arguments, as `multiprocessing` has it do.
_FLAGS = (
    "debug", "dont_write_bytecode", "no_site", "verbose", "bytes_warning", "quiet", "optimize", "isolated",
    "ignore_environment", "no_user_site", "safe_path", "dev_mode",
)  # fmt: skip

_was_given = False
_present: HeadStart | None = None


class HeadStart:
    """An interpreter that loads what a zygote needs, and waits for a message through `socket`."""

    def __init__(self, pid: int, pidfd: int, control: Any) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.socket = control
        self._parent_pid = os.getpid()

    def give_up(self) -> None:
        """End the process. In a fork of its parent, only close what was inherited."""
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd < 0:
            return
        self.socket.close()
        try:
            if os.getpid() == self._parent_pid:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        except OSError:
            pass  # the program has waited for it, or has its children reaped by the system
        finally:
            os.close(pidfd)

    def __del__(self) -> None:
        self.give_up()


def begin(mp_context: Any) -> None:
    """Start the interpreter, if the manager that is being made with this context is the first that can use one."""
    global _was_given, _present
    if _was_given or mp_context is not None or not _is_usual_start():
        return
    _was_given = True
    os.register_at_fork(after_in_child=drop)
    try:
        ours, theirs = _socket.socketpair()
    except OSError:
        return  # of too many open files, say: the usual start waits for that
    fd = theirs.fileno()
    try:
        if min(ours.fileno(), fd) <= 2:
            return  # a standard descriptor is closed: nothing else must become one
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        # Ctrl-C is the parent's, also while the child is still importing.
        mask = (mask | {signal.SIGINT}) - {signal.SIGCHLD}
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *_options(), "-c", _PROGRAM, str(fd), *(each for each in sys.path if type(each) is str)],
            os.environ,
            file_actions=[*_closes(), (os.POSIX_SPAWN_DUP2, fd, fd)],
            setsid=True,
            setsigmask=mask,
        )
        _present = HeadStart(pid, _pidfd_of(pid), ours)
    except (OSError, ValueError, NotImplementedError):
        pass  # the usual start says what is wrong
    finally:
        theirs.close()


def _pidfd_of(pid: int) -> int:
    """Return a pidfd of a child. Raises: `OSError`, with the child ended: without one it could not be followed."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def take() -> HeadStart | None:
    """Return the interpreter, which the caller has to end; None if there is none, or if it would not do any more."""
    global _present
    head_start, _present = _present, None
    return head_start if head_start is None or _is_usual_start() else None


def drop() -> None:
    """End an interpreter that was not taken."""
    global _present
    _present = None


def _is_usual_start() -> bool:
    """Whether a process of `multiprocessing`'s fork server would be as this one."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open") or getattr(sys, "frozen", False) or not sys.executable:
        return False
    if os.environ.get("PROCBACKGROUND_PLATFORM") == "portable":
        return False
    if "gevent.os" in sys.modules:
        return False  # whose `os.fork` is of the main thread only
    loaded: Any = sys.modules.get
    process, spawn, server = (loaded(f"multiprocessing.{name}") for name in ("process", "spawn", "forkserver"))
    if process is not None and (process.parent_process() or hasattr(process.current_process(), "_inheriting")):
        return False  # a child, which may be importing `__main__`
    if spawn is not None and os.fsdecode(spawn.get_executable() or "") != sys.executable:
        return False
    if server is None:
        return True
    # One that runs already is quicker, and modules that the user has it import are to be there.
    return server._forkserver._forkserver_pid is None and server._forkserver._preload_modules == ["__main__"]


def _options() -> list[str]:
    """Return the interpreter's options, as `multiprocessing` gives them to its children."""
    if not sys.warnoptions and not sys._xoptions:
        given = [name for name in _FLAGS if getattr(sys.flags, name)]
        if not given or given == ["dont_write_bytecode"]:  # as many images of containers have it
            return ["-B"] if given else []
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]  # 6 ms with all that it imports

    return _args_from_interpreter_flags()  # type: ignore[no-any-return]


def _closes() -> list[tuple[int, int]]:
    """Return what closes the descriptors in the child that programs would inherit."""
    closes = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                closes.append((os.POSIX_SPAWN_CLOSE, int(name)))
        except OSError:
            pass  # closed meanwhile, as that of the directory
    return closes
