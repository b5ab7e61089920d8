"""Forks workers at the manager's request and reports their exits: what the zygote and its deputy have in common.

The manager's side is `_supervisor.zygote`. Both talk through a socket that keeps packets whole, so that two processes
can take turns at it.
"""

from __future__ import annotations

import _socket
import gc
import itertools
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing import process, util
from socket import SCM_RIGHTS, SOL_SOCKET

from procbackground import _platform
from procbackground._platform import marks
from procbackground._wire.forking import EXIT, EXITED, FORK_RESULT, FORKED, FORKED_FDS, REFUSED, UNKNOWN_S
from procbackground._wire.page import MARK, WORDS_PER_LINE, map_page
from procbackground._worker import handlers, relay
from procbackground._worker.boot import Boot, prepare_main
from procbackground._worker.main import (
    Worker,
    WorkerFds,
    detach_from_zygote,
    lead_own_group,
    leave,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ZygoteFds:
    """The descriptors that a zygote is started with."""

    def __init__(self, control: int, page: int, life: int) -> None:
        self.control = control
        self.page = page
        self.life = life


class Forker:
    """A single-threaded process that forks workers."""

    def __init__(self, control: socket.socket, fds: ZygoteFds, life_fd: int, boot: Boot) -> None:
        self._control = control
        self._fds = fds
        self._life_fd = life_fd
        self._not_for_workers = [control.fileno(), fds.page, fds.life, life_fd]  # descriptors; workers close them
        self._worker = Worker(map_page(fds.page), boot)  # which each fork becomes
        self._process: Any = process.current_process()
        self._name = self._process.name
        self._worker.is_forked = True
        self._is_prepared = False
        self._imports_main = self._relays_logs = False  # whether each fork does; whether forks need not set that up
        self._may_hang = True  # a fork runs the user's code before it reads requests
        self._resets: list[Callable[[], object]] = []  # what a fork does first
        self._pidfds: dict[int, int] = {}  # pidfd -> pid of the workers whose exit was not reported yet
        self._unreaped: set[int] = set()  # workers, living or dead; all other children were adopted
        self._released: set[int] = set()  # pids that the manager released before their exit was seen
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._is_frozen = False
        self._lines = 0  # of the page, that workers have had
        self._family = 0  # of the workers' marks; known from the first fork on

    # -- forking -------------------------------------------------------------------------------------------

    def _fork(self, number: int, line: int) -> None:
        if not self._is_prepared:
            self._prepare()
        self._lines = max(self._lines, line + 1)
        if not self._family:
            self._family = marks.family_of(self._worker.words[line * WORDS_PER_LINE + MARK])
            marks.set_mark(marks.helper_mark(self._family))  # in place of what the manager's own process may have
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
            # Set up the fork's process object here, where it costs no copied pages.
            process._process_counter = itertools.count(1)  # type: ignore[attr-defined]
            self._process._name = f"procbackground-worker-{number}"
            marks.set_mark(self._worker.words[line * WORDS_PER_LINE + MARK])  # so the fork has it from the beginning
            pid = os.fork()
        except OSError as error:
            self._be_itself()
            self._refuse(number, error, (*ours, *theirs))
            return
        if pid == 0:
            self._become_worker(line, ours, theirs)
        self._be_itself()
        try:
            _platform.own_life_pipe(life_fd, pid)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._refuse(number, error, (*ours, *theirs))
            return
        self._unreaped.add(pid)
        self._watch_worker(pidfd, pid)
        try:
            rights = FORKED_FDS.pack(*theirs, pidfd, notes_fd)  # `socket.send_fds` imports `array`, each time
            self._control.sendmsg([FORKED + FORK_RESULT.pack(number, pid)], [(SOL_SOCKET, SCM_RIGHTS, rights)])
        finally:
            for fd in (*ours, *theirs):
                os.close(fd)

    def _be_itself(self) -> None:
        """Take back what forks are to inherit."""
        self._process._name = self._name
        marks.set_mark(marks.helper_mark(self._family))

    def _refuse(self, number: int, error: OSError, fds: tuple[int, ...]) -> None:
        for fd in fds:
            os.close(fd)
        self._control.send(REFUSED + FORK_RESULT.pack(number, error.errno or 0))

    def _become_worker(self, line: int, ours: list[int], theirs: list[int]) -> None:
        exit_code = 1
        try:
            tasks, results, notes, side, life = ours
            detach_from_zygote((*theirs, *self._pidfds, *self._not_for_workers))
            for reset in self._resets:
                reset()
            lead_own_group()
            if self._may_hang:
                # Now, not when the zygote gets to it. A worker that cannot hang reads requests next, from a pipe that
                # ends with the parent or, before the parent knows the worker, with the zygote.
                _platform.own_life_pipe(life)
                _platform.end_if_over(life)
            if self._imports_main:
                prepare_main(self._worker.boot)
                relay.forget_preparation()
            # After these: imports, and what modules do after a fork, may have set handlers.
            self._worker.install_signal_handlers(notes)
            if not self._relays_logs:
                self._worker.relay_logs()
            exit_code = self._worker.run(WorkerFds(tasks, results, side), line)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            leave(exit_code)

    def _prepare(self) -> None:
        """Do once what does not depend on the worker."""
        relay.prepare(self._worker.boot.log_levels)
        self._imports_main = self._worker.boot.is_main_forks_own
        if not self._imports_main:  # else each fork does, once it has imported the main module
            self._worker.prepare()
            handlers.wrap()
            self._relays_logs = relay.is_prepared()
            if self._relays_logs:
                self._worker.relay_logs()
        self._resets = _inherited_state_resets()
        surroundings = self._worker.boot.surroundings
        if surroundings is not None and surroundings.has_limits_to_set:
            self._resets.append(surroundings.set_limits)
        self._may_hang = self._worker.may_hang
        self._is_prepared = True

    def _forget_preparation(self) -> None:
        """Something may change what forks inherit: an import, say. The next fork prepares again."""
        relay.uninstall()
        self._is_prepared = self._relays_logs = False

    def _freeze(self) -> None:
        """Exempt all objects from garbage collection: collections in the children would copy shared pages."""
        gc.collect()
        gc.freeze()
        self._is_frozen = True

    # -- exits ---------------------------------------------------------------------------------------------

    def _watch_worker(self, pidfd: int, pid: int) -> None:
        self._pidfds[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)

    def _forget_worker(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        del self._pidfds[pidfd]
        os.close(pidfd)

    def _report_exit(self, pidfd: int) -> None:
        pid = self._pidfds[pidfd]
        try:
            if pid in self._released:
                self._released.discard(pid)
                os.waitpid(pid, 0)
            else:
                self._control.send(EXITED + EXIT.pack(pid, *_end_of(pid)))
        except ChildProcessError:
            pass  # reaped already: the manager does not wait for its exit code
        finally:  # after the report: a retry waits for the exit code, but not for this
            self._forget_worker(pidfd)

    def _reap(self, pid: int) -> None:
        self._unreaped.discard(pid)
        try:
            reaped, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return
        if not reaped:  # killed a moment ago
            self._released.add(pid)


def _end_of(pid: int) -> tuple[int, int, float]:
    """Return exit code, peak bytes and CPU seconds of a child that has ended. Raises: `ChildProcessError`.

    It stays a zombie: until the manager sends REAP the pid cannot be used again, so the manager can signal the group
    and meet no other process.
    """
    status: Any = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    exit_code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
    # The usage explains a death. A worker that ended normally is not asked for it: after each fork that would copy
    # another 23 pages, which is 3 % of what a fresh process costs.
    usage = _platform.usage_of_dead(pid) if exit_code else None
    peak_bytes, cpu_s = usage or (0, UNKNOWN_S)
    return exit_code, peak_bytes, cpu_s


def _inherited_state_resets() -> list[Callable[[], object]]:
    """Return the steps by which a fork resets the state that it inherits, as `multiprocessing` does in its children.

    Steps that would change nothing are left out: a look at an empty set copies a page in each fork.
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
