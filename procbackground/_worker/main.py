"""The life of a worker process: signals, handshake, request loop, exit.

Sixth stop of a task. A worker owns two pipes and a line of the shared page, and shares no lock with another process.
So it can be killed at any instruction without harm to others.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # of the standard library, and unknown to type checkers
import faulthandler
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing import process, util

from procbackground import _platform
from procbackground._wire import frames as wire
from procbackground._wire.failures import dump_failure
from procbackground._wire.page import MARK, PACE, PID, REVOKED, STARTED, STOP, WORDS_PER_LINE, pack_pace
from procbackground._wire.surroundings import has_problem, raise_problem
from procbackground._worker import handlers, relay
from procbackground._worker.boot import Boot
from procbackground._worker.channel import Channel
from procbackground._worker.debugger import refuse_debuggers
from procbackground._worker.execute import Executor
from procbackground._worker.inbox import Inbox
from procbackground._worker.stderr import StderrCopy
from procbackground._worker.stop import StopTask
from procbackground._worker.title import Title
from procbackground.context import set_finder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

QUEUES_S = 1.0  # for the threads of queues to write what they hold
# By which the parent speaks to a worker: never blocked, also where the parent takes its own by `sigwait`.
NEEDED_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, _platform.STACK_SIGNAL} - {0})

_serving: Worker | None = None  # what this process is, from its first step to a fork of it


class WorkerFds:
    """The descriptors that one worker owns."""

    def __init__(self, tasks: int, results: int, side: int) -> None:
        self.tasks = tasks
        self.results = results
        self.side = side  # socket for the descriptors of parcels


class Worker:
    """One worker process, from its start to its exit.

    A zygote makes one before it forks, and each fork uses a copy: setting up an object in a fork costs a page fault
    for nearly everything that it reads.
    """

    def __init__(self, words: memoryview, boot: Boot) -> None:
        self.words = words
        self.base = 0
        self.boot = boot
        self.channel = Channel()
        self.executor = Executor(self.channel, words)
        self.executor.slots = boot.slots
        self.stderr = StderrCopy(words)
        self.pid = -1
        self.is_rehearsal = False  # which sets no title and guards no handlers
        self.is_forked = False  # by a zygote, which adopts our orphans
        self._is_prepared = False

    @property
    def may_hang(self) -> bool:
        """Whether the user's code runs before the first request is read."""
        boot = self.boot
        return bool(boot.setup or boot.initializer or boot.is_main_forks_own or not relay.is_prepared())

    def prepare(self) -> None:
        """Do what forks of a zygote need not repeat: each new page that they touch costs 2 µs."""
        self.stderr.install()
        refuse_debuggers()
        self._is_prepared = True

    def relay_logs(self) -> None:
        """Send log records to the parent from now on."""
        relay.install(self.channel, self.boot.log_levels, self.executor.running_request)

    def install_signal_handlers(self, notes_fd: int) -> None:
        """Install the signal handlers of a worker; stack dumps are written to `notes_fd`."""
        if not self.is_rehearsal:
            handlers.guard(self.executor)
        _signal.signal(_signal.SIGINT, do_nothing)  # again: a preloaded module may have set a handler
        _signal.siginterrupt(_signal.SIGINT, False)
        _signal.signal(_signal.SIGTERM, self._on_sigterm)
        if _platform.STACK_SIGNAL:
            faulthandler.register(_platform.STACK_SIGNAL, notes_fd, all_threads=True)
        faulthandler.enable(notes_fd, all_threads=True)

    def run(self, fds: WorkerFds, line: int) -> int:
        """Serve until the parent closes the task pipe; return the exit code."""
        self._begin(fds, line)
        setup, initializer = self.boot.setup, self.boot.initializer
        try:
            if has_problem() and not self._take_step("setup", raise_problem):
                return 1
            if setup is not None and not self._take_step("setup", setup.apply):
                return 1
            if initializer is not None and not self._take_step("initializer", initializer.run):
                return 1
            if initializer is not None:
                self.executor.leftovers.keep()
            self.channel.send(wire.HELLO, 0)
            self.serve(fds.tasks)
        except BaseException as error:
            if self.executor.is_fork:
                end_fork(error)
            if isinstance(error, StopTask):
                return -signal.SIGTERM
            if isinstance(error, OSError):
                return 1  # the task closed our pipes, so that no answer can be sent
            raise
        finally:
            self.executor.output.flush()
        return 0

    def _begin(self, fds: WorkerFds, line: int) -> None:
        """Begin to serve with these descriptors and this line of the page."""
        global _serving
        self.base = line * WORDS_PER_LINE
        self.pid = os.getpid()  # from here on, the handler of SIGTERM reads the line
        self.channel.open(fds.results, fds.side, self.pid)
        self.executor.open(self.base, fds.tasks)
        if self.boot.spool is not None:
            from procbackground._worker.spool import Spool

            self.executor.spool = Spool(f"{self.boot.spool}{self.pid}", self.words, self.base)
            self.executor.spool.open()  # before the first request: a later manager waits for the end of this process
        self.words[self.base + PID] = self.pid  # for the warden
        self.executor.leftovers.open(self.words[self.base + MARK], os.getppid() if self.is_forked else 0)
        if not self.is_rehearsal:
            if not self._is_prepared:
                self.prepare()
            self.stderr.open(self.base, self.pid)
            self.executor.title = Title()
        set_finder(self.executor.current)
        _serving = self

    def serve(self, task_fd: int) -> None:
        """Execute requests until the task pipe ends, or a stop is requested."""
        words, base = self.words, self.base
        started, revoked, stop, pace = base + STARTED, base + REVOKED, base + STOP, base + PACE
        reader = wire.FrameReader()
        inbox = Inbox(task_fd)
        execute, send = self.executor.call, self.channel.send
        frames: list[tuple[int, int, bytes]] = []
        read_s = 0.0
        while True:
            data = inbox.read(len(frames) == 1, read_s)
            if not data:
                return
            read_s = time.perf_counter() if frames else 0.0
            frames = reader.feed(data)
            if reader.error is not None:
                raise reader.error
            for kind, sequence, body in frames:
                # Store `started` first, then read `revoked`. The parent stores `revoked` first and reads `started`
                # after a pause, so at least one side sees the other's store. If the process dies, the parent charges
                # the death to the request in `started`.
                words[started] = sequence
                if sequence <= words[revoked]:
                    if kind == wire.RELEASE:
                        self.channel.release_share(body)
                        continue
                    if body[0] & wire.PARCEL:
                        self.channel.drop_parcel(kind, body)
                    send(wire.SKIPPED, sequence)
                elif kind == wire.CALL:
                    if execute(sequence, body):
                        return
                elif kind == wire.LOOP:
                    os.set_blocking(task_fd, True)
                    self.executor.loop(sequence, body)
                    return
                elif kind == wire.RELEASE:
                    self.channel.release_share(body)
                if words[stop]:
                    return
            if read_s and frames:  # not of the first: many workers serve a single request, and must cost little
                # The parent cannot know: by its clock, what a request waits for the parent is part of what it took.
                words[pace] = pack_pace((time.perf_counter() - read_s) / len(frames), frames[-1][1])

    def _take_step(self, what: str, step: Callable[[], object]) -> bool:
        """Take a step that must succeed before any task may run; report a failure to the parent."""
        try:
            step()
        except BaseException as error:
            if self.executor.is_fork:
                raise
            import logging

            # As ProcessPoolExecutor does: the program may never look at the futures of its tasks.
            logging.getLogger("concurrent.futures").critical("Exception in %s:", what, exc_info=True)
            flush_output()
            _finish_queues()
            self.channel.send(wire.BROKEN, 0, dump_failure(error, frames_to_skip=2))
            return False
        if self.executor.is_fork:
            raise SystemExit(0)
        return True

    def _on_sigterm(self, signal_number: int, frame: Any) -> None:
        # A SIGTERM that the parent did not announce, or in a process that the task forked, has its default effect.
        if os.getpid() != self.pid or not self.words[self.base + STOP]:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        # An announced one unwinds the task, unless the task checks `stopping` itself. Outside a call it does nothing:
        # an answer may be half written, and the request loop reads STOP afterwards.
        elif self.executor.is_calling:
            self.executor.stop()


def forget_worker() -> None:
    """This process serves no more; or, after a rehearsal, it has never served."""
    global _serving
    _serving = None
    handlers.guard(None)


def _detach_fork() -> None:
    """In a fork of a worker that the user's code has made: what it comes to is not the worker's answer."""
    worker = _serving
    if worker is not None:
        forget_worker()  # a manager of its own may make it a worker again
        worker.executor.become_fork()


os.register_at_fork(after_in_child=_detach_fork)


def end_fork(error: BaseException) -> NoReturn:
    """End a fork of the worker in which the user's code has ended with `error`, as the interpreter ends a program.

    Without the exit handlers, which are the worker's: they may remove files that it needs.
    """
    code: Any = 1
    try:
        if isinstance(error, SystemExit):
            code = 0 if error.code is None else error.code
            if not isinstance(code, int):
                print(code, file=sys.stderr)
                code = 1
        else:
            sys.excepthook(type(error), error, error.__traceback__)
        flush_output()
    finally:
        os._exit(code & 0xFF if isinstance(code, int) else 1)


def detach_from_zygote(fds: Iterable[int]) -> None:
    """In a fork of a zygote: close the zygote's descriptors, and stop watching its children."""
    # `_signal` rather than `signal`, whose enums would be copied, page by page.
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    for fd in fds:
        os.close(fd)


def flush_output() -> None:
    """Flush the output of the task: a killed process loses its buffers."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # closed by the task, or absent


def forget_inherited_output() -> None:
    """In a fork of the parent: drop buffered output that the parent will write itself.

    `multiprocessing` flushes before it forks, but another thread may print in between, and its text would appear twice.
    Only the interpreter's own streams: another stream may have been locked by a thread at the fork, and stays so.
    """
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            assert stream is not None
            fd = stream.fileno()
            kept = os.dup(fd)
        except Exception:
            continue  # closed, absent, or no descriptor is left
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, fd)
            os.close(nowhere)
            stream.flush()
        except Exception:
            pass
        finally:
            os.dup2(kept, fd)
            os.close(kept)


def forget_parents_handlers() -> None:
    """In a fork of the parent: have signals their default effects again, as in a program that was just started.

    Otherwise a signal to this process would be one to the parent: its event loop, for example, reads the numbers of
    signals from a socket that both have.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def do_nothing(signal_number: int, frame: Any) -> None:
    """A handler of SIGINT. Programs that a task starts would inherit SIG_IGN, and could not be interrupted."""


def ignore_interrupts() -> None:
    """Ignore SIGINT: the parent handles Ctrl-C."""
    signal.signal(signal.SIGINT, do_nothing)
    signal.siginterrupt(signal.SIGINT, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NEEDED_SIGNALS)  # SIGINT was blocked while this process started


def keep_lines_whole() -> None:
    """Buffer lines of output if Python does not buffer at all (-u, PYTHONUNBUFFERED).

    An unbuffered `print` writes its text and the end of the line separately, and other workers write in between.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.write_through:
            stream.reconfigure(line_buffering=True, write_through=False)


def lead_own_group() -> None:
    """Lead a process group and a session of its own, without the terminal whose Ctrl-C is for the parent."""
    try:
        os.setsid()
    except PermissionError:
        pass  # leads its group already


def _finish_queues() -> None:
    """Flush the queues that the initializer wrote to, before the parent reports the failure to their readers.

    Bounded, because a queue that cannot be flushed must not delay the report for ever.
    """
    thread = threading.Thread(target=util._exit_function, daemon=True)  # type: ignore[attr-defined]
    thread.start()
    thread.join(QUEUES_S)


def find_exit_work() -> tuple[bool, bool]:
    """Return whether threads (or their exit functions) and finalizers of `multiprocessing` may have to be run."""
    # Python 3.13 and later do not show here whether there are threads to join.
    threads = getattr(threading, "_shutdown_locks", True) or threading._threading_atexits  # type: ignore[attr-defined]
    return bool(threads), bool(util._finalizer_registry or process._children)  # type: ignore[attr-defined]


def _save_coverage() -> None:
    """Write what coverage.py has measured here, if it is at work: it does so as a process returns, and we end it."""
    coverage: Any = sys.modules.get("coverage")
    if coverage is None:
        return
    try:
        measured = coverage.Coverage.current()
        if measured is not None:
            measured.stop()
            measured.save()
    except Exception:
        pass  # a measurement must not fail the task


def leave(exit_code: int) -> None:
    """Run the exit handlers that `multiprocessing` would run, then end this process without fail."""
    try:
        has_threads, has_finalizers = find_exit_work()
        if has_threads:
            threading._shutdown()  # type: ignore[attr-defined]  # joins the task's threads, shuts down its executors
        if has_finalizers:
            util._exit_function()  # type: ignore[attr-defined]
        _save_coverage()
        flush_output()
    finally:
        if exit_code < 0:
            signal.signal(-exit_code, signal.SIG_DFL)
            os.kill(os.getpid(), -exit_code)
        os._exit(exit_code & 0xFF)
