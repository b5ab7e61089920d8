"""Keeps a zygote that forks fresh workers in a millisecond, and replaces it when it dies or hangs.

The parent's side; the child's is `_worker.zygote`. The zygote is started by the context's `Process`, so by default
from the fork server: it is a clean, single-threaded process even if the parent has many threads.
"""

from __future__ import annotations

import copy
import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext, ForkServerContext
from typing import TYPE_CHECKING, Any

from procbackground import _headstart, _platform
from procbackground._load import load
from procbackground._log import logger
from procbackground._platform.passing import receive_fds
from procbackground._state.fleet import Worker
from procbackground._supervisor.channel import Channel
from procbackground._supervisor.direct import (
    forget_foreign_fork_server,
    interrupts_held_back,
    known_start_method,
    make_main_startable,
    name_process,
)
from procbackground._supervisor.obstacles import HelperLost, fork_server_watched, room_for_start
from procbackground._supervisor.process import NO_LOOK_S, LaunchFailed, WorkerProcess
from procbackground._supervisor.starter import Starter, wait_for_exit
from procbackground._supervisor.warden import Warden
from procbackground._supervisor.watches import Watches
from procbackground._wire import forking as child
from procbackground._wire.surroundings import EarlyName
from procbackground._worker.boot import Boot
from procbackground._worker.entry import Fd, run_zygote
from procbackground.errors import death_phrase

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess


# Modules whose import leaves what forks must not share; the main module with where it is. Known to all managers.
_unfit: set[Any] = set()

ANSWER_S = 10.0  # a fork takes a millisecond; on a machine with ten times the work of its cores, seconds at times
CLOSE_S = 0.5  # for the zygote to end what its workers left behind, and to exit
DEATH_S = 0.5  # between the end of its socket and its exit code
NAME = "procbackground-zygote"
ZYGOTE = "the zygote, the process that forks workers,"
DIED = f"{ZYGOTE} died"
LOOK_S = 0.1  # between two checks whether a zygote that has not answered is stopped (SIGSTOP): then it never will


class Zygote:
    """Starts workers by asking the zygote to fork itself."""

    def __init__(
        self,
        context: BaseContext,
        boot: Boot,
        page_fd: int,
        life_fd: int,
        preload: tuple[str, ...],
        watches: Watches,
        launched: Callable[[WorkerProcess], None],
        launch_failed: LaunchFailed,
        exited: Callable[[WorkerProcess], None],
        warden: Warden,
        starter: Starter,
        start_timeout_s: float,
    ) -> None:
        self._context: Any = context
        self._boot = boot
        self._page_fd = page_fd
        self._life_fd = life_fd
        self._preloaded = [module for module in preload if module not in _unfit]
        self._watches = watches
        self._launched = launched
        self._launch_failed = launch_failed
        self._exited = exited
        self._warden = warden  # for what workers leave that have outlived their zygote
        self._starter = starter
        self._control: socket.socket | None = None
        self._process: BaseProcess | None = None  # None also while it is being started
        self._pending: dict[int, tuple[Worker, float]] = {}  # worker number -> worker, time of the request
        self._start_timeout_s = start_timeout_s  # before its first answer it imports `__main__`
        self._has_answered = False
        self._has_ever_answered = False
        self._answered_s = 0.0  # when it did last: what was asked before waits behind that, and behind its start
        self._next_look_s = 0.0
        self._living: dict[int, WorkerProcess] = {}

    # -- what the supervisor asks --------------------------------------------------------------------------

    def launch(self, worker: Worker) -> None:
        try:
            if self._control is None:
                self._start()
            assert self._control is not None
            # While the zygote starts or imports a module, the request waits in the socket.
            self._control.send(child.FORK + child.FORK_ARGS.pack(worker.number, worker.line))
        except ConnectionError:
            # It has died, and its end is read next. Only that tells whether another zygote would die, too.
            self._launch_failed(worker, HelperLost(DIED, was_killed=True))
            return
        except Exception as error:
            self._launch_failed(worker, error)
            return
        now_s = time.monotonic()
        if not self._pending:
            self._next_look_s = now_s + LOOK_S
        self._pending[worker.number] = (worker, now_s)

    def exit_code_of(self, process: WorkerProcess) -> int | None:
        return process.exit_code

    def expects_exit_code(self, process: WorkerProcess) -> bool:
        return process.pid in self._living

    def may_wait_longer(self, waited_s: float) -> bool:
        """Whether an exit code may still come: the zygote may be busy."""
        if self.is_stopped:
            self._end()
            return False
        return waited_s < ANSWER_S

    def look_for_exits(self) -> None:
        self._read()

    def release(self, process: WorkerProcess) -> None:
        self._living.pop(process.pid, None)
        self._ask(child.REAP + child.PID.pack(process.pid))
        if not process.is_held:
            self._warden.worker_ended()  # it finds what the worker has left

    def preload(self, module: str) -> None:
        if module == "__main__" or module in self._preloaded or module in _unfit:
            return
        self._preloaded.append(module)
        self._ask(child.PRELOAD + module.encode())

    def close(self) -> None:
        self._ask(child.CLOSE)
        self._end(CLOSE_S)

    @property
    def is_starting(self) -> bool:
        """Whether a start is under way."""
        return bool(self._pending)

    @property
    def look_s(self) -> float:
        """When `look_after` is due; `inf` while nothing is asked of the zygote."""
        return self._next_look_s if self._pending else NO_LOOK_S

    def look_after(self, now_s: float) -> None:
        """End a zygote that has not answered in time, that is not needed any more, or that is stopped (SIGSTOP)."""
        if not self._pending:
            return
        self._next_look_s = now_s + LOOK_S
        asked_s = max(self._answered_s, min(asked_s for _, asked_s in self._pending.values()))
        is_overdue = now_s >= asked_s + (ANSWER_S if self._has_answered else self._start_timeout_s)
        if is_overdue and not self._has_ever_answered:
            # Another zygote would hang in the same place.
            self._fail_pending(TimeoutError(_never_answered(self._start_timeout_s)))
        # All are given up where the manager closes: it need not wait for the import that they wait for.
        is_unwanted = not self._has_answered and all(worker.was_killed for worker, _ in self._pending.values())
        if is_overdue or is_unwanted or self.is_stopped:
            self._end()

    @property
    def is_stopped(self) -> bool:
        """Whether the zygote is stopped (SIGSTOP), and so will answer nothing."""
        pid = None if self._process is None else self._process.pid
        return pid is not None and _platform.is_stopped(pid)

    def abandon_in_fork(self) -> None:
        if self._control is not None:
            # Its descriptor is closed by number; the object would close whatever file has that number later.
            self._control.detach()

    # -- its life ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start a zygote in the starter's thread; until it runs, requests wait in its socket. Raises: `OSError`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        preload = tuple(self._preloaded)
        boot = self._boot_of_zygote()
        ours.setblocking(False)
        self._control = ours
        self._process = None
        self._has_answered = False
        self._watches.watch_deferred(ours.fileno(), self._read)
        self._starter.do(
            lambda: self._start_process(theirs, boot, preload),
            lambda process, error: self._started(ours, theirs, process, error),
        )

    def _start_process(self, theirs: socket.socket, boot: Boot, preload: tuple[str, ...]) -> BaseProcess:
        """Start the process. Blocks; raises whatever prevents the start."""
        method = self._context.get_start_method()
        fds = [Fd(theirs.fileno()), Fd(self._page_fd), Fd(self._life_fd)]
        args = (fds, boot, preload)
        process: Any = None
        with room_for_start(), known_start_method(method):
            make_main_startable()
            head_start = _headstart.take() if type(self._context) is ForkServerContext else None
            if head_start is not None and boot.surroundings is not None:
                adoption = load("procbackground._supervisor.adoption")
                process = adoption.start_adopted(
                    head_start, run_zygote, EarlyName(NAME, boot.surroundings, boot.setup), args
                )
            if process is None:
                forget_foreign_fork_server(method)
                process = self._context.Process(
                    target=run_zygote, name=name_process(NAME, boot, self._context), args=args, daemon=False
                )
                with fork_server_watched(method), interrupts_held_back(method):
                    process.start()
        return process  # type: ignore[no-any-return]

    def _started(
        self, control: socket.socket, theirs: socket.socket, process: BaseProcess | None, error: Exception | None
    ) -> None:
        theirs.close()  # not before: its end would be mistaken for that of a zygote
        if control is not self._control:  # replaced meanwhile
            if process is not None:
                self._have_ended(process, 0.0, lambda exit_code, error: None)
        elif process is not None:
            self._process = process
        else:
            assert error is not None
            self._drop_control()
            self._fail_pending(error)

    def _end(self, patience_s: float = 0.0) -> None:
        """End a zygote that hangs, has died or is not needed any more.

        Its workers live on, and the next launch starts another zygote.
        """
        process, self._process = self._process, None
        self._drop_control()
        orphans, self._living = self._living, {}
        if orphans:
            self._starter.do(self._warden.start, lambda _, error: None)
        for orphan in orphans.values():
            # Their exit codes are lost; their pidfds still report their ends, after which their pids may be reused.
            orphan.is_held = False
            if orphan.is_dead:
                self._exited(orphan)
        if process is None or self._has_answered:
            # It has worked, so that another one will.
            self._fail_pending(HelperLost(DIED, was_killed=True))
            if process is not None:
                self._have_ended(process, patience_s, lambda exit_code, error: None)
            return
        # A zygote that exits by itself before its first answer could not import `__main__`, and another one could not
        # either. The exit code distinguishes it from a zygote that was killed.
        pending, self._pending = self._pending, {}
        self._have_ended(process, DEATH_S, lambda exit_code, error: self._died_early(pending, exit_code))

    def _died_early(self, pending: dict[int, tuple[Worker, float]], exit_code: int | None) -> None:
        # `multiprocessing` reports 255 if the fork server, which has the exit code, is gone, too.
        never_worked = exit_code is not None and 0 < exit_code != 255
        for worker, _ in pending.values():
            if never_worked:
                self._launch_failed(worker, ChildProcessError(_never_worked(exit_code)))
            elif exit_code is not None and exit_code < 0:
                self._launch_failed(worker, HelperLost(f"{ZYGOTE} {death_phrase(exit_code)}", was_killed=True))
            else:
                self._launch_failed(worker, HelperLost(DIED, was_killed=False))

    def _have_ended(
        self, process: BaseProcess, patience_s: float, then: Callable[[int | None, Exception | None], None]
    ) -> None:
        self._starter.do(lambda: wait_for_exit(process, patience_s), then)

    def _drop_control(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            self._watches.forget(control.fileno())
            control.close()

    def _fail_pending(self, error: Exception) -> None:
        pending, self._pending = self._pending, {}
        for worker, _ in pending.values():
            self._launch_failed(worker, error)

    def _ask(self, request: bytes) -> None:
        if self._control is None:
            return
        try:
            self._control.send(request)
        except OSError:
            pass  # full or dead: a preload or a reaped zombie is lost, and a new zygote needs neither

    # -- its answers ---------------------------------------------------------------------------------------

    def _read(self) -> None:
        while self._control is not None:
            try:
                packet, fds = receive_fds(self._control, 4096, 5)
            except BlockingIOError:
                return
            except OSError:
                packet, fds = b"", []
            if not packet:
                self._end()
                return
            self._has_answered = self._has_ever_answered = True
            self._answered_s = time.monotonic()
            self._take(packet[:1], packet[1:], fds)

    def _take(self, kind: bytes, body: bytes, fds: list[int]) -> None:
        if kind == child.EXITED:
            pid, exit_code, peak_bytes, cpu_s = child.EXIT.unpack(body)
            process = self._living.get(pid)
            if process is not None:
                process.exit_code = exit_code
                process.cpu_s = cpu_s if cpu_s >= 0 else None
                process.peak_bytes = max(process.peak_bytes, peak_bytes)
                self._exited(process)
        elif kind == child.FORKED:
            number, pid = child.FORK_RESULT.unpack(body)
            worker = self._pending.pop(number)[0]
            if len(fds) < 5:
                # This process is out of descriptors; the kernel dropped those that did not fit.
                for fd in fds:
                    os.close(fd)
                os.kill(pid, signal.SIGKILL)
                self._ask(child.REAP + child.PID.pack(pid))
                self._launch_failed(worker, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
                return
            task_fd, result_fd, side_fd, pidfd, notes_fd = fds
            channel = Channel(task_fd, result_fd, side_fd)
            process = WorkerProcess(self, worker, pid, channel, pidfd, pidfd, notes_fd)
            self._living[pid] = process
            self._launched(process)
        elif kind == child.REFUSED:
            number, code = child.FORK_RESULT.unpack(body)
            self._launch_failed(self._pending.pop(number)[0], OSError(code, os.strerror(code)))
        elif kind == child.UNFIT:
            module, _, left = body.decode().partition("\0")
            self._replace_without(module, left)

    def _replace_without(self, module: str, left: str) -> None:
        """Start another zygote that does not import `module`: its forks would share what the import has left."""
        logger.info("workers import %s themselves, and not once for all: %s", module, left)
        if module == "__main__":
            _unfit.add((module, self._boot.main))
        else:
            _unfit.add(module)
            if module in self._preloaded:
                self._preloaded.remove(module)
        pending, self._pending = self._pending, {}
        self._end()
        for worker, _ in pending.values():
            self.launch(worker)

    def _boot_of_zygote(self) -> Boot:
        if self._boot.main_import != "auto" or ("__main__", self._boot.main) not in _unfit:
            return self._boot
        boot = copy.copy(self._boot)
        boot.main_import = "each"
        return boot


def _never_answered(start_timeout_s: float) -> str:
    return (
        f"the process that starts them was not ready within the start_timeout of {start_timeout_s:g} s; it "
        "imports the main module and those of the first tasks, with all that these import"
    )


def _never_worked(exit_code: int | None) -> str:
    return (
        f"the process that starts them ended with exit code {exit_code} while it prepared `__main__`; its "
        "own output says why. A script that starts a manager when it is imported lacks "
        "`if __name__ == '__main__':`"
    )
