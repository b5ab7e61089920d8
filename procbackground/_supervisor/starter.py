"""A thread for calls of `multiprocessing` that may block: starting a process, and waiting for the end of a helper.

A fork server that is stopped or busy blocks the thread that asks it for a process, so the supervisor does not ask.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from procbackground._platform.standard import occupy_standard_descriptors
from procbackground._supervisor.inbox import Inbox

# From the start of a process until what describes its death is imported. Together they would be three at work on two
# cores, and the first result, which comes in less than this, would be the last to be ready.
LOAD_AFTER_S = 0.05


class Starter:
    """Does one thing after the other in its thread, and posts how it went to the supervisor."""

    def __init__(self, name: str, inbox: Inbox) -> None:
        occupy_standard_descriptors()  # before a manager opens anything
        self._name = name
        self._inbox = inbox
        self._work: deque[tuple[Callable[[], Any], Callable[[Any, Exception | None], None]]] = deque()
        self._has_work = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    def do(self, act: Callable[[], Any], then: Callable[[Any, Exception | None], None]) -> None:
        """Have `act()` called in the thread, then `then(result, error)` in the supervisor's.

        Where the system has no thread to give, as Python 3.12 and later have none while the interpreter exits, `act` is
        called here: to block for a moment is better than to start nothing.
        """
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=f"{self._name}-starter", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self._do_one(act, then)
                return
            self._thread = thread
        self._work.append((act, then))
        self._has_work.release()

    def owns(self, thread: threading.Thread) -> bool:
        return thread is self._thread

    def stop(self, timeout_s: float) -> bool:
        """Let the thread end when its work is done; return False where it still is at it after `timeout_s`."""
        self._is_stopping = True
        self._has_work.release()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        load_after_s = None
        while True:
            if not self._has_work.acquire(timeout=load_after_s):
                _load_what_failures_need()
                load_after_s = None  # it tries again after the next start
                continue
            if not self._work:
                if self._is_stopping:
                    return
                continue
            self._do_one(*self._work.popleft())
            load_after_s = None if "concurrent.futures.process" in sys.modules else LOAD_AFTER_S

    def _do_one(self, act: Callable[[], Any], then: Callable[[Any, Exception | None], None]) -> None:
        result, error = None, None
        # `multiprocessing` unblocks signals on its way, which a program may have blocked to take them by `sigwait`.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            result = act()
        except Exception as failure:
            error = failure
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._inbox.put(_Report(then, result, error))


class _Report:
    """The outcome of one call, in the inbox; the supervisor calls it."""

    __slots__ = ("_error", "_result", "_then")

    def __init__(self, then: Callable[[Any, Exception | None], None], result: Any, error: Exception | None) -> None:
        self._then, self._result, self._error = then, result, error

    def __call__(self) -> None:
        self._then(self._result, self._error)


def _load_what_failures_need() -> None:
    """Import what describes deaths: when a process dies for want of descriptors, it is too late to open files.

    In the thread that starts processes: a `fork` in one thread while another imports leaves the import's lock held in
    the child for ever.
    """
    try:
        from procbackground.errors import WorkerDiedError  # noqa: F401
    except (OSError, ImportError):
        pass


def wait_for_exit(process: Any, timeout_s: float) -> int | None:
    """Wait for a helper process to end by itself, then end it; return its exit code. Blocks."""
    process.join(timeout_s)
    if process.exitcode is None and process.pid is not None:
        process.kill()
        until_s = time.monotonic() + 1.0
        while process.exitcode is None and time.monotonic() < until_s:
            process.join(0.05)
    exit_code: int | None = process.exitcode
    try:
        process.close()
    except ValueError:
        pass  # unkillable: left to the life pipe
    return exit_code
