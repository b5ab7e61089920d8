"""Makes a process of `multiprocessing` of an interpreter that had a head start."""

from __future__ import annotations

import io
import os
import select
import socket
from collections.abc import Callable
from multiprocessing import popen_fork, reduction, resource_tracker, spawn, util
from multiprocessing.context import ForkServerProcess, set_spawning_popen
from typing import Any

from procbackground import _platform
from procbackground._headstart import HeadStart
from procbackground._worker.entry import InheritedFd

LOOK_S = 0.5  # between two looks at an interpreter that does not read what it is sent


def start_adopted(
    head_start: HeadStart, target: Callable[..., object], name: str, args: tuple[Any, ...]
) -> ForkServerProcess | None:
    """Start a process in `head_start`; return None where it has ended, or cannot be reached now.

    Raises: what pickling raises.
    """
    process = _AdoptedProcess(target=target, name=name, args=args, daemon=False)
    process.head_start = head_start
    try:
        process.start()
    except OSError:
        return None
    finally:
        del process.head_start
        head_start.give_up()  # unless it was adopted
    return process


class _AdoptedProcess(ForkServerProcess):
    """Crosses as what it is to the child: a process like those of the fork server."""

    head_start: HeadStart

    def _Popen(self, process_obj: Any) -> _Popen:  # type: ignore[override]  # noqa: N802
        return _Popen(process_obj)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in vars(self).items() if key != "head_start"}
        return object.__new__, (ForkServerProcess,), state


class _Popen(popen_fork.Popen):
    """What `multiprocessing` has of a running process. Sends as `popen_forkserver`, and waits for its own child."""

    method = "forkserver"
    DupFd = InheritedFd
    returncode: int | None

    def __init__(self, process_obj: _AdoptedProcess) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: _AdoptedProcess) -> None:
        head_start = process_obj.head_start
        tracker_fd: Any = resource_tracker.getfd()
        data = io.BytesIO()
        set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            reduction.dump(spawn.get_preparation_data(process_obj._name), data)  # type: ignore[attr-defined]
            reduction.dump(process_obj, data)
        finally:
            set_spawning_popen(None)
        read_fd, write_fd = os.pipe()
        try:
            try:
                with socket.socket(fileno=head_start.socket.detach()) as control:
                    socket.send_fds(control, [b"!"], [tracker_fd, read_fd, *self._fds])
            finally:
                os.close(read_fd)  # before the write: a pipe that has a reader here is never broken
            _write(write_fd, data.getbuffer(), head_start.pid)
        except BaseException:
            os.close(write_fd)
            raise
        self.pid = head_start.pid
        self.sentinel, head_start.pidfd = head_start.pidfd, -1
        # The child's `parent_process()` has ended when the pipe is closed.
        self.finalizer = util.Finalize(self, util.close_fds, (write_fd, self.sentinel))  # type: ignore[attr-defined]

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            try:
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                self.returncode = 255  # the program has waited for all its children; as a lost fork server has it
        return super().poll(flag)


def _write(fd: int, data: memoryview, reader_pid: int) -> None:
    """Write all of it. Raises: `OSError` where the reader has ended, or is stopped (SIGSTOP), and so reads nothing."""
    os.set_blocking(fd, False)
    has_room = select.poll()
    has_room.register(fd, select.POLLOUT)
    while data:
        if has_room.poll(LOOK_S * 1000):
            data = data[os.write(fd, data) :]
        elif _platform.is_stopped(reader_pid):
            raise ChildProcessError("the process is stopped")
