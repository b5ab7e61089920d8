"""The zygote's side of starting workers: a small single-threaded process that forks them when told to.

A fork of it takes a millisecond, where a process of a fork server takes ten, most of them for imports that the
zygote did once. It is itself started through `multiprocessing`, has prepared `__main__` as any child has, and never
runs a task. Its death takes no worker along. Linux only: it passes pidfds.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import select
import signal
import socket
import struct
import sys
import threading
import warnings
from typing import Any, NamedTuple

from procbackground import _platform
from procbackground._page import map_page
from procbackground._worker.main import Boot, Worker, WorkerFds, leave

# Requests of the manager, one a packet.
FORK = b"F"  # + FORK_ARGS: start a worker
REAP = b"R"  # + PID: the manager has let go of the pid, which may now be used again
PRELOAD = b"P"  # + module name: workers started from now on have it

# Answers, one a packet.
FORKED = b"W"  # + FORK_RESULT, with the five descriptors of the manager's side
REFUSED = b"E"  # + FORK_RESULT with an errno in place of the pid
EXITED = b"X"  # + EXIT
UNFIT = b"T"  # + name of a module that started threads when it was imported: forking is not safe any more

FORK_ARGS = struct.Struct("<II")  # worker number, line of the page
FORK_RESULT = struct.Struct("<II")  # worker number, pid
PID = struct.Struct("<I")
EXIT = struct.Struct("<Ii")  # pid, exit code


class ZygoteFds(NamedTuple):
    """The descriptors that a zygote is started with."""

    control: int
    page: int
    life: int


def serve(fds: ZygoteFds, boot: Boot, preload: tuple[str, ...]) -> None:
    """Serve the manager until it closes the control socket. Runs as the target of a `multiprocessing` process."""
    try:
        os.setsid()
    except PermissionError:
        pass  # leads its group already
    life_fd = _platform.arm_life_pipe(fds.life)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Python 3.12 warns of a fork in a process with threads. We look ourselves, at those that matter.
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    control = socket.socket(fileno=fds.control)
    zygote = _Zygote(control, fds, life_fd, boot)
    zygote.check_fitness("__main__")
    for module in preload:
        zygote.preload(module)
    zygote.serve()
    control.close()


class _Zygote:
    def __init__(self, control: socket.socket, fds: ZygoteFds, life_fd: int, boot: Boot) -> None:
        self._control = control
        self._fds = fds
        self._life_fd = life_fd
        self._boot = boot
        self._words = map_page(fds.page)
        self._pidfds: dict[int, int] = {}  # pidfd -> pid of the workers that live
        self._released: set[int] = set()  # pids that the manager has let go of before their end was seen
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._is_frozen = False

    def serve(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._control.fileno():
                    self._tell_exit(fd)
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        request = self._control.recv(4096)
        if not request:
            return False
        kind, body = request[:1], request[1:]
        if kind == FORK:
            self._fork(*FORK_ARGS.unpack(body))
        elif kind == REAP:
            self._reap(*PID.unpack(body))
        elif kind == PRELOAD:
            self.preload(body.decode())
        return True

    def preload(self, module: str) -> None:
        try:
            importlib.import_module(module)
        except BaseException:
            return  # the worker that needs it will say what is wrong with it
        self._is_frozen = False
        self.check_fitness(module)

    def check_fitness(self, module: str) -> None:
        """Tell the manager if importing `module` has started threads."""
        # Threads of native libraries (OpenBLAS and the like) look after forks themselves; Python's hold locks
        # that nobody would release in the child.
        if threading.active_count() > 1:
            self._control.send(UNFIT + module.encode())

    def _fork(self, number: int, line: int) -> None:
        if not self._is_frozen:
            # Moves all objects out of the collector's sight, so that collections in the children do not touch,
            # and thereby copy, the pages that they share with us.
            gc.collect()
            gc.freeze()
            self._is_frozen = True
        ours: list[int] = []
        theirs: list[int] = []
        try:
            for is_task_pipe in (True, False):
                read_fd, write_fd = os.pipe()
                ours.append(read_fd if is_task_pipe else write_fd)
                theirs.append(write_fd if is_task_pipe else read_fd)
            notes_fd = _platform.make_memory_file("procbackground-notes")
            ours.append(notes_fd)
            our_side, their_side = (each.detach() for each in socket.socketpair())
            ours.append(our_side)
            theirs.append(their_side)
            pid = os.fork()
        except OSError as error:
            for fd in (*ours, *theirs):
                os.close(fd)
            self._control.send(REFUSED + FORK_RESULT.pack(number, error.errno or 0))
            return
        if pid == 0:
            self._become_worker(number, line, ours, theirs)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            for fd in (*ours, *theirs):
                os.close(fd)
            self._control.send(REFUSED + FORK_RESULT.pack(number, error.errno or 0))
            return
        self._pidfds[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        try:
            socket.send_fds(
                self._control, [FORKED + FORK_RESULT.pack(number, pid)], [*theirs, pidfd, notes_fd]
            )
        finally:
            for fd in (*ours, *theirs):
                os.close(fd)

    def _become_worker(self, number: int, line: int, ours: list[int], theirs: list[int]) -> None:
        exit_code = 1
        try:
            for fd in (*theirs, *self._pidfds, self._fds.page, self._life_fd):
                os.close(fd)
            self._control.close()
            _start_afresh(number)
            tasks, results, notes, side = ours
            fds = WorkerFds(tasks, results, self._fds.life, notes, side)
            worker = Worker(fds, self._words, line, self._boot)
            exit_code = worker.run()
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            leave(exit_code)

    def _tell_exit(self, pidfd: int) -> None:
        pid = self._pidfds[pidfd]
        # A look that leaves the zombie: until the manager says REAP the pid cannot be used again, so it may
        # signal the group without a chance of meeting strangers.
        self._poll.unregister(pidfd)
        del self._pidfds[pidfd]
        os.close(pidfd)
        try:
            status: Any = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return  # reaped already: nobody waits for its exit code
        if pid in self._released:
            self._released.discard(pid)
            os.waitpid(pid, 0)
            return
        exit_code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
        self._control.send(EXITED + EXIT.pack(pid, exit_code))

    def _reap(self, pid: int) -> None:
        try:
            reaped, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return
        if not reaped:  # killed a moment ago
            self._released.add(pid)


def _start_afresh(number: int) -> None:
    """Give a forked worker what `multiprocessing` gives its children, and nothing of the zygote's state."""
    from multiprocessing import process, util

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    process._children = set()  # type: ignore[attr-defined]
    process._process_counter = itertools.count(1)  # type: ignore[attr-defined]
    util._finalizer_registry.clear()  # type: ignore[attr-defined]
    util._run_after_forkers()  # type: ignore[attr-defined]
    process.current_process().name = f"procbackground-worker-{number}"
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()  # the standard library reseeds itself after a fork, numpy does not
