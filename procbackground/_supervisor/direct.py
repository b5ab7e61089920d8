"""Starts each worker as a `multiprocessing` process of its own: for `spawn` and `fork` contexts, where there is no
zygote (see `zygote`), and those of a kind (see `kinds`)."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.spawn
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from typing import Any

from procbackground import _platform
from procbackground._load import load
from procbackground._state.fleet import Worker
from procbackground._supervisor.channel import Channel
from procbackground._supervisor.kinds import boot_of_kind
from procbackground._supervisor.obstacles import (
    check_executable,
    fork_server_watched,
    room_for_start,
    spawn_watched,
)
from procbackground._supervisor.process import NO_LOOK_S, LaunchFailed, WorkerProcess
from procbackground._supervisor.starter import Starter, wait_for_exit
from procbackground._supervisor.warden import Warden
from procbackground._wire.surroundings import EarlyName
from procbackground._worker.boot import Boot
from procbackground._worker.entry import Fd, run_worker

# Those of `multiprocessing` itself, and None: none was asked for yet. Since Python 3.14 `get_all_start_methods()` has
# those that other packages have added, too.
_OWN_METHODS = (None, "fork", "forkserver", "spawn")
UNWANTED_S = 1.0  # for a start under way when the manager closes: longer than most take


def make_main_startable() -> None:
    """Give `__main__` what `multiprocessing` looks for at each start, and debuggers leave out."""
    main: Any = sys.modules.get("__main__")
    if main is not None and not hasattr(main, "__spec__"):
        main.__spec__ = None


@contextlib.contextmanager
def known_start_method(method: str) -> Iterator[None]:
    """Hide a start method that other packages have added, as within a worker of loky: the child could not find it."""
    if multiprocessing.get_start_method(allow_none=True) in _OWN_METHODS:
        yield
        return
    names: Any = multiprocessing.spawn
    before = names.get_start_method
    names.get_start_method = lambda **_: method
    try:
        yield
    finally:
        names.get_start_method = before


def forget_foreign_fork_server(method: str) -> None:
    """Have `multiprocessing` start a fork server of this process's own, where the one it knows is another's child.

    So it is in a fork: there `multiprocessing` waits for a process that is not its child, and fails, each time.
    """
    if method != "forkserver":
        return
    from multiprocessing.forkserver import _forkserver

    server: Any = _forkserver
    pid = getattr(server, "_forkserver_pid", None)
    if pid is None:
        return
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        os.close(server._forkserver_alive_fd)  # a copy: the other process has its own
        server._forkserver_alive_fd = server._forkserver_address = server._forkserver_pid = None


def leave_main_to_children(context: Any) -> None:
    """Keep the fork server, if it is not running yet, from importing `__main__` itself (Python 3.13.8 and later).

    Its children would share the state of the module, and what it imports would have read its thread caps too early.
    """
    from multiprocessing.forkserver import _forkserver

    if getattr(_forkserver, "_preload_modules", None) == ["__main__"]:  # the default, not the user's choice
        context.set_forkserver_preload([])


def name_process(name: str, boot: Boot, context: Any) -> str:
    """Return `name`, such that it brings the surroundings and the setup of the manager's children with it."""
    method = context.get_start_method()
    if boot.surroundings is None or method == "fork":
        return name
    if method == "forkserver":
        leave_main_to_children(context)
    return EarlyName(name, boot.surroundings, boot.setup)


def is_at_end(pipe_fd: int) -> bool:
    """Whether a pipe has no writer any more, and was read to its end."""
    poll = select.poll()
    poll.register(pipe_fd, select.POLLIN)
    return any(not events & select.POLLIN for _, events in poll.poll(0))


def _start_fork_server() -> None:
    """Start the fork server, unless it runs, with SIGCHLD not blocked: by that it learns that a child has ended."""
    from multiprocessing import forkserver

    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def interrupts_held_back(method: str) -> Iterator[None]:
    """Have a child start with SIGINT blocked: Ctrl-C is the parent's, also while a child is still importing.

    The worker unblocks it once it ignores it. A fork server is not to inherit this, as it has children of others. A
    fork of this process starts with all signals blocked: it has this process's handlers at first.
    """
    if method == "forkserver":
        _start_fork_server()
        yield
        return
    if method == "spawn":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # which unblocks the signal on its way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() if method == "fork" else {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _discard(process: WorkerProcess) -> None:
    """End a process whose start was given up, and close its descriptors. Blocks."""
    process.kill_tree()
    wait_for_exit(process.process, 0.0)
    process.close()


class Direct:
    """Starts each worker by the context's own `Process`, in the starter's thread."""

    def __init__(
        self,
        context: BaseContext,
        boot: Boot,
        page_fd: int,
        life_fd: int,
        launched: Callable[[WorkerProcess], None],
        launch_failed: LaunchFailed,
        warden: Warden,
        starter: Starter,
        start_timeout_s: float,
    ) -> None:
        self._context: Any = context
        self._boot = boot
        self._page_fd = page_fd
        self._life_fd = life_fd
        self._launched = launched
        self._launch_failed = launch_failed
        self.warden = warden
        self._starter = starter
        self._start_timeout_s = start_timeout_s
        self._pending: dict[Worker, float] = {}  # asked for when
        self._unreported: set[WorkerProcess] = set()  # started, and not known to the supervisor yet

    def launch(self, worker: Worker) -> None:
        self._pending[worker] = time.monotonic()
        self._starter.do(lambda: self._start(worker), lambda process, error: self._ended(worker, process, error))

    def _ended(self, worker: Worker, process: WorkerProcess | None, error: Exception | None) -> None:
        is_awaited = self._pending.pop(worker, None) is not None
        if process is not None:
            self._unreported.discard(process)
            if is_awaited:
                self._launched(process)
            else:  # it was given up, and the supervisor may have ended
                self._starter.do(lambda: _discard(process), lambda _, error: None)
        elif is_awaited:
            assert error is not None
            self._launch_failed(worker, error)

    def _start(self, worker: Worker) -> WorkerProcess:
        """Start a process. Blocks, and raises what keeps it from being started."""
        self.warden.start()
        method = self._context.get_start_method()
        boot = self._boot if worker.kind is None else boot_of_kind(self._boot, worker.kind)
        fds: list[int] = []
        try:
            with room_for_start():
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
            ours = (task_write, result_read, side_fd) if method == "fork" else ()
            mask = None
            if method == "fork":
                load("procbackground._worker.alone")  # a fork must import nothing: another thread may hold the lock
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            process = self._context.Process(
                target=run_worker,
                name=name_process(f"procbackground-worker-{worker.number}", boot, self._context),
                args=(theirs, ours, worker.number, worker.line, boot, mask),
                daemon=False,  # a daemonic process may not start children of its own
            )
            forget_foreign_fork_server(method)
            if method == "spawn":
                check_executable()
            make_main_startable()
            with (
                fork_server_watched(method), spawn_watched(method),
                known_start_method(method), interrupts_held_back(method),
            ):  # fmt: skip
                process.start()
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        for fd in (task_read, result_write, their_side):
            os.close(fd)
        pidfd = _platform.open_pidfd(process.pid)
        death_fd = process.sentinel if pidfd is None else pidfd
        channel = Channel(task_write, result_read, side_fd)
        started = WorkerProcess(self, worker, process.pid, channel, death_fd, pidfd, notes_fd, process)
        if method == "forkserver":
            started.is_held = False  # the fork server reaps its children at once
        self._unreported.add(started)
        return started

    def exit_code_of(self, process: WorkerProcess) -> int | None:
        assert process.process is not None
        if process.exit_code is None:
            if process.is_held and process.cpu_s is None and (usage := _platform.usage_of_dead(process.pid)):
                process.peak_bytes, process.cpu_s = usage
            if not self._is_code_lost(process):
                process.exit_code = process.process.exitcode
        return process.exit_code

    def expects_exit_code(self, process: WorkerProcess) -> bool:
        # A sentinel that is a pipe is at its end when the process closes it, a moment before it can be waited for.
        return process.exit_code is None and not self._is_code_lost(process)

    def _is_code_lost(self, process: WorkerProcess) -> bool:
        """Whether the fork server, which would send the exit code, has died; `multiprocessing` reports 255 then."""
        if self._context.get_start_method() != "forkserver" or process.exit_code is not None:
            return False
        started: Any = process.process
        if started._popen.returncode is not None:
            return False  # read already: `multiprocessing` looks at all its processes when it starts one
        return is_at_end(started.sentinel)

    def may_wait_longer(self, waited_s: float) -> bool:
        return False

    def look_for_exits(self) -> None:
        pass  # an exit code is asked for

    def release(self, process: WorkerProcess) -> None:
        assert process.process is not None
        try:
            process.process.close()
        except ValueError:
            pass  # still there: `multiprocessing` reaps it when it next looks
        self.warden.worker_ended()

    @property
    def is_starting(self) -> bool:
        """Whether a start is under way."""
        return bool(self._pending)

    @property
    def look_s(self) -> float:
        """When `look_after` is due."""
        return min((self._due_s(worker) for worker in self._pending), default=NO_LOOK_S)

    def _due_s(self, worker: Worker) -> float:
        """Return when the start of a worker is given up: soon where the manager closes and has killed it."""
        patience_s = min(UNWANTED_S, self._start_timeout_s) if worker.was_killed else self._start_timeout_s
        return self._pending[worker] + patience_s

    def look_after(self, now_s: float) -> None:
        """Give up a start that hangs, as with a fork server that is stopped: the next one would, too."""
        overdue = [worker for worker in self._pending if now_s >= self._due_s(worker)]
        for worker in overdue:
            del self._pending[worker]
            limit = f"the start_timeout of {self._start_timeout_s:g} s"
            self._launch_failed(worker, TimeoutError(f"`multiprocessing` started no process within {limit}"))

    def close(self) -> None:
        pass

    def abandon_in_fork(self) -> None:
        # A worker that is forked next would keep the task pipe of the one before it open, which would never end.
        for process in self._unreported:
            for fd in process.fds():
                os.close(fd)

    def preload(self, module: str) -> None:
        pass
