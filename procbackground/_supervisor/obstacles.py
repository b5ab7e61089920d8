"""What keeps a process from being started: whether to wait, to try again or to give up, and what the user can do.

Only the lack of something that others may return is waited for. Everything else would fail again and again, while tasks
wait without an end in sight.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import current_process
from typing import Any

from procbackground._state import launches
from procbackground._state.job import Job
from procbackground._supervisor.machine import total_memory_bytes
from procbackground.errors import MemoryLimitError

# Somebody may close descriptors, end processes, or free memory and disk.
_LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC})
_REFUSALS = frozenset({errno.EPERM, errno.ENOSYS, errno.EACCES})

EXEC_FAILED = 255  # exit code of a child of `multiprocessing` that could not execute its program
NEVER_FREE_S = 1.0  # for memory of which the machine has not so much: as long as a close that follows may take
FORK_SERVER_END_S = 0.5  # between the end of the fork server's socket and its exit code
START_FDS = 20  # what starting a process through `multiprocessing` opens at most, its own helpers included


class HelperLost(ConnectionError):
    """The process that starts workers, the zygote or the fork server, has ended. It is started again.

    Attributes: `was_killed`: by a signal from outside.
    """

    def __init__(self, message: str, *, was_killed: bool) -> None:
        super().__init__(message)
        self.was_killed = was_killed


def kind_of(error: Exception) -> str:
    """Return which kind of failure, of those in `_state.launches`, a failed start is."""
    if isinstance(error, HelperLost):
        return launches.KILLED if error.was_killed else launches.LOST
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _LACKS):
        return launches.SHORTAGE
    return launches.FINAL


def advice(error: BaseException) -> str:
    """Return what the user can do about a start that failed with `error`, to end a sentence; empty if unknown."""
    try:
        os.getcwd()
    except OSError:
        return (
            "; the current directory is gone, from which `multiprocessing` starts processes: enter one that exists "
            "(os.chdir) before you make a manager"
        )
    if isinstance(error, AssertionError) and "daemonic" in str(error):
        return (
            "; make the manager in a process that is not daemonic: a `multiprocessing.Process` with daemon=False, or "
            "a `concurrent.futures.ProcessPoolExecutor` in place of a `multiprocessing.Pool`"
        )
    if isinstance(error, OSError) and "AF_UNIX path too long" in str(error):
        return (
            "; the fork server has a socket in the folder for temporary files, whose path is too long: set TMPDIR to "
            "a shorter one, or give mp_context='spawn'"
        )
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return (
            "; the system refuses a call that starting a process takes: look at the permissions of this user, and at "
            "the security profile (seccomp, AppArmor, SELinux) of the container or service"
        )
    return ""


def check_main_is_imported(method: str) -> None:
    """Raise `WorkerStartError` in a process that `multiprocessing` is starting, while that imports the main module.

    The lines that start a manager are not for it. `multiprocessing` refuses each start there, too, but by a fork.
    """
    if method != "fork" and getattr(current_process(), "_inheriting", False):
        from procbackground.errors import WorkerStartError

        raise WorkerStartError(
            "a worker imports the main module, and that starts a manager of its own; put the lines that start one "
            "below `if __name__ == '__main__':`"
        )


def check_executable() -> None:
    """Raise `FileNotFoundError` or `PermissionError` if `multiprocessing` would start what is no program.

    `multiprocessing` itself does not notice: the child dies without a word.
    """
    from multiprocessing import spawn

    name: Any = spawn.get_executable()
    path = os.fsdecode(name or "")
    kind: type[OSError]
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        kind, what = FileNotFoundError, "does not exist"
    except OSError:
        return  # it may be possible all the same
    else:
        if stat.S_ISREG(mode) and mode & 0o111:
            return
        kind, what = PermissionError, "is no program"
    raise kind(
        f"`multiprocessing` takes {path!r} for the Python interpreter, which {what}: was the environment of this "
        f"program removed, or is Python embedded in another? multiprocessing.set_executable() names the right one"
    )


def advice_on_exit(exit_code: int | None) -> str:
    """Return what an exit code may mean that Python itself does not use, to end a sentence; empty for others."""
    if exit_code != EXEC_FAILED:
        return ""
    from multiprocessing import spawn

    path = os.fsdecode(spawn.get_executable() or "")
    return f"; perhaps {path!r} could not be executed, or was no Python interpreter"


@contextmanager
def fork_server_watched(method: str) -> Iterator[None]:
    """Say what became of the fork server of `multiprocessing` where a start failed because it is gone. May block.

    Raises: `HelperLost` in place of the errors of a connection that ended; `BlockingIOError` if there is no room for
    the processes that are needed: the fork server does not survive that.
    """
    if method != "forkserver":
        yield
        return
    from multiprocessing import forkserver, resource_tracker

    server: Any = forkserver._forkserver
    tracker: Any = resource_tracker._resource_tracker
    is_new = server._forkserver_pid is None
    if is_new:
        check_executable()
    _check_room_for_processes(1 + is_new + (getattr(tracker, "_fd", None) is None))
    try:
        yield
    except (ConnectionError, EOFError, ChildProcessError) as error:
        if isinstance(error, HelperLost):
            raise
        unread_pid = _pid_of_unread(error)
        exit_code = _exit_code_of_child(server._forkserver_pid if unread_pid is None else unread_pid)
        _reap(unread_pid)
        traceback.clear_frames(error.__traceback__)  # which hold the pipes to what was to start, as long as the error
        # Without an exit code it may live, and what it forked may have been killed.
        doubt = ", or what it forked," if exit_code is None else ""
        raise _lost(f"the fork server of `multiprocessing`{doubt}", exit_code) from error


@contextmanager
def spawn_watched(method: str) -> Iterator[None]:
    """Say what became of a spawned worker that ended before it was sent its start data. May block.

    Raises: `HelperLost` in place of the `BrokenPipeError` of Python 3.14. Before that such a start succeeds.
    """
    if method != "spawn":
        yield
        return
    try:
        yield
    except BrokenPipeError as error:
        pid = _pid_of_unread(error)
        exit_code = _exit_code_of_child(pid)
        _reap(pid)
        raise _lost("a worker", exit_code) from error


def _lost(what: str, exit_code: int | None) -> HelperLost:
    if exit_code is None:
        return HelperLost(f"{what} is gone", was_killed=False)
    from procbackground.errors import death_phrase

    return HelperLost(f"{what} {death_phrase(exit_code)}{advice_on_exit(exit_code)}", was_killed=exit_code < 0)


def _pid_of_unread(error: BaseException) -> int | None:
    """Return the pid of the process that had ended when `multiprocessing` wrote to it for the first time.

    Since Python 3.14 that fails. The pid is known to the function that failed only, and nothing else reaps the process.
    """
    step = error.__traceback__
    while step is not None:
        # A frame is asked for its variables only where that is needed: before Python 3.13 it keeps them afterwards.
        code = step.tb_frame.f_code
        if code.co_name == "ensure_running" and "authkey_w" in code.co_varnames:
            return step.tb_frame.f_locals.get("pid")
        if code.co_name == "_launch" and "parent_w" in code.co_varnames:
            return getattr(step.tb_frame.f_locals.get("self"), "pid", None)
        step = step.tb_next
    return None


def _reap(pid: int | None) -> None:
    if pid is not None:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def _exit_code_of_child(pid: int | None) -> int | None:
    """Return the exit code of a child that is about to end, and leave it to be reaped; None if it is unknown."""
    if pid is None:
        return None
    until_s = time.monotonic() + FORK_SERVER_END_S
    while True:
        try:
            status: Any = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        if status is not None:
            return int(status.si_status if status.si_code == os.CLD_EXITED else -status.si_status)
        if time.monotonic() > until_s:
            return None
        time.sleep(0.005)


def _check_room_for_processes(count: int) -> None:
    """Raise `BlockingIOError` unless the system gives this user so many more processes.

    Threads count as processes do, and are quicker to try.
    """
    may_end = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=may_end.wait, name="procbackground-probe", daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError as error:
        if "shutdown" not in str(error):  # Python 3.12 and later have no threads while the interpreter exits
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
    finally:
        may_end.set()
        for thread in threads:
            thread.join()


def patience_s(min_free_bytes: int | None, start_timeout_s: float) -> float:
    """Return how long tasks wait for so much free memory at the most, while none runs."""
    if min_free_bytes is not None and min_free_bytes >= total_memory_bytes():
        return min(NEVER_FREE_S, start_timeout_s)
    return start_timeout_s


def starved_error(job: Job, free_bytes: int, min_free_bytes: int) -> MemoryLimitError:
    """Return the error of a task that did not begin because memory was short for too long."""
    total_bytes = total_memory_bytes()
    if min_free_bytes >= total_bytes:
        advice = f"there are {total_bytes / 2**20:.0f} MiB in all, so give the manager a smaller min_free_memory"
    else:
        advice = (
            "no task of this manager runs, so others hold it: end these, or give the manager a smaller "
            "min_free_memory, or a longer start_timeout, for which it waits"
        )
    return MemoryLimitError(
        f"task {job.recipe.name!r} could not begin: {free_bytes / 2**20:.0f} MiB of memory are free, fewer than "
        f"min_free_memory ({min_free_bytes / 2**20:.0f} MiB); {advice}",
        task=job.handle.task,
        limit=min_free_bytes,
    )


@contextmanager
def room_for_start() -> Iterator[None]:
    """Raise `OSError` unless there are descriptors for the start of a process.

    `multiprocessing` does not close those that it got when it runs out in the middle of a start: each try would cost
    some more.
    """
    held: list[int] = []
    try:
        for _ in range(START_FDS):
            held.append(os.open(os.devnull, os.O_RDONLY))  # noqa: PERF401  # the caller closes those opened before a failure
    finally:
        for fd in held:
            os.close(fd)
    yield
