"""Waiting that an exception at any point cannot break.

Below every other module. `threading.Event` and `Condition` are Python code: a signal handler that raises inside them
can leave their inner lock held for ever. What is here rests on raw locks and on single calls of C functions.
"""

from __future__ import annotations

import threading
from _thread import LockType, allocate_lock
from collections import deque


def acquire_within(lock: LockType, timeout_s: float | None) -> bool:
    """Acquire `lock`, and wait up to `timeout_s` seconds for that; None means without end."""
    return lock.acquire(True, -1 if timeout_s is None else max(0.0, min(timeout_s, threading.TIMEOUT_MAX)))


class Latch:
    """An event that happens once: `set` wakes all waiting threads, and later waits return at once."""

    __slots__ = ("_waiting", "is_set")

    def __init__(self) -> None:
        self.is_set: bool = False
        self._waiting: deque[LockType] = deque()  # one held lock for each thread that waits

    def set(self) -> None:
        """Let the event happen. A call that an exception interrupts can be repeated, and then wakes everybody."""
        self.is_set = True
        while True:
            try:
                lock = self._waiting[0]
            except IndexError:
                return
            try:
                lock.release()  # before it leaves the queue: an exception in between costs no waiter its wake-up
            except RuntimeError:
                pass  # another call of `set` has released it, or one that was interrupted here
            self._remove(lock)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the event has happened, `timeout_s` seconds at the most; return whether it has."""
        if self.is_set:
            return True
        lock = allocate_lock()
        lock.acquire()
        try:
            self._waiting.append(lock)  # before the look at `is_set`: either we see it, or `set` sees our lock
            return self.is_set or acquire_within(lock, timeout_s) or self.is_set
        finally:
            self._remove(lock)  # else each wait that times out would leave a lock behind

    def _remove(self, lock: LockType) -> None:
        try:
            self._waiting.remove(lock)
        except ValueError:
            pass  # removed by the other of the two, waiter and `set`
