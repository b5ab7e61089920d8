"""Closes without a call of `close`: on a signal, and when the interpreter exits."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

_exit_lock = threading.Lock()
_is_registered_for_exit = False


class Closing(Protocol):
    """What this module needs of the supervisor."""

    def ask_to_close(self, timeout_s: float | None) -> None:
        """Begin to close, without waiting."""
        ...

    def close(self, timeout_s: float | None) -> object:
        """Close, and wait for the end."""
        ...


@contextmanager
def closing_on_signals(closing: Closing, signals: tuple[int, ...], timeout_s: float | None) -> Iterator[None]:
    """Close when one of `signals` comes, at once when a second one comes; see `Manager.closing_on`."""
    # Python lets the main thread alone set handlers. To find that out later would leave a thread and descriptors.
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("closing_on sets signal handlers, which Python allows in the main thread only")
    seen: list[int] = []

    def note(signal_number: int, frame: Any) -> None:
        seen.append(signal_number)
        if len(seen) > 1:
            raise KeyboardInterrupt if signal_number == signal.SIGINT else SystemExit(128 + signal_number)

    with ExitStack() as undo:
        # Python runs a handler when the main thread next executes bytecode, and a signal that comes just before
        # that thread blocks in a lock may find it there for good. The interpreter's C handler writes to this pipe
        # at once, and a thread of ours acts on it.
        read_fd, write_fd = os.pipe()
        undo.callback(os.close, read_fd)
        close_write_fd = ExitStack()
        close_write_fd.callback(os.close, write_fd)
        undo.callback(close_write_fd.close)
        os.set_blocking(write_fd, False)
        listener = threading.Thread(
            target=_close_when_signalled, args=(read_fd, closing, frozenset(signals), timeout_s),
            name="procbackground-signals", daemon=True,
        )  # fmt: skip
        listener.start()
        undo.callback(listener.join)
        undo.callback(close_write_fd.close)  # this ends the thread
        undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False))
        for number in signals:
            undo.callback(signal.signal, number, signal.signal(number, note))
        yield
        if seen:
            closing.close(timeout_s)


def _close_when_signalled(
    fd: int, closing: Closing, signals: frozenset[int], timeout_s: float | None
) -> None:
    """Close at the first of `signals` that comes by the wake-up pipe, at once at the second; end with the pipe."""
    seen = 0
    while numbers := os.read(fd, 64):
        for number in numbers:
            if number in signals:
                seen += 1
                closing.ask_to_close(timeout_s if seen == 1 else 0.0)


def register_for_exit(close_all: Callable[[], None]) -> None:
    """Have `close_all` called when the interpreter exits, before it joins threads and before `multiprocessing` joins
    its children: both would wait for ours."""
    global _is_registered_for_exit
    with _exit_lock:
        if _is_registered_for_exit:
            return
        _is_registered_for_exit = True
    try:
        threading._register_atexit(close_all)  # type: ignore[attr-defined]  # as concurrent.futures does
    except RuntimeError:
        close_all()  # the interpreter exits already
