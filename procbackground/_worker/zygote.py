"""The zygote's side of starting workers: a small single-threaded process that forks them when asked to.

A fork of it takes a millisecond, where a process of a fork server takes ten, most of them for imports that the
zygote did once. It is itself started through `multiprocessing`, has prepared `__main__` as any child has, and never
runs a task. Workers survive its death. Linux only: it passes pidfds.

It is also the parent of the processes that its workers leave behind. So it can end processes that left a worker's
group, at the manager's close and when the manager's process dies: then the kernel ends the workers at once, and the
zygote ends the rest.
"""

from __future__ import annotations

import importlib
import os
import pickle
import select
import signal
import socket
import sys
import time
import warnings

from procbackground import _platform
from procbackground._platform import marks
from procbackground._wire.forking import CLOSE, FORK, FORK_ARGS, PID, PRELOAD, REAP, UNFIT
from procbackground._wire.page import MARK, WORDS_PER_LINE
from procbackground._worker import title
from procbackground._worker.boot import Boot, prepare_main
from procbackground._worker.deputy import Deputy, Handover
from procbackground._worker.descendants import end_all_below, end_with_parent
from procbackground._worker.fitness import Traces
from procbackground._worker.forker import Forker, ZygoteFds
from procbackground._worker.main import flush_output, ignore_interrupts, keep_lines_whole
from procbackground._worker.rehearsal import rehearse

# Between the end of the control socket and that of the life pipe, when the parent dies: on a busy machine not at once.
# A manager that has replaced this zygote kills it.
LIFE_END_S = 5.0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

NEVER_S = float("inf")
LOOK_PAUSE_S = 0.1  # between two looks at adopted processes: listing children costs 5 % of a fork
# From a fork to the work that later forks gain from, 10 ms of it: on two cores the first result would wait for that.
WARM_UP_AFTER_S = 0.03


def serve(fds: ZygoteFds, boot: Boot, preload: tuple[str, ...]) -> None:
    """Serve the manager until it closes the control socket. Runs as the target of a `multiprocessing` process."""
    try:
        os.setsid()
    except PermissionError:
        pass  # leads its group already
    # During an import the zygote cannot react to the parent's end: the kernel does.
    life_fd = _platform.open_life_pipe(fds.life)
    _platform.own_life_pipe(life_fd)
    _platform.end_if_over(life_fd)
    ignore_interrupts()
    title.show("zygote")
    if sys.version_info >= (3, 12):
        # Python warns of a fork in a process with threads. `fitness` looks for those that matter.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    control = socket.socket(fileno=fds.control)
    zygote = _Zygote(control, fds, life_fd, boot)
    if not boot.is_main_forks_own:
        zygote.import_main(boot)
    for module in preload:
        zygote.report_unfit(module, zygote.preload(module))
    try:
        zygote.serve()
    except OSError:
        zygote.leave()  # during an answer
    control.close()


class _Zygote(Forker):
    def __init__(self, control: socket.socket, fds: ZygoteFds, life_fd: int, boot: Boot) -> None:
        super().__init__(control, fds, life_fd, boot)
        self._modules: list[str] = []  # to be imported, in this order
        self._is_rehearsed = False
        self._adopts_orphans = False
        self._has_tried_to_adopt = False
        self._was_closed = False  # by the manager, which waits for this process now
        self._child_ended: tuple[int, int] | None = None  # pipe: readable when some child has ended
        self._wants_look = False  # at adopted processes
        self._look_due_s = 0.0
        self._warm_up_due_s = NEVER_S

    def serve(self) -> None:
        _platform.disarm_life_pipe(self._life_fd)
        self._poll.register(self._life_fd, 0)  # its end is reported all the same
        pause_ms: float | None = None
        while True:
            for fd, _ in self._poll.poll(pause_ms):
                if fd in self._pidfds:
                    self._report_exit(fd)
                elif fd == self._life_fd:
                    end_with_parent()
                elif self._child_ended is not None and fd == self._child_ended[0]:
                    os.read(fd, 4096)
                    self._wants_look = True
                elif fd == self._control.fileno() and not self._obey():
                    if not self._was_closed:
                        self.leave()
                    return
            while self._modules:
                self._preload_deputised(self._modules.pop(0))
            pause_ms = self._do_chores() if self._wants_look or self._warm_up_due_s != NEVER_S else None

    def leave(self) -> None:
        """Handle the end of the control socket: the manager has replaced the zygote, or its process is dying.

        Workers survive a replacement, but not the end of the manager's process.
        """
        life = select.poll()
        life.register(self._life_fd, 0)
        if life.poll(LIFE_END_S * 1000):
            end_with_parent()

    def _obey(self) -> bool:
        request = self._control.recv(4096)
        if not request:
            return False
        kind, body = request[:1], request[1:]
        if kind == FORK:
            self._adopt_orphans()  # first: a worker's first task may leave some
            self._fork(*FORK_ARGS.unpack(body))
            if not self._is_frozen and self._warm_up_due_s == NEVER_S:
                self._warm_up_due_s = time.monotonic() + WARM_UP_AFTER_S
        elif kind == REAP:
            self._reap(*PID.unpack(body))
            self._wants_look = self._adopts_orphans  # at what this worker has left
        elif kind == PRELOAD:
            self._modules.append(body.decode())
        elif kind == CLOSE:
            end_all_below(os.getpid())
            self._was_closed = True
            return False
        return True

    def _do_chores(self) -> float | None:
        """Do what is due beside requests; return the milliseconds until more is, or None."""
        now_s = time.monotonic()
        if now_s >= self._warm_up_due_s:
            self._warm_up()
        if self._wants_look and now_s >= self._look_due_s:
            self._look_at_adopted(now_s)
        due_s = min(self._warm_up_due_s, self._look_due_s if self._wants_look else NEVER_S)
        return None if due_s == NEVER_S else max(0.0, due_s - time.monotonic()) * 1000

    def _warm_up(self) -> None:
        """Have later forks cost less. Not before the first ones, which are hardly slower."""
        self._warm_up_due_s = NEVER_S
        if not self._is_rehearsed:
            self._is_rehearsed = True
            self._forget_preparation()
            rehearse()
            self._wants_look = self._adopts_orphans  # a SIGCHLD may have been lost
            _platform.usage_of_dead(os.getpid())  # a dry run: the first such call imports for 4 ms
        self._freeze()

    # -- orphans -------------------------------------------------------------------------------------------

    def _adopt_orphans(self) -> None:
        """Become the parent of the processes that workers leave behind."""
        if self._has_tried_to_adopt:
            return
        try:
            ends = os.pipe()
        except OSError:
            return  # no descriptor is left; the next fork tries again
        self._has_tried_to_adopt = True
        if not _platform.adopt_orphans():
            for fd in ends:
                os.close(fd)
            return
        self._adopts_orphans = True
        self._child_ended = ends
        self._not_for_workers += ends
        for fd in ends:
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # only a signal with a handler wakes the poll
        signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)
        self._poll.register(ends[0], select.POLLIN)

    def _look_at_adopted(self, now_s: float) -> None:
        """Reap adopted processes that have ended, and end those whose worker has."""
        self._look_due_s = now_s + LOOK_PAUSE_S
        self._wants_look = False
        for pid in _platform.children(os.getpid()):
            if pid not in self._unreaped:
                try:
                    if not os.waitpid(pid, os.WNOHANG)[0]:
                        self._end_if_left(pid)
                except ChildProcessError:
                    pass

    def _end_if_left(self, adopted: int) -> None:
        """End a process, and those below it, if the workers that they come from have ended.

        Processes that the dying ones still start are adopted next, and the SIGCHLD of the dead brings another look.
        """
        words = self._worker.words[MARK : self._lines * WORDS_PER_LINE : WORDS_PER_LINE]
        living = {marks.helper_mark(self._family), *words.tolist()}
        for pid in (adopted, *(pid for pid, _ in _platform.descendants(adopted))):
            mark = marks.read_mark(pid)
            if marks.family_of(mark) == self._family and mark not in living:
                try:
                    _platform.send_signal(None, pid, signal.SIGKILL)
                except PermissionError:
                    pass  # of another user, by a set-user-ID program

    # -- imports -------------------------------------------------------------------------------------------

    def _preload_deputised(self, module: str) -> None:
        """Import a module, which may take for ever, while a deputy serves the manager."""
        self._adopt_orphans()  # else the deputy's workers would not become ours
        appointed = self._appoint_deputy() if self._adopts_orphans else None
        if appointed is None:
            # Nothing was adopted, or no process can be started now: the kernel may end us with the parent.
            _platform.rearm_life_pipe(self._life_fd)
            left = self.preload(module)
            _platform.disarm_life_pipe(self._life_fd)
        else:
            left = self.preload(module)
            self._take_over(*appointed)
        self.report_unfit(module, left)

    def _appoint_deputy(self) -> tuple[int, socket.socket] | None:
        """Fork a deputy; return its pid and the socket through which it hands over."""
        zygote_pid = os.getpid()
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            return None
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return None
        if pid == 0:
            self._be_deputy(zygote_pid, ours, theirs)
        theirs.close()
        return pid, ours

    def _be_deputy(self, zygote_pid: int, ours: socket.socket, theirs: socket.socket) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            ours.close()
            Deputy(self, zygote_pid, theirs).serve()
        finally:
            os._exit(1)

    def _take_over(self, pid: int, handover: socket.socket) -> None:
        """Ask the deputy to hand over, and watch its workers, which become our own children when it exits."""
        data = b""
        with handover:
            try:
                handover.shutdown(socket.SHUT_WR)
                while more := handover.recv(65536):
                    data += more
            except OSError:
                pass  # it was killed
        if not data:
            # It was killed, perhaps with requests that it had read. So this is the zygote's death, too: the manager
            # starts another, and asks that one.
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        self._wants_look = True
        result = Handover()
        vars(result).update(pickle.loads(data))
        self._unreaped |= result.unreaped
        self._released |= result.released
        self._lines, self._family = max(self._lines, result.lines), self._family or result.family
        for worker in result.living:
            try:
                self._watch_worker(os.pidfd_open(worker), worker)
            except OSError:
                pass  # no descriptor is left: the manager sees its end by a pidfd of its own
        for pidfd, worker in list(self._pidfds.items()):
            if worker in result.reported:
                self._forget_worker(pidfd)
        for worker in result.to_reap:
            self._reap(worker)
        self._modules += result.modules

    def import_main(self, boot: Boot) -> None:
        """Import the main module, for all workers; or wait to be replaced, if they must not share what that leaves."""
        traces = Traces() if boot.main_import == "auto" else None
        prepare_main(boot)
        self.tidy_output()
        left = None if traces is None else traces.find_new()
        if left is not None:
            self.report_unfit("__main__", left)
            while True:
                signal.pause()

    def preload(self, module: str) -> str | None:
        """Import a module; return what that leaves that workers must not share, or None."""
        try:
            traces = Traces()
        except OSError:
            return None  # no descriptor is left to look with: as if it could not be imported
        self._forget_preparation()
        try:
            importlib.import_module(module)
        except BaseException:
            pass  # the worker that needs the module will report the error
        finally:
            self._is_frozen = False  # also after a failed import, which may have changed state
            self.tidy_output()
        try:
            return traces.find_new()
        except OSError:
            return "it cannot be seen what it left, as no descriptor is left"

    def tidy_output(self) -> None:
        """After an import: write out what it printed, so that workers do not print it again."""
        keep_lines_whole()
        flush_output()

    def report_unfit(self, module: str, left: str | None) -> None:
        """Report to the manager if importing `module` has left what forks must not share."""
        if left is not None:
            self._control.send(UNFIT + f"{module}\0{left}".encode(errors="replace")[:4000])
