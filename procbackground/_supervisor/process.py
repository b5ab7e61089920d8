"""One worker's process as the parent holds it: its pipes, its signals, its end; and starting one directly.

`Direct` starts each worker as a `multiprocessing` process of its own: what `spawn` and `fork` contexts ask for,
and what there is without a zygote (see `zygote`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import process as mp_process
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from procbackground import _platform
from procbackground._wire.parcel import Parcel, send_parcel
from procbackground._wire.pickling import main_is_importable
from procbackground._state.fleet import Worker
from procbackground._supervisor.warden import Warden
from procbackground._wire.frames import FrameReader
from procbackground._worker.entry import Fd, run_worker
from procbackground._worker.main import Boot

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

EXIT_S = 0.2  # for a process that has closed everything to have ended
LOG_TAIL = 10  # records of a worker that are kept to explain its death; what was said last says most
NOTES_LIMIT = 65536  # of a stack dump that we read; deeper stacks than that repeat themselves


class Stock(NamedTuple):
    """What was to be seen right after a process had ended at a task: its CPU seconds, and the machine's count of OOM
    kills; None for what was not looked at."""

    used_s: float | None
    oom_kills: int | None


class WorkerProcess:
    """The process of a worker, from the parent's side."""

    __slots__ = (
        "closed", "death_fd", "descendants", "ended_s", "ends_tasks", "exit_code", "is_dying", "launcher", "logged",
        "notes_fd", "notes_seen", "peak_bytes", "pid", "pidfd", "process", "reader", "result_fd", "side_fd", "stock",
        "task_fd", "unsent", "worker",
    )  # fmt: skip

    def __init__(
        self,
        launcher: Launcher,
        pid: int,
        task_fd: int,
        result_fd: int,
        side_fd: int,
        death_fd: int,
        pidfd: int | None,
        notes_fd: int,
        process: BaseProcess | None = None,
    ) -> None:
        self.launcher = launcher
        self.pid = pid
        self.task_fd = task_fd  # -1 once closed
        self.result_fd = result_fd  # -1 once at its end
        self.side_fd = side_fd
        self.death_fd = death_fd  # readable when the process has ended
        self.pidfd = pidfd
        self.notes_fd = notes_fd
        self.notes_seen = 0
        self.process = process
        self.exit_code: int | None = None
        self.logged: deque[tuple[int, bytes]] | None = None  # last records, each with the number of its request
        self.is_dying = False
        self.ended_s = 0.0  # when that was seen; monotonic
        self.ends_tasks = False  # the task pipe is to be closed, as soon as nobody writes to it
        self.closed = False
        self.stock: Stock | None = None
        self.peak_bytes = 0  # most that it held by itself, as far as it was asked, or the system told at its end
        self.descendants: dict[int, float] = {}  # pid -> start time, listed before the first signal
        self.reader = FrameReader()
        self.unsent: memoryview | None = None
        self.worker: Worker | None = None  # set once the supervisor has it
        for fd in (task_fd, result_fd, side_fd):
            os.set_blocking(fd, False)

    def write(self, data: bytes | memoryview) -> memoryview | None:
        """Write to the worker; return what the pipe has no room for."""
        try:
            written = os.write(self.task_fd, data)
        except BlockingIOError:
            written = 0
        except OSError:
            return None  # it died: its death is noticed elsewhere, and the jobs go to another
        return None if written == len(data) else memoryview(data)[written:]

    def send_parcel(self, parcel: Parcel) -> None:
        """Send the descriptor of a parcel; the request with its label comes after it."""
        try:
            send_parcel(self.side_fd, parcel)
        except OSError:
            # It is dead, or there is no way to pass descriptors now: without it the worker cannot go on, and its
            # jobs, which it has not begun, go to another.
            self.signal_group(signal.SIGKILL)

    def signal_group(self, signal_number: int) -> None:
        """Signal the worker and what it started in its group.

        Until it is released its pid cannot be used again, so no stranger is met.
        """
        try:
            os.killpg(self.pid, signal_number)
        except (ProcessLookupError, PermissionError):
            # It has not made itself a group leader yet (or macOS reports a group of zombies this way).
            _platform.send_signal(self.pidfd, self.pid, signal_number)

    def list_descendants(self) -> None:
        """Note what the worker has started, while it can still be found below it, and what it held."""
        self.peak_bytes = max(self.peak_bytes, _platform.peak_bytes(self.pid))
        self.descendants.update(_platform.descendants(self.pid))

    def kill_tree(self) -> None:
        """End the worker, its group, and what it started that has left the group."""
        if not self.is_dying:  # the dead have no children any more: only those listed before are known
            self.list_descendants()
        self.signal_group(signal.SIGKILL)
        for pid, start in self.descendants.items():
            if _platform.start_time(pid) == start:
                for child, child_start in _platform.descendants(pid):
                    if _platform.start_time(child) == child_start:
                        _platform.send_signal(None, child, signal.SIGKILL)
                _platform.send_signal(None, pid, signal.SIGKILL)

    def ask_for_stack(self) -> bool:
        """Have the child dump its Python stacks; return False where that is not possible."""
        if not _platform.STACK_SIGNAL:
            return False
        self.notes_seen = self._notes_size()
        _platform.send_signal(self.pidfd, self.pid, _platform.STACK_SIGNAL)
        return True

    def read_notes(self) -> str | None:
        """Return what the child has noted since `ask_for_stack`, or since its start; None when that is nothing."""
        size = self._notes_size() - self.notes_seen
        if size <= 0:
            return None
        try:
            return os.pread(self.notes_fd, min(size, NOTES_LIMIT), self.notes_seen).decode(errors="replace")
        except OSError:
            return None

    def note_record(self, sequence: int, body: bytes) -> None:
        """Keep what the worker logged, for the case that it dies."""
        if self.logged is None:
            self.logged = deque(maxlen=LOG_TAIL)
        self.logged.append((sequence, body))

    def log_tail(self, sequence: int) -> tuple[bytes, ...]:
        """Return the last records that came while request `sequence` ran; 0 stands for before the first."""
        return tuple(body for number, body in self.logged or () if number == sequence)

    def _notes_size(self) -> int:
        try:
            return os.fstat(self.notes_fd).st_size
        except OSError:
            return 0

    def close_tasks(self) -> None:
        """Let the worker know that nothing more will come."""
        fd, self.task_fd = self.task_fd, -1  # first: a fork in another thread closes what it finds here
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Let go of all descriptors, and of the pid."""
        if self.closed:
            return
        self.closed = True
        self.close_tasks()
        fds = {self.result_fd, self.notes_fd, self.side_fd}
        if self.pidfd is not None:
            fds.add(self.pidfd)
        for fd in fds:
            if fd >= 0:
                os.close(fd)
        self.side_fd = self.notes_fd = -1
        self.launcher.release(self)


START_FDS = 20  # what starting a process through `multiprocessing` opens at most, its own helpers included


def check_room_for_start() -> None:
    """Raise `OSError` unless there are descriptors for the start of a process.

    `multiprocessing` does not close those that it got when it runs out amid a start: each try would cost some more.
    """
    held: list[int] = []
    try:
        for _ in range(START_FDS):
            held.append(os.open(os.devnull, os.O_RDONLY))  # noqa: PERF401  # those before a failure are to be closed
    finally:
        for fd in held:
            os.close(fd)


# Told of a worker whose process did not start, why, and whether another try may do better.
LaunchFailed: TypeAlias = Callable[[Worker, Exception, bool], None]


def is_passing(error: Exception) -> bool:
    """Whether a failed start is the machine's state of the moment, not a mistake that will repeat itself."""
    return isinstance(error, (OSError, EOFError))  # EOFError: the fork server died, and is started again


class Launcher(Protocol):
    """Starts the processes of workers."""

    def launch(self, worker: Worker) -> None:
        """Start a process for `worker`; tells `launched` or `launch_failed` of the supervisor, now or later."""

    def exit_code_of(self, process: WorkerProcess) -> int | None:
        """Return the exit code of a process that has ended, or None while it is not known."""

    def release(self, process: WorkerProcess) -> None:
        """The pid may be used again."""

    def close(self) -> None:
        """Let go of everything; no worker lives any more."""

    def expects_exit_code(self, process: WorkerProcess) -> bool:
        """Whether an exit code that is not known yet will be told."""
        ...

    def preload(self, module: str) -> None:
        """Workers started later should have imported `module` already, if that is possible."""


@contextlib.contextmanager
def startable_main() -> Iterator[None]:
    """Hide a `__main__.__file__` that is no file, such as "<stdin>": the child would try to run it."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if main is None or path is None or main_is_importable():
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = path


def main_path(context: BaseContext) -> str | None:
    """Return the script that is `__main__` here, for children that have to run it to have it too."""
    main = sys.modules.get("__main__")
    has_name = getattr(getattr(main, "__spec__", None), "name", None) is not None
    path = getattr(main, "__file__", None)  # None once the script has ended, too
    if context.get_start_method() == "fork" or has_name or path is None or not main_is_importable():
        return None
    folder = getattr(mp_process, "ORIGINAL_DIR", None) or ""  # of the time when a relative path was right
    return os.path.normpath(os.path.join(folder, path))


def name_process(name: str, boot: Boot, context: Any) -> str:
    """Return `name`, such that it brings the setup of the manager's children with it, if they have one."""
    method = context.get_start_method()
    if boot.setup is None or method == "fork":
        return name
    from procbackground._submit.setup import EarlyName, leave_main_to_children

    if method == "forkserver":
        leave_main_to_children(context)
    return EarlyName(name, boot.setup)


@contextlib.contextmanager
def interrupts_held_back(method: str) -> Iterator[None]:
    """Have a child start with SIGINT blocked: Ctrl-C is the parent's, also while a child is still importing.

    The worker unblocks it once it ignores it. A fork server is not to inherit this, as it has children of others.
    """
    if method == "forkserver":
        yield
        return
    if method == "spawn":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # which unblocks the signal on its way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Direct:
    """Starts each worker by the context's own `Process`."""

    def __init__(
        self,
        context: BaseContext,
        boot: Boot,
        page_fd: int,
        life_fd: int,
        launched: Callable[[Worker, WorkerProcess], None],
        launch_failed: LaunchFailed,
        warden: Warden,
    ) -> None:
        self._warden = warden
        self._context: Any = context
        self._boot = boot
        self._page_fd = page_fd
        self._life_fd = life_fd
        self._launched = launched
        self._launch_failed = launch_failed

    def launch(self, worker: Worker) -> None:
        self._warden.start()
        fds: list[int] = []
        try:
            check_room_for_start()
            task_read, task_write = os.pipe()
            fds += (task_read, task_write)
            result_read, result_write = os.pipe()
            fds += (result_read, result_write)
            notes_fd = _platform.make_memory_file("procbackground-notes")
            fds.append(notes_fd)
            side_fd, their_side = (each.detach() for each in socket.socketpair())
            fds += (side_fd, their_side)
            theirs = [Fd(fd) for fd in (task_read, result_write, self._life_fd, notes_fd, their_side, self._page_fd)]
            # A forked child has our ends, too. Holding the other end of its own task pipe, it would never see it close.
            ours = (task_write, result_read, side_fd) if self._context.get_start_method() == "fork" else ()
            process = self._context.Process(
                target=run_worker,
                name=name_process(f"procbackground-worker-{worker.number}", self._boot, self._context),
                args=(theirs, ours, worker.number, worker.line, self._boot),
                daemon=False,  # a daemonic process may not start children of its own
            )
            with startable_main(), interrupts_held_back(self._context.get_start_method()):
                process.start()
        except Exception as error:
            for fd in fds:
                os.close(fd)
            self._launch_failed(worker, error, is_passing(error))
            return
        for fd in (task_read, result_write, their_side):
            os.close(fd)
        # The fork server reaps its children at once, so that a pid is no handle on them; then the sentinel is.
        own_child = self._context.get_start_method() != "forkserver"
        pidfd = _platform.open_pidfd(process.pid) if own_child else None
        death_fd = process.sentinel if pidfd is None else pidfd
        self._launched(
            worker,
            WorkerProcess(
                self, process.pid, task_write, result_read, side_fd, death_fd, pidfd, notes_fd, process
            ),
        )

    def exit_code_of(self, process: WorkerProcess) -> int | None:
        assert process.process is not None
        if process.pidfd is not None:
            process.peak_bytes = max(process.peak_bytes, _platform.peak_of_dead(process.pid) or 0)
        # A sentinel that is a pipe is at its end when the process closes it, a moment before it can be waited for.
        process.process.join(EXIT_S)
        return process.process.exitcode

    def expects_exit_code(self, process: WorkerProcess) -> bool:
        return False  # `multiprocessing` knows it once the sentinel is ready

    def release(self, process: WorkerProcess) -> None:
        child = process.process
        assert child is not None
        child.join(1.0)  # has ended: this only reaps it
        try:
            child.close()
        except ValueError:
            pass  # still there: `multiprocessing` reaps it when it next looks

    def close(self) -> None:
        pass

    def preload(self, module: str) -> None:
        pass


def wait_for_exit(process: BaseProcess, timeout_s: float) -> int | None:
    """Wait for a helper process to end by itself, then end it; return its exit code."""
    process.join(timeout_s)
    if process.exitcode is None and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
        until_s = time.monotonic() + 1.0
        while process.exitcode is None and time.monotonic() < until_s:
            process.join(0.05)
    exit_code = process.exitcode
    try:
        process.close()
    except ValueError:
        pass  # unkillable: left to the life pipe
    return exit_code
