"""How many bytes of arguments wait, for `max_pending_bytes`.

The scheduler adds up the payloads of the jobs that come in. Those that are sent are not subtracted, which would cost
each task. The sum is an upper bound, then. Only where it leaves no room are the payloads of all jobs that wait counted,
and the sum set to that. While the queue is full, they are counted again whenever a sixteenth of it has been sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from procbackground._state.scheduler import Scheduler

SHARE = 4  # of the free memory: the default is one in so many
LEAST = 64 << 20  # bytes of the default: so many on a machine that is short of memory, too
FIRST_LOOK = 16 << 20  # bytes from which on the free memory is measured; most managers never hold so many
UNITS = 4096  # parts of the limit, for credits: a large job takes many of them, at 30 ns each


class PendingBytes:
    """The bound of one manager.

    Args:
        limit_bytes: None for the default, a share of the free memory; `inf` for none.
    """

    def __init__(self, scheduler: Scheduler, limit_bytes: float | None, free_memory_bytes: Callable[[], int]) -> None:
        self._scheduler = scheduler
        self._is_known = limit_bytes is not None
        self._free_memory_bytes = free_memory_bytes
        self.limit: float = FIRST_LOOK if limit_bytes is None else limit_bytes
        self._full_at: int | None = None  # how many jobs waited when it was found to be full

    @property
    def unit(self) -> float:
        """The bytes of one credit."""
        return max(1, self.limit / UNITS)

    @property
    def is_exceeded(self) -> bool:
        """Whether more may wait than the limit allows."""
        return self._scheduler.payload_bytes > self.limit and not self.has_room_for(0)

    def has_room_for(self, size: int) -> bool:
        """Whether `size` more bytes may wait. One job that is too large by itself may, where nothing else waits."""
        scheduler = self._scheduler
        if scheduler.payload_bytes + size <= self.limit:
            return True
        if not self._is_known:
            self._is_known = True
            self.limit = max(LEAST, self._free_memory_bytes() // SHARE)
            return self.has_room_for(size)
        waiting = scheduler.count_queued()
        if self._full_at is not None and waiting > self._full_at - max(1, self._full_at >> 4):
            return False
        scheduler.payload_bytes = exact = scheduler.count_payload_bytes()
        has_room = not waiting or exact + size <= self.limit
        self._full_at = None if has_room else waiting
        return has_room

    def units_of(self, size: int) -> int:
        """Return how many credits so many bytes take beside the one of their job."""
        return int(size / self.unit)

    def free_units(self) -> int:
        """Return how many credits the bytes that are free are worth, as far as that is known without counting."""
        free = self.limit - self._scheduler.payload_bytes
        return UNITS if free == math.inf else max(0, min(UNITS, int(free / self.unit)))
