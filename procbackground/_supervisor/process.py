"""One worker's process as the parent holds it: its signals, its descendants, what it notes, and its end."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from procbackground import _platform
from procbackground._state.fleet import Worker
from procbackground._supervisor.channel import Channel

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from procbackground._supervisor.output import Pipes

LOG_TAIL = 10  # records of a worker that are kept to explain its death; the last ones say most
NOTES_LIMIT = 65536  # of a stack dump that we read; deeper stacks than that repeat themselves

# Called with a worker whose process did not start, and why.
LaunchFailed: TypeAlias = Callable[[Worker, Exception], None]
NO_LOOK_S = float("inf")


class Launcher(Protocol):
    """Starts the processes of workers. All calls are made by the supervisor, and none blocks."""

    def launch(self, worker: Worker) -> None:
        """Start a process for `worker`; calls `launched` or `launch_failed` of the supervisor, now or later."""

    def exit_code_of(self, process: WorkerProcess) -> int | None:
        """Return the exit code of a process that has ended, or None while it is not known."""

    def expects_exit_code(self, process: WorkerProcess) -> bool:
        """Whether an exit code that is not known yet will be."""
        ...

    def may_wait_longer(self, waited_s: float) -> bool:
        """Whether to wait on for an exit code that has not come for so long; asked now and then."""
        ...

    def look_for_exits(self) -> None:
        """Take the exit codes that have come, without a wait. For when everything else that was ready is done."""

    def release(self, process: WorkerProcess) -> None:
        """The pid may be used again."""

    def preload(self, module: str) -> None:
        """Have workers that start later import `module` before, if that is possible."""

    def close(self) -> None:
        """Close everything; no worker lives any more."""

    def abandon_in_fork(self) -> None:
        """In a fork of this process, where its descriptors are closed: forget them."""

    @property
    def is_starting(self) -> bool:
        """Whether a start is under way."""
        ...

    @property
    def look_s(self) -> float:
        """When `look_after` is due; `inf` while no start is under way."""
        ...

    def look_after(self, now_s: float) -> None:
        """Give up starts that take too long."""


class WorkerProcess:
    """The process of a worker, from the parent's side. `channel` are its pipes."""

    __slots__ = (
        "channel", "cpu_s", "death_fd", "descendants", "exit_code", "how_cut_off", "is_closed", "is_dead", "is_held",
        "launcher", "logged", "no_stack_reason", "notes_fd", "notes_seen", "output", "peak_bytes", "pid", "pidfd",
        "process", "protocol_error", "relayed", "stack", "unrelayed_bytes", "worker",
    )  # fmt: skip

    def __init__(
        self,
        launcher: Launcher,
        worker: Worker,
        pid: int,
        channel: Channel,
        death_fd: int,
        pidfd: int | None,
        notes_fd: int,
        process: BaseProcess | None = None,
    ) -> None:
        self.launcher = launcher
        self.worker = worker
        self.pid = pid
        self.channel = channel
        self.death_fd = death_fd  # readable when the process has ended
        self.pidfd = pidfd
        self.notes_fd = notes_fd
        self.notes_seen = 0
        self.process = process
        self.exit_code: int | None = None
        self.cpu_s: float | None = None  # over its life, with the children that it waited for
        self.logged: deque[tuple[int, bytes]] | None = None  # last records, each with the number of its request
        # Requests whose records or lines of output are on their way: their handles wait for these. Several, because the
        # next request may log before the end of the one before is dealt with.
        self.relayed: set[int] = set()
        self.unrelayed_bytes = 0  # of records, since the last pause for the parent's handlers
        self.output: Pipes | None = None  # of the attempt that runs
        self.is_dead = False  # it has ended; it is a zombie until it is released
        self.is_held = pidfd is not None  # when it ends it stays a zombie until it is released
        self.is_closed = False
        self.stack: str | None = None  # taken before it was stopped
        self.no_stack_reason: str | None = None
        self.how_cut_off = ""  # why it could send no more, though it lived; then it was killed
        self.protocol_error: str | None = None  # what was wrong with what it sent
        self.peak_bytes = 0  # its highest known resident size, without its descendants
        self.descendants: dict[int, float] = {}  # pid -> start time, listed before the first signal

    def signal_group(self, signal_number: int) -> None:
        """Signal the worker's process group, if its number cannot have been reused.

        The pid of a zombie is not reused, and neither is the number of a group that has members. Otherwise the number
        of a dead process may belong to another one.
        """
        if self.is_closed or (self.is_dead and not self.is_held and not self._has_group()):
            return
        try:
            os.killpg(self.pid, signal_number)
        except (ProcessLookupError, PermissionError):
            # It has not made itself a group leader yet (or macOS reports a group of zombies this way).
            if not self.is_dead:
                _platform.send_signal(self.pidfd, self.pid, signal_number)

    def _has_group(self) -> bool:
        """Whether a process that is known to be below it is in its group."""
        for pid, start in self.descendants.items():
            try:
                if _platform.start_time(pid) == start and os.getpgid(pid) == self.pid:
                    return True
            except ProcessLookupError:
                pass
        return False

    def list_descendants(self) -> None:
        """Note what the worker has started, while it can still be found below it, and what it held."""
        self.peak_bytes = max(self.peak_bytes, _platform.peak_bytes(self.pid))
        self.descendants.update(_platform.descendants(self.pid))

    def kill_tree(self) -> None:
        """End the worker, its group, and what it started that has left the group."""
        if self.is_closed:
            return
        if not self.is_dead:  # a dead process has no children any more: only those listed before are known
            self.list_descendants()
        self.signal_group(signal.SIGKILL)
        for pid, start in self.descendants.items():
            if _platform.start_time(pid) == start:
                for child, child_start in _platform.descendants(pid):
                    if _platform.start_time(child) == child_start:
                        _platform.send_signal(None, child, signal.SIGKILL)
                _platform.send_signal(None, pid, signal.SIGKILL)

    # -- what it notes -------------------------------------------------------------------------------------

    def ask_for_stack(self) -> bool:
        """Have the child dump its Python stacks; return False where that is not possible."""
        if not _platform.STACK_SIGNAL or self.is_dead or self.is_closed:
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

    def _notes_size(self) -> int:
        try:
            return os.fstat(self.notes_fd).st_size
        except OSError:
            return 0

    def note_record(self, sequence: int, body: bytes) -> None:
        """Keep what the worker logged, for the case that it dies."""
        if self.logged is None:
            self.logged = deque(maxlen=LOG_TAIL)
        self.logged.append((sequence, body))

    def log_tail(self, sequence: int) -> tuple[bytes, ...]:
        """Return the last records that came while request `sequence` ran; 0 stands for before the first."""
        return tuple(body for number, body in self.logged or () if number == sequence)

    # -- its end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all descriptors, and release the pid."""
        if self.is_closed:
            return
        self.is_closed = True
        self.channel.close()
        if self.output is not None:
            self.output.close()
        fds = {self.notes_fd} if self.pidfd is None else {self.notes_fd, self.pidfd}
        self.notes_fd = -1
        for fd in fds:
            os.close(fd)
        self.launcher.release(self)

    def fds(self) -> list[int]:
        """Return the descriptors that are open."""
        if self.is_closed:
            return []
        output = () if self.output is None else self.output.fds
        return [*self.channel.fds(), *output, self.notes_fd, *([] if self.pidfd is None else [self.pidfd])]
