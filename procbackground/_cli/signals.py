"""Signals as messages in a queue: nothing of ours runs in a handler, so no signal comes at a wrong moment."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Requests:
    """Counts the requests to stop. `timeout` and wrappers send one request twice: to the process, and to its group.

    The second request answers the line that was printed after the first. So a signal that came before that line
    belongs to the first request.
    """

    def __init__(self) -> None:
        self.count = 0
        self._answered_s = 0.0

    def is_new(self, came_s: float) -> bool:
        """Count a signal, unless it is an earlier request once more."""
        if self.count and came_s <= self._answered_s:
            return False
        self.count += 1
        return True

    def answer(self) -> None:
        """Note that the line about the last request is printed now. Before the line: a reader may be quick."""
        self._answered_s = time.monotonic()


@contextmanager
def signals_into(news: SimpleQueue[Any]) -> Iterator[None]:
    """Put ("signal", number, monotonic time in seconds) into the queue for each signal that comes."""
    # The interpreter's C handler writes to this pipe at once, also while the main thread sleeps in a lock.
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    numbers = [number for number in CAUGHT if signal.getsignal(number) is not signal.SIG_IGN]  # under nohup, say
    thread = threading.Thread(target=_forward, args=(read_fd, news, frozenset(numbers)), daemon=True)
    thread.start()
    old_fd = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    old = [(number, signal.signal(number, _nothing)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in old:
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_fd)
        os.close(write_fd)  # this ends the thread
        thread.join()


def _forward(read_fd: int, news: SimpleQueue[Any], wanted: frozenset[int]) -> None:
    while numbers := os.read(read_fd, 64):
        for number in numbers:
            if number in wanted:
                news.put(("signal", number, time.monotonic()))
    os.close(read_fd)


def _nothing(number: int, frame: Any) -> None:
    pass
