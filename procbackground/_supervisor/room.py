"""Where callers wait while the queue is full: first come, first served, so that no thread starves."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable


class Room:
    """The line of waiting threads. All calls are made under `lock`."""

    def __init__(self, lock: threading.Lock, is_full: Callable[[], bool], check_open: Callable[[], None]) -> None:
        self._lock = lock
        self._is_full = is_full
        self._check_open = check_open
        self._line: deque[threading.Condition] = deque()

    def wait(self, prompt: Callable[[], None]) -> None:
        """Return when it is this thread's turn and there is room; at once in a thread with a running event loop.

        There the awaiting of the handle is the wait.

        Args:
            prompt: called once before the first wait, to have somebody make room.
        Raises: as `check_open`, which is asked after every wait.
        """
        if not self._line and not self._is_full():
            return
        if _runs_event_loop():
            return
        prompt()
        mine = threading.Condition(self._lock)
        self._line.append(mine)
        try:
            while self._line[0] is not mine or self._is_full():
                mine.wait()
                self._check_open()
        finally:
            self._line.remove(mine)
            self.tell_next()  # there may be room for more than one

    @property
    def has_line(self) -> bool:
        """Whether anybody waits; needs no lock."""
        return bool(self._line)

    def tell_next(self) -> None:
        """There may be room: have the first in line look."""
        if self._line:
            self._line[0].notify()

    def tell_all(self) -> None:
        """There is no use in waiting any more."""
        for each in self._line:
            each.notify()


def _runs_event_loop() -> bool:
    asyncio_events = sys.modules.get("asyncio.events")  # nobody runs a loop who has not imported it
    return asyncio_events is not None and asyncio_events._get_running_loop() is not None
