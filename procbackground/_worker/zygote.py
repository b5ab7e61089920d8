"""The zygote's side of starting workers: a small single-threaded process that forks them when told to.

A fork of it takes a millisecond, where a process of a fork server takes ten, most of them for imports that the
zygote did once. It is itself started through `multiprocessing`, has prepared `__main__` as any child has, and never
runs a task. Its death takes no worker along. Linux only: it passes pidfds.

It is also the parent of what its workers leave behind. So it can end what had left a worker's group, at the manager's
close and when the manager's process dies: then the kernel ends the workers at once, and this process the rest.
"""

from __future__ import annotations

import _socket
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
import time
import warnings
from collections.abc import Callable
from multiprocessing import process, util
from socket import SCM_RIGHTS, SOL_SOCKET

from procbackground import _platform
from procbackground._wire.page import map_page
from procbackground._worker.main import (
    Boot,
    Worker,
    WorkerFds,
    flush_output,
    ignore_interrupts,
    keep_lines_whole,
    lead_own_group,
    leave,
    let_go_of_zygote,
    prepare_main,
)
from procbackground._worker.rehearsal import rehearse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# Requests of the manager, one a packet.
FORK = b"F"  # + FORK_ARGS: start a worker
REAP = b"R"  # + PID: the manager has let go of the pid, which may now be used again
PRELOAD = b"P"  # + module name: workers started from now on have it
CLOSE = b"C"  # all workers are gone: end what they have left behind

# Answers, one a packet.
FORKED = b"W"  # + FORK_RESULT, with the five descriptors of the manager's side
REFUSED = b"E"  # + FORK_RESULT with an errno in place of the pid
EXITED = b"X"  # + EXIT
UNFIT = b"T"  # + name of a module that started threads when it was imported: forking is not safe any more

FORK_ARGS = struct.Struct("<II")  # worker number, line of the page
FORK_RESULT = struct.Struct("<II")  # worker number, pid
FORKED_FDS = struct.Struct("@5i")
PID = struct.Struct("<I")
EXIT = struct.Struct("<IiQ")  # pid, exit code, peak bytes or 0


LIFE_END_S = 0.1  # between the end of the control socket and that of the life pipe, when the parent dies
REAP_PAUSE_S = 0.1  # between two looks for adopted zombies: listing children costs 5 % of a fork
END_S = 0.4  # for what is killed to be gone; the parent waits for half a second


class ZygoteFds:
    """The descriptors that a zygote is started with."""

    def __init__(self, control: int, page: int, life: int) -> None:
        self.control = control
        self.page = page
        self.life = life


def serve(fds: ZygoteFds, boot: Boot, preload: tuple[str, ...]) -> None:
    """Serve the manager until it closes the control socket. Runs as the target of a `multiprocessing` process."""
    try:
        os.setsid()
    except PermissionError:
        pass  # leads its group already
    # While it imports it could not act on the parent's end: then the kernel does.
    life_fd = _platform.open_life_pipe(fds.life)
    _platform.own_life_pipe(life_fd)
    _platform.end_if_over(life_fd)
    ignore_interrupts()
    if sys.version_info >= (3, 12):
        # It warns of a fork in a process with threads. We look ourselves, at those that matter.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    control = socket.socket(fileno=fds.control)
    zygote = _Zygote(control, fds, life_fd, boot)
    prepare_main(boot)
    zygote.tidy_output()
    zygote.check_fitness("__main__")
    for module in preload:
        zygote.preload(module)
    try:
        zygote.serve()
    except OSError:
        zygote.look_after_the_end()  # in the middle of an answer
    control.close()


class _Zygote:
    def __init__(self, control: socket.socket, fds: ZygoteFds, life_fd: int, boot: Boot) -> None:
        self._control = control
        self._fds = fds
        self._life_fd = life_fd
        self._own_fds = (control.fileno(), fds.page, fds.life, life_fd)  # no worker is to have them
        self._worker = Worker(map_page(fds.page), boot)  # what forks go on as
        self._process: Any = process.current_process()
        self._name = self._process.name
        self._is_prepared = False
        self._may_hang = True  # a fork runs code of the user's before it reads requests
        self._inherits: list[Callable[[], object]] = []  # steps by which a fork lays down what imports left here
        self._pidfds: dict[int, int] = {}  # pidfd -> pid of the workers that live
        self._unreaped: set[int] = set()  # workers, living or dead; all other children were adopted
        self._released: set[int] = set()  # pids that the manager has let go of before their end was seen
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._is_frozen = False
        self._is_rehearsed = False
        self._adopts_orphans = False
        self._was_closed = False  # by the manager, which waits for us now
        self._child_ended: tuple[int, int] | None = None  # pipe: some child has
        self._wants_reaping = False
        self._reap_due_s = 0.0

    def serve(self) -> None:
        _platform.disarm_life_pipe(self._life_fd)
        self._poll.register(self._life_fd, 0)  # its end is reported all the same
        pause_ms: float | None = None
        while True:
            for fd, _ in self._poll.poll(pause_ms):
                if fd in self._pidfds:
                    self._tell_exit(fd)
                elif fd == self._life_fd:
                    _end_with_parent()
                elif self._child_ended is not None and fd == self._child_ended[0]:
                    os.read(fd, 4096)
                    self._wants_reaping = True
                elif fd == self._control.fileno() and not self._obey():
                    if not self._was_closed:
                        self.look_after_the_end()
                    return
            pause_ms = self._reap_adopted() if self._wants_reaping else None

    def look_after_the_end(self) -> None:
        """The manager has let go of us: replaced us, and the workers live on; or its process is dying."""
        life = select.poll()
        life.register(self._life_fd, 0)
        if life.poll(LIFE_END_S * 1000):
            _end_with_parent()

    def _adopt_orphans(self) -> None:
        """Become the parent of what workers leave behind."""
        try:
            ends = os.pipe()
        except OSError:
            return  # no descriptor is left; the next fork tries again
        self._adopts_orphans = True
        if not _platform.adopt_orphans():
            for fd in ends:
                os.close(fd)
            return
        self._child_ended = ends
        for fd in ends:
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # only what has a handler wakes us
        signal.set_wakeup_fd(self._child_ended[1], warn_on_full_buffer=False)
        self._poll.register(self._child_ended[0], select.POLLIN)

    def _reap_adopted(self) -> float | None:
        """Reap what was adopted and has ended; return the milliseconds to wait before that, or None: it is done."""
        now_s = time.monotonic()
        if now_s < self._reap_due_s:
            return (self._reap_due_s - now_s) * 1000
        self._reap_due_s = now_s + REAP_PAUSE_S
        self._wants_reaping = False
        for pid in _platform.children(os.getpid()):
            if pid not in self._unreaped:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    pass
        return None

    def _obey(self) -> bool:
        request = self._control.recv(4096)
        if not request:
            return False
        kind, body = request[:1], request[1:]
        if kind == FORK:
            if not self._adopts_orphans:
                self._adopt_orphans()  # first: a worker's first task may leave some
            self._fork(*FORK_ARGS.unpack(body))
            # After the fork: the first worker need not wait for it, and takes little harm.
            if not self._is_rehearsed:
                self._is_rehearsed = True
                rehearse()
                self._wants_reaping = self._child_ended is not None  # the end of some may not have been heard
                _platform.peak_of_dead(os.getpid())  # of nobody: the first such call takes longest
            if not self._is_frozen:
                self._freeze()
        elif kind == REAP:
            self._reap(*PID.unpack(body))
        elif kind == PRELOAD:
            self._preload_guarded(body.decode())
        elif kind == CLOSE:
            _end_all_below(os.getpid())
            self._was_closed = True
            return False
        return True

    def _preload_guarded(self, module: str) -> None:
        """Import a module, which may take for ever, while something else looks out for the parent's end."""
        guard = self._post_guard() if self._adopts_orphans else None
        if guard is None:  # nothing was adopted, and the kernel may end us
            _platform.rearm_life_pipe(self._life_fd)
            self.preload(module)
            _platform.disarm_life_pipe(self._life_fd)
            return
        self.preload(module)
        os.kill(guard, signal.SIGKILL)
        os.waitpid(guard, 0)

    def _post_guard(self) -> int | None:
        """Fork a process that, when the parent ends, ends all that is below us, and us; return its pid."""
        zygote = os.getpid()
        try:
            guard = os.fork()
        except OSError:
            return None
        if guard:
            return guard
        try:
            signal.set_wakeup_fd(-1)
            self._control.close()
            ends = select.poll()
            ends.register(self._life_fd, 0)
            ends.register(os.pidfd_open(zygote), select.POLLIN)
            if self._life_fd in dict(ends.poll()):
                _end_all_below(zygote)
                os.kill(zygote, signal.SIGKILL)
        finally:
            os._exit(0)

    def preload(self, module: str) -> None:
        try:
            importlib.import_module(module)
        except BaseException:
            return  # the worker that needs it will say what is wrong with it
        finally:
            self._is_frozen = self._is_prepared = False  # what failed in its midst has left something, too
            self.tidy_output()
        self.check_fitness(module)

    def tidy_output(self) -> None:
        """After an import: what it printed is not to be printed by each worker, too."""
        keep_lines_whole()
        flush_output()

    def check_fitness(self, module: str) -> None:
        """Tell the manager if importing `module` has started threads."""
        # Threads of native libraries (OpenBLAS and the like) look after forks themselves; Python's hold locks
        # that nobody would release in the child.
        if threading.active_count() > 1:
            self._control.send(UNFIT + module.encode())

    def _freeze(self) -> None:
        """Move all objects out of the collector's sight, so that collections in the children do not touch, and
        thereby copy, the pages that they share with us."""
        gc.collect()
        gc.freeze()
        self._is_frozen = True

    def _prepare(self) -> None:
        """Do what does not depend on the worker once, not in each."""
        if "logging" in sys.modules:
            importlib.import_module("procbackground._worker.log_handler")
        self._inherits = _what_to_lay_down()
        self._may_hang = self._worker.may_hang
        self._is_prepared = True

    def _fork(self, number: int, line: int) -> None:
        if not self._is_prepared:
            self._prepare()
        ours: list[int] = []
        theirs: list[int] = []
        try:
            for is_task_pipe in (True, False):
                read_fd, write_fd = os.pipe()
                ours.append(read_fd if is_task_pipe else write_fd)
                theirs.append(write_fd if is_task_pipe else read_fd)
            notes_fd = _platform.make_memory_file("procbackground-notes")
            ours.append(notes_fd)
            sides = _socket.socketpair()
            ours.append(sides[0].detach())
            theirs.append(sides[1].detach())
            life_fd = _platform.open_life_pipe(self._fds.life)
            ours.append(life_fd)
            # For the fork: cheaper here.
            process._process_counter = itertools.count(1)  # type: ignore[attr-defined]
            self._process._name = f"procbackground-worker-{number}"
            pid = os.fork()
        except OSError as error:
            self._process._name = self._name
            for fd in (*ours, *theirs):
                os.close(fd)
            self._control.send(REFUSED + FORK_RESULT.pack(number, error.errno or 0))
            return
        if pid == 0:
            self._become_worker(line, ours, theirs)
        self._process._name = self._name
        try:
            _platform.own_life_pipe(life_fd, pid)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            for fd in (*ours, *theirs):
                os.close(fd)
            self._control.send(REFUSED + FORK_RESULT.pack(number, error.errno or 0))
            return
        self._pidfds[pidfd] = pid
        self._unreaped.add(pid)
        self._poll.register(pidfd, select.POLLIN)
        try:
            rights = FORKED_FDS.pack(*theirs, pidfd, notes_fd)  # `socket.send_fds` imports `array`, each time
            self._control.sendmsg([FORKED + FORK_RESULT.pack(number, pid)], [(SOL_SOCKET, SCM_RIGHTS, rights)])
        finally:
            for fd in (*ours, *theirs):
                os.close(fd)

    def _become_worker(self, line: int, ours: list[int], theirs: list[int]) -> None:
        exit_code = 1
        try:
            tasks, results, notes, side, life = ours
            let_go_of_zygote((*theirs, *self._pidfds, *(self._child_ended or ()), *self._own_fds))
            for step in self._inherits:
                step()
            self._worker.heed_signals(notes)  # here, not beforehand: what modules do after a fork may have set some
            lead_own_group()
            if self._may_hang:
                # At once, not when the zygote comes to it. Who cannot hang comes to read requests, from a pipe that
                # ends with the parent or, before the parent knows of us, with the zygote.
                _platform.own_life_pipe(life)
                _platform.end_if_over(life)
            self._worker.relay_logs()
            exit_code = self._worker.run(WorkerFds(tasks, results, side), line)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            leave(exit_code)

    def _tell_exit(self, pidfd: int) -> None:
        pid = self._pidfds[pidfd]
        try:
            # A look that leaves the zombie: until the manager says REAP the pid cannot be used again, so it may
            # signal the group without a chance of meeting strangers.
            status: Any = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass  # reaped already: nobody waits for its exit code
        else:
            if pid in self._released:
                self._released.discard(pid)
                os.waitpid(pid, 0)
            else:
                exit_code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
                # Of interest for a death only, and not worth 4 ms of imports to a worker that leaves as it was told.
                peak_bytes = _platform.peak_of_dead(pid) if exit_code else None
                self._control.send(EXITED + EXIT.pack(pid, exit_code, peak_bytes or 0))
        finally:  # a retry waits for the exit code, and for nothing of this
            self._poll.unregister(pidfd)
            del self._pidfds[pidfd]
            os.close(pidfd)

    def _reap(self, pid: int) -> None:
        self._unreaped.discard(pid)
        try:
            reaped, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return
        if not reaped:  # killed a moment ago
            self._released.add(pid)


def _end_with_parent() -> NoReturn:
    """End what is below this process, and this process at once: what its imports want at its exit may take for ever."""
    _end_all_below(os.getpid())
    os._exit(0)


def _end_all_below(zygote: int) -> None:
    """End what is below the zygote: the workers, should they live, and whatever they have started.

    Nobody alive in one look does not mean that nobody is: who dies in the midst of it hands the zygote its children,
    which had been listed before. Only those whose end an earlier look has seen have nothing to hand over any more.
    """
    until_s = time.monotonic() + END_S
    seen_dead: set[int] = set()
    while True:
        alive, dead = _look_below(zygote)
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if (not alive and dead <= seen_dead) or time.monotonic() > until_s:
            break
        seen_dead |= dead
        time.sleep(0.001)  # what is killed needs it, and hands its own children to the zygote
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _look_below(zygote: int) -> tuple[list[int], set[int]]:
    """Return who lives below the zygote, this process apart, and whose end the look has met."""
    alive, dead = [], set()
    todo = [zygote]
    while todo:
        for pid in _platform.children(todo.pop()):
            if pid == os.getpid():
                continue
            if _platform.start_time(pid) is None:
                dead.add(pid)
            else:
                alive.append(pid)
                todo.append(pid)
    return alive, dead


def _what_to_lay_down() -> list[Callable[[], object]]:
    """Return what gives a fork what `multiprocessing` gives its children, and nothing of this process's state.

    What finds nothing to do is left out: a look at an empty set is a page to be copied in each fork.
    """
    steps: list[Callable[[], object]] = []
    if process._children:  # type: ignore[attr-defined]
        steps.append(process._children.clear)  # type: ignore[attr-defined]
    if util._finalizer_registry:  # type: ignore[attr-defined]
        steps.append(util._finalizer_registry.clear)  # type: ignore[attr-defined]
    if util._afterfork_registry:  # type: ignore[attr-defined]
        steps.append(util._run_after_forkers)  # type: ignore[attr-defined]
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        steps.append(numpy_random.seed)  # the standard library reseeds itself after a fork, numpy does not
    return steps
