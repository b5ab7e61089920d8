"""The worker's end of its task pipe: reads requests, and for a moment waits for the next one without sleeping.

A processor that goes to sleep and is woken costs more than a short task: 20 µs for each of the two wake-ups on the
way there and back, on the virtual machines that these figures are from. A worker that looks at its pipe for another
60 µs brought the round trip from 97 to 38 µs, and the parent's CPU time per task from 68 to 24 µs; one that does for
150 µs brought the 99th percentile from 220 to 155 µs where the parent needs 60 µs for its next request. So it does
while short tasks come one by one; in a burst, where requests come in batches, or with one processor, it would only take
time from others (10 % of a burst), and between longer tasks it would gain nothing.
"""

from __future__ import annotations

import os
import select
import time

from procbackground._wire import frames as wire

SPIN_S = 150e-6
WAKING_S = 60e-6
QUICK_S = 200e-6  # a task that takes longer is not worth hurrying for
MAX_MISSES = 3  # waits in a row that were longer than a spin, after which it pays no more


class Inbox:
    """Reads the task pipe."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._poll: select.poll | None = None  # once it is worth it
        self._can_spin = False
        self._misses = 0

    def read(self, came_alone: bool, since_s: float) -> bytes:
        """Return what the pipe holds, waiting for it if need be; nothing at its end.

        `came_alone` says that the last read brought one request, and `since_s` when (of `time.perf_counter`); 0 if the
        one before it brought no whole request: many a worker is started for a single request, and must cost little.
        """
        if self._poll is None:
            if not since_s:
                return os.read(self.fd, wire.READ_SIZE)
            self._poll = select.poll()
            self._poll.register(self.fd, select.POLLIN)
            os.set_blocking(self.fd, False)
            self._can_spin = _usable_cpus() > 1
        try:
            return os.read(self.fd, wire.READ_SIZE)
        except BlockingIOError:
            pass
        clock = time.perf_counter
        idle_since_s = clock()
        may_spin = came_alone and self._can_spin and idle_since_s - since_s < QUICK_S
        if may_spin and self._misses < MAX_MISSES:
            until_s = idle_since_s + SPIN_S
            while clock() < until_s:
                try:
                    return os.read(self.fd, wire.READ_SIZE)
                except BlockingIOError:
                    pass
        while True:
            self._poll.poll()
            try:
                data = os.read(self.fd, wire.READ_SIZE)
            except BlockingIOError:
                continue
            # Had it come within a spin, or nearly, but for the time that waking takes?
            self._misses = 0 if clock() - idle_since_s < SPIN_S + WAKING_S else self._misses + 1
            return data


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
