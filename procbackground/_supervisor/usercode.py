"""Runs the user's code, which may block: unpickling of values that are more than plain data, retry policies,
done-callbacks. Never in the supervisor thread, and never under a lock of the package.

There is one thread at first, which keeps the order. Another one is added when all threads are blocked.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from procbackground._log import logger

BLOCKED_S = 0.05  # a thread that has been at one piece of work for longer is blocked in it
MAX_THREADS = 64  # of blocked ones; beyond that the rest waits
KEPT_IDLE = 4  # threads, which wait without end: a thread that ends after a time would wake an idle machine


class UserCodeRunner:
    """Runs pieces of work in threads of its own, in order while none of them blocks."""

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self._name = name
        self._wake = wake  # has the supervisor call `add_thread_if_blocked`
        self.work: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()  # that waits for a thread
        self._changed = threading.Condition(threading.Lock())
        self._threads: dict[threading.Thread, float | None] = {}  # since when each is at its present work
        self._idle = 0
        self._is_stopping = False
        self._has_no_threads = False  # none can be started any more

    def put(self, fn: Callable[..., object], *args: Any) -> None:
        """Have `fn(*args)` run soon. What it raises is logged."""
        with self._changed:
            self.work.append((fn, args))
            if not self._threads:
                self._add_thread()
            elif self._idle:
                self._changed.notify()

    @property
    def look_s(self) -> float:
        """When to call `add_thread_if_blocked`; `inf` while no work waits."""
        if not self.work:
            return float("inf")
        if self._has_no_threads and not self._threads:
            return 0.0
        since_s = [since_s for since_s in list(self._threads.values()) if since_s is not None]
        return (max(since_s) if since_s else time.monotonic()) + BLOCKED_S

    def add_thread_if_blocked(self) -> None:
        """Give waiting work another thread if all are blocked.

        Runs the work here where the interpreter exits and starts no threads any more: that is better than losing it.
        """
        self.run_without_threads()
        with self._changed:
            now_s = time.monotonic()
            are_blocked = all(
                since_s is not None and now_s - since_s >= BLOCKED_S for since_s in self._threads.values()
            )
            if self.work and are_blocked and not self._idle and len(self._threads) < MAX_THREADS:
                self._add_thread()

    @property
    def is_stranded(self) -> bool:
        """Whether work waits and there is no thread, since none could be started."""
        return bool(self.work) and not self._threads

    def run_without_threads(self) -> None:
        """Run the work here where the interpreter exits and starts no threads any more."""
        while self._has_no_threads and not self._threads and self.work:
            _run_one(*self.work.popleft())

    def add_thread_if_stranded(self) -> None:
        """Try again to start a first thread, or do without where the interpreter exits."""
        self.run_without_threads()
        if self.is_stranded:
            with self._changed:
                if not self._threads:
                    self._add_thread()

    @property
    def busy_since_s(self) -> float | None:
        """Since when the first thread is at its present piece of work; None if it is at none, or there is no thread."""
        return next(iter(list(self._threads.values())), None)

    def owns(self, thread: threading.Thread) -> bool:
        return thread in self._threads

    def stop(self, timeout_s: float) -> bool:
        """Let the threads end when all work is done; return False where one still is at it after `timeout_s`."""
        while self.work and not self._threads:
            _run_one(*self.work.popleft())  # none could be started, and this is the last chance
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
            threads = list(self._threads)
        until_s = time.monotonic() + timeout_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in threads if thread is not threading.current_thread())

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}-user-code", daemon=True)
        self._threads[thread] = time.monotonic()
        try:
            thread.start()
        except RuntimeError as error:
            # The machine has no thread to give now: another try follows. Python 3.12 and later give none at all
            # while the interpreter exits, and only the words distinguish the two before 3.13.
            del self._threads[thread]
            self._has_no_threads = "shutdown" in str(error)
            self._wake()

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                self._threads[me] = None
                while not self.work:
                    if self._is_stopping or len(self._threads) - self._idle > KEPT_IDLE:
                        del self._threads[me]
                        return
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                fn, args = self.work.popleft()
                self._threads[me] = time.monotonic()
            _run_one(fn, args)
            del fn, args  # keeps nothing of a finished task alive while it waits


def _run_one(fn: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        fn(*args)
    except BaseException:  # SystemExit too: it is the user's code that ends, not this thread
        logger.exception("exception in %r", fn)
