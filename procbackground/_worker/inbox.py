"""The child's end of the task pipe: reads requests, and polls for a moment before it sleeps until the next one.

Putting a processor to sleep and waking it costs more than a short task: 20 µs for each of the two wake-ups of a round
trip, on the virtual machines of these measurements. Polling for 60 µs shortened the round trip from 97 to 38 µs and
the parent's CPU time per task from 68 to 24 µs. Polling for 150 µs shortened the 99th percentile from 220 to 155 µs
where the parent needs 60 µs for its next request.

So a worker polls while short tasks come one by one. It does not poll in a burst, where requests come in batches, nor
with one processor: that would only take time from other processes (10 % of a burst). Between longer tasks polling
would gain nothing.
"""

from __future__ import annotations

import os
import select
import time

from procbackground._wire import frames as wire

SPIN_S = 150e-6
WAKING_S = 60e-6
QUICK_S = 200e-6  # after a longer task, polling would save too small a part
MAX_MISSES = 3  # waits in a row that were longer than a spin; then spinning no longer pays


class Inbox:
    """Reads the task pipe."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._poll: select.poll | None = None  # made at the second read: many workers read only once
        self._can_spin = False
        self._misses = 0

    def read(self, came_alone: bool, since_s: float) -> bytes:
        """Return the bytes in the pipe, waiting for some if there are none; an empty result is the end of the pipe.

        `came_alone` says that the last read brought exactly one request. `since_s` is when (`time.perf_counter`), or 0
        if the read before it brought no whole request: many workers serve a single request, and must cost little.
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
            # Without the time that waking takes, would it have come within a spin?
            self._misses = 0 if clock() - idle_since_s < SPIN_S + WAKING_S else self._misses + 1
            return data


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
