"""The zygote's deputy: a fork of the zygote that serves the manager while the zygote imports a module.

An import can take seconds, or never end. Meanwhile the deputy forks workers, reports exits and watches for the parent's
end. When the import is done, the deputy writes a `Handover` and exits. Its workers become the zygote's own children,
because the zygote adopts orphans, and the zygote serves the manager again.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket

from procbackground import _platform
from procbackground._wire.forking import CLOSE, EXIT, EXITED, FORK, FORK_ARGS, PID, PRELOAD, REAP, UNKNOWN_S
from procbackground._worker.descendants import end_all_below
from procbackground._worker.forker import Forker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class Handover:
    """What the zygote takes over from its deputy."""

    def __init__(self) -> None:
        self.living: list[int] = []  # pids of the deputy's workers whose exit was not reported
        self.unreaped: set[int] = set()  # and of all its workers that were not reaped
        self.released: set[int] = set()
        self.reported: set[int] = set()  # workers of the zygote whose exit the deputy reported
        self.to_reap: list[int] = []  # workers of the zygote that the manager released
        self.modules: list[str] = []  # still to be imported
        self.lines = 0  # as `Forker` has it
        self.family = 0


class Deputy(Forker):
    """Serves requests in a fork of the zygote until the other end of `handover` is shut down."""

    def __init__(self, zygote: Forker, zygote_pid: int, handover: socket.socket) -> None:
        vars(self).update(vars(zygote))  # this process is a fork of it
        self._zygote_pid = zygote_pid
        self._zygote_pidfd = os.pidfd_open(zygote_pid)
        self._handover = handover
        self._result = Handover()
        self._zygotes_workers = frozenset(self._unreaped)
        self._zygotes_released = frozenset(self._released)
        self._unreaped, self._released, self._pidfds = set(), set(), {}
        self._not_for_workers = [*self._not_for_workers, self._zygote_pidfd, handover.fileno()]
        self._poll = select.poll()
        for fd, events in (
            (self._control.fileno(), select.POLLIN),
            (handover.fileno(), select.POLLIN),
            (self._zygote_pidfd, select.POLLIN),
            (self._life_fd, 0),  # its end is reported all the same
        ):
            self._poll.register(fd, events)
        for pidfd, pid in zygote._pidfds.items():
            self._watch_worker(pidfd, pid)

    def serve(self) -> NoReturn:
        """Serve until the zygote is back, and end this process."""
        try:
            while True:
                ready = dict(self._poll.poll())
                if self._life_fd in ready:
                    self._end_zygote()
                if self._zygote_pidfd in ready:
                    break  # killed: the manager starts another
                if self._handover.fileno() in ready:
                    self._hand_over()
                    break
                try:
                    for fd in ready:
                        if fd in self._pidfds:
                            self._report_exit(fd)
                        elif fd == self._control.fileno() and not self._obey():
                            self._lose_manager()
                except OSError:
                    self._lose_manager()  # in the middle of an answer
        finally:
            os._exit(0)

    def _obey(self) -> bool:
        request = self._control.recv(4096)
        if not request:
            return False
        kind, body = request[:1], request[1:]
        if kind == FORK:
            self._fork(*FORK_ARGS.unpack(body))
            if not self._is_frozen:
                self._freeze()
        elif kind == REAP:
            self._reap(*PID.unpack(body))
        elif kind == PRELOAD:
            self._result.modules.append(body.decode())
        elif kind == CLOSE:
            self._end_zygote()
        return True

    def _lose_manager(self) -> None:
        """Handle the end of the control socket.

        The manager has replaced the zygote, and kills it; or its process is dying, and the life pipe ends next. Both
        are watched.
        """
        try:
            self._poll.unregister(self._control)
        except KeyError:
            pass  # known already

    def _end_zygote(self) -> NoReturn:
        end_all_below(self._zygote_pid)
        os.kill(self._zygote_pid, signal.SIGKILL)
        os._exit(0)

    def _hand_over(self) -> None:
        result = self._result
        result.living = [pid for pid in self._pidfds.values() if pid not in self._zygotes_workers]
        result.unreaped, result.released = self._unreaped, self._released
        result.lines, result.family = self._lines, self._family
        self._handover.setblocking(True)
        self._handover.sendall(pickle.dumps(vars(result)))

    def _report_exit(self, pidfd: int) -> None:
        pid = self._pidfds[pidfd]
        if pid not in self._zygotes_workers:
            super()._report_exit(pidfd)
            return
        # It is not our child, so that `waitid` would refuse.
        exit_code = _platform.exit_code_of_zombie(pid) if pid not in self._zygotes_released else None
        if exit_code is not None:
            self._control.send(EXITED + EXIT.pack(pid, exit_code, 0, UNKNOWN_S))
            self._result.reported.add(pid)
        self._forget_worker(pidfd)

    def _reap(self, pid: int) -> None:
        if pid in self._zygotes_workers:
            self._result.to_reap.append(pid)
        else:
            super()._reap(pid)
