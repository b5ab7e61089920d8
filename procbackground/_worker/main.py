"""The child's entry: signals, handshake, request loop, exit.

Sixth stop of a task. A worker owns two pipes and a line of the shared page, and shares no lock with anybody: it
can be killed at any instruction and harms itself only.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from procbackground import _platform, _wire
from procbackground._page import REVOKED, STARTED, STOP, WORDS_PER_LINE
from procbackground._pickling import dump_failure
from procbackground._worker import relay
from procbackground._worker.channel import Channel
from procbackground._worker.execute import Executor, StopTask
from procbackground.context import set_finder

if TYPE_CHECKING:
    from procbackground._setup import Setup


class Boot(NamedTuple):
    """What every worker of a manager starts with. Crosses by pickle, or by fork."""

    initializer: bytes | None  # pickled (function, arguments)
    log_level: int  # of the parent: records below it stay in the child
    setup: Setup | None = None


class WorkerFds(NamedTuple):
    """The descriptors of one worker, its own ends; it closes no others."""

    tasks: int
    results: int
    life: int
    notes: int  # takes the stack dumps
    side: int  # socket for the descriptors of parcels


class Worker:
    """One worker process, from its start to its exit."""

    def __init__(self, fds: WorkerFds, words: memoryview, line: int, boot: Boot) -> None:
        self.fds = fds
        self.words = words
        self.base = line * WORDS_PER_LINE
        self.boot = boot
        self.channel = Channel(fds.results, fds.side)
        self.executor = Executor(self.channel, words, self.base, fds.tasks)
        self.pid = os.getpid()

    def run(self) -> int:
        """Serve until the parent closes the task pipe; return the exit code."""
        _lead_own_group()
        self._life_fd = _platform.arm_life_pipe(self.fds.life)
        self._set_signals()
        set_finder(self.executor.current)
        relay.install(self.channel, self.boot.log_level)
        setup, initializer = self.boot.setup, self.boot.initializer
        if setup is not None and not self._begin(setup.apply):
            return 1
        if initializer is not None and not self._begin(_initialize, initializer):
            return 1
        self.channel.send(_wire.HELLO, 0)
        try:
            self._serve()
        except StopTask:
            return -signal.SIGTERM
        except OSError:
            return 1  # the task closed our pipes: nothing can be answered any more
        finally:
            flush_output()
        return 0

    def _serve(self) -> None:
        tasks, words, base = self.fds.tasks, self.words, self.base
        started, revoked, stop = base + STARTED, base + REVOKED, base + STOP
        reader = _wire.FrameReader()
        execute, send = self.executor.call, self.channel.send
        while True:
            data = os.read(tasks, _wire.READ_SIZE)
            if not data:
                return
            for kind, sequence, body in reader.feed(data):
                # First the mark, then the look: the parent sets `revoked` first and looks for the mark after a
                # pause, so one of us sees the other. Whoever is charged for a death is decided by this mark.
                words[started] = sequence
                if sequence <= words[revoked]:
                    if body[0] & _wire.PARCEL:
                        self.channel.receive_parcel(b"")
                    send(_wire.SKIPPED, sequence)
                elif kind == _wire.CALL:
                    execute(sequence, body)
                elif kind == _wire.LOOP:
                    self.executor.loop(sequence, body)
                    return
                if words[stop]:
                    return

    def _begin(self, step: Callable[..., object], *args: Any) -> bool:
        """Take a step without which no task may run; tell the parent if it fails."""
        try:
            step(*args)
        except BaseException as error:
            flush_output()
            self.channel.send(_wire.BROKEN, 0, dump_failure(error, frames_to_skip=2))
            return False
        return True

    def _set_signals(self) -> None:
        # Ctrl-C in a terminal is the parent's to handle.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        if _platform.STACK_SIGNAL:
            faulthandler.register(_platform.STACK_SIGNAL, self.fds.notes, all_threads=True)
        faulthandler.enable(self.fds.notes, all_threads=True)

    def _on_sigterm(self, signal_number: int, frame: Any) -> None:
        # A SIGTERM that the parent did not announce, or that meets a process that the task forked, does what it
        # does everywhere.
        if os.getpid() != self.pid or not self.words[self.base + STOP]:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        # An announced one unwinds the task, unless the task looks after its own end. Outside a call it has
        # nothing to do: an answer may be half written, and the request loop looks at the word after it.
        elif self.executor.is_calling:
            self.executor.stop()


def _initialize(initializer: bytes) -> None:
    import pickle

    fn, args = pickle.loads(initializer)
    fn(*args)


def flush_output() -> None:
    """Write out what the task printed: buffers die with a killed process."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # closed by the task, or absent


def _lead_own_group() -> None:
    try:
        os.setsid()
    except PermissionError:
        pass  # leads its group already


def leave(exit_code: int) -> None:
    """End this process as `multiprocessing` ends its own, then for certain."""
    from multiprocessing import util

    try:
        threading._shutdown()  # type: ignore[attr-defined]  # joins what the task left, runs its executors' exits
        util._exit_function()  # type: ignore[attr-defined]
        flush_output()
    finally:
        if exit_code < 0:
            signal.signal(-exit_code, signal.SIG_DFL)
            os.kill(os.getpid(), -exit_code)
        os._exit(exit_code & 0xFF)
