"""Closes without a call of `close`: at the end of a `with` block, on a signal, and when the interpreter exits."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from _thread import get_ident, start_new_thread
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import process, util
from typing import Any, Protocol

from procbackground._sync import Latch
from procbackground.errors import ProcbackgroundError

JOIN_S = 5.0  # for a thread to end that has nothing to wait for
FIRST_PRIORITY = 1000  # before queues are closed, into which the last tasks' callbacks may put results

_exit_lock = threading.Lock()
_is_registered_for_exit = False
_finalizers_pid = -1  # of the process in which the finalizer of `multiprocessing` is registered


class Closing(Protocol):
    """What this module needs of the supervisor."""

    def ask_to_close(self, timeout_s: float | None) -> None:
        """Begin to close, without waiting."""
        ...

    def kill_all(self) -> None:
        """During a close, end what still runs at once."""
        ...

    def leave(self) -> None:
        """During a close: do not wait for its end any more, at the exit of the interpreter either."""
        ...

    def close(self, timeout_s: float | None) -> object:
        """Close, and wait for the end."""
        ...


# -- the end of a `with` block -------------------------------------------------------------------------------


class _Hurry:
    """How soon a block is to be left: each interrupt of the wait shortens it, and the third ends it."""

    def __init__(self, closing: Closing, error_type: type[BaseException] | None) -> None:
        self._closing = closing
        self._error_type = error_type
        self._level = 0 if error_type is None else 1
        self._interrupt: BaseException | None = None
        self.timeout_s: float | None = None if error_type is None else 0.0

    def interrupted(self, error: BaseException) -> bool:
        """Hasten the end because of `error`; return whether to go on waiting for it."""
        # One more Ctrl-C says nothing that the program does not know: it is ended by the first.
        if self._error_type is None or not issubclass(self._error_type, type(error)):
            self._interrupt = self._interrupt or error
        self._level += 1
        self.timeout_s = 0.0
        if self._level == 1:
            self._closing.ask_to_close(0.0)
        elif self._level == 2:
            self._closing.kill_all()
        else:
            self._closing.leave()
        return self._level < 3

    def pass_on(self) -> None:
        """Raise what interrupted the wait, unless the block is being left by the same."""
        if self._interrupt is not None:
            raise self._interrupt


def close_block(closing: Closing, error_type: type[BaseException] | None) -> None:
    """Close at the end of a `with` block, which is left by an exception of `error_type` or by itself."""
    hurry = _Hurry(closing, error_type)
    while True:
        try:
            closing.close(hurry.timeout_s)
            break
        except ProcbackgroundError:
            raise
        except BaseException as error:
            if not hurry.interrupted(error):
                break
    hurry.pass_on()


async def close_block_async(closing: Closing, error_type: type[BaseException] | None) -> None:
    """Do the same at the end of an `async with` block, without blocking the event loop."""
    import asyncio

    hurry = _Hurry(closing, error_type)
    waiting = asyncio.ensure_future(asyncio.to_thread(closing.close, hurry.timeout_s))
    while not waiting.done():
        try:
            await asyncio.wait([waiting])  # which a cancellation of the wait does not cancel
        except BaseException as error:
            if not hurry.interrupted(error):
                break
    hurry.pass_on()
    waiting.result()


# -- signals -------------------------------------------------------------------------------------------------


class _SignalListener:
    """Receives signals at once, whatever the main thread does, and passes them on to all other listeners.

    Python runs a handler when the main thread next executes bytecode, and a signal that comes just before that thread
    blocks in a lock may find it there for good. The interpreter's C handler writes each signal's number to a descriptor
    at once. There is one such descriptor, which event loops use as well: so this one passes on what it reads to the one
    that was set before, and stays in its place where another is set while it listens.
    """

    def __init__(self, closing: Closing, signals: tuple[int, ...], timeout_s: float | None) -> None:
        self._closing = closing
        self.signals = signals
        self._timeout_s = timeout_s
        self._handled = 0  # signals whose handler ran
        self._level = 0
        self._before: dict[int, Any] = {}  # handlers
        self._next_fd = -1  # the descriptor of others, which gets all that is read here
        self._read_fd = self._write_fd = -1
        self._is_over = False
        self._has_ended = Latch()
        self._set_wakeup_fd: Any = signal.set_wakeup_fd

    @property
    def was_signalled(self) -> bool:
        return self._level > 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        with ExitStack() as undo:
            self._read_fd, self._write_fd = os.pipe()
            undo.callback(self._close_pipe)
            os.set_blocking(self._write_fd, False)
            # One call: a signal during `Thread.start` would leave a thread without an owner.
            start_new_thread(self._listen, ())
            undo.callback(self._end_thread)
            undo.callback(self._release)
            _listeners.append(self)
            self._next_fd = self._set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
            signal.set_wakeup_fd = self._set_by_another
            for number in self.signals:
                self._before[number] = signal.signal(number, self._on_signal)
            yield

    def _close_pipe(self) -> None:
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)

    def _end_thread(self) -> None:
        self._is_over = True
        if self._write_fd < 0:
            return  # a fork of the process, which has no such thread
        try:
            os.write(self._write_fd, b"\0")  # not by closing it: a fork of this process may have a copy
        except BlockingIOError:
            pass  # it has something to read
        self._has_ended.wait(JOIN_S)

    def _release(self) -> None:
        """Take the handlers and the descriptor back, those that others have set meanwhile excepted."""
        if self not in _listeners:
            return
        _listeners.remove(self)
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._on_signal and handler is not None:  # None: it was set by C code
                signal.signal(number, handler)
        if signal.set_wakeup_fd == self._set_by_another:
            signal.set_wakeup_fd = self._set_wakeup_fd
        try:
            current = self._set_wakeup_fd(self._next_fd)
            if current not in (self._write_fd, self._next_fd):
                self._set_wakeup_fd(current)
        except (OSError, ValueError):
            self._set_wakeup_fd(-1)  # that of the others is closed

    def _set_by_another(self, fd: int, *, warn_on_full_buffer: bool = True) -> int:
        """`signal.set_wakeup_fd`, while this listens."""
        if threading.current_thread() is not threading.main_thread():
            return self._set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer)  # type: ignore[no-any-return]  # raises
        if fd != -1 and os.get_blocking(fd):
            raise ValueError(f"the fd {fd} must be in non-blocking mode")
        before, self._next_fd = self._next_fd, fd
        return before

    def _on_signal(self, number: int, frame: Any) -> None:
        self._handled += 1
        level = self._handled
        self._take(level)
        before = self._before.get(number)
        if callable(before) and not _ends_program(before):
            before(number, frame)
        if level > 1:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _listen(self) -> None:
        heard = 0
        while not self._is_over:
            data = os.read(self._read_fd, 64).replace(b"\0", b"")
            for number in data:
                if number in self.signals:
                    heard += 1
                    self._take(heard)
            fd = self._next_fd
            if fd >= 0 and data:
                try:
                    os.write(fd, data)
                except OSError:
                    pass  # full: its reader will wake up in any case; or closed
        self._has_ended.set()

    def _take(self, level: int) -> None:
        """Act on the signal number `level`, which the handler and the thread both report."""
        if level > self._level:
            self._level = level
            self._closing.ask_to_close(self._timeout_s if level == 1 else 0.0)
            if level > 2:
                self._closing.kill_all()

    def leave_fork(self) -> None:
        """In a fork of this process, where no thread listens: its signals are nothing to its parent."""
        self._release()
        self._close_pipe()
        self._read_fd, self._write_fd = -1, -1  # if the fork leaves the block, too


_listeners: list[_SignalListener] = []


def _ends_program(handler: Any) -> bool:
    """Whether this handler of SIGINT is one that Python or asyncio has where a program has none of its own."""
    owner = getattr(getattr(handler, "func", handler), "__self__", None)
    return handler is signal.default_int_handler or type(owner).__module__ == "asyncio.runners"


@contextmanager
def closing_on_signals(closing: Closing, signals: tuple[int, ...], timeout_s: float | None) -> Iterator[None]:
    """Close when one of `signals` comes, at once when a second one comes; see `Manager.closing_on`."""
    # Python lets the main thread alone set handlers. To find that out later would leave a thread and descriptors.
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("closing_on sets signal handlers, which Python allows in the main thread only")
    if not signals:
        raise ValueError("closing_on takes the signals to close on, such as closing_on(signal.SIGTERM, signal.SIGINT)")
    for number in signals:
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"closing_on takes signals, such as signal.SIGTERM, not {number!r}")
        if number in (getattr(signal, "SIGKILL", 0), getattr(signal, "SIGSTOP", 0)):
            raise ValueError(f"closing_on: no program can handle {signal.Signals(number).name}; write signal.SIGTERM")
    listener = _SignalListener(closing, signals, timeout_s)
    with listener.listening():
        yield
        if listener.was_signalled:
            closing.close(timeout_s)


# A fork begins with the signals blocked, else one that comes before `_leave_fork` would reach the parent, and be lost.
_masks: dict[int, set[int]] = {}  # of the threads that fork


def _before_fork() -> None:
    if _listeners:
        numbers = {number for listener in _listeners for number in listener.signals}
        _masks[get_ident()] = set(signal.pthread_sigmask(signal.SIG_BLOCK, numbers))


def _after_fork() -> None:
    mask = _masks.pop(get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave_fork() -> None:
    for listener in reversed(_listeners[:]):
        listener.leave_fork()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_leave_fork)


# -- the exit of the interpreter -----------------------------------------------------------------------------


def register_for_exit(close_all: Callable[[], None]) -> None:
    """Have `close_all` called when the interpreter exits, before it joins threads and before `multiprocessing` joins
    its children: both would wait for ours."""
    global _is_registered_for_exit, _finalizers_pid
    if process.parent_process() is not None and _finalizers_pid != os.getpid():
        # A child of `multiprocessing` joins its own children before its threads.
        _finalizers_pid = os.getpid()
        util.Finalize(None, close_all, exitpriority=FIRST_PRIORITY)
    with _exit_lock:
        if _is_registered_for_exit:
            return
        _is_registered_for_exit = True
    # For the case that another such function, or a signal before ours, raises: `threading` calls no more of them then.
    atexit.register(close_all)
    try:
        threading._register_atexit(close_all)  # type: ignore[attr-defined]  # as concurrent.futures does
    except RuntimeError:
        close_all()  # the interpreter exits already
