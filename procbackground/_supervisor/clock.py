"""Monotonic times as those of `time.time()`, also around a suspended machine or a clock that was set."""

from __future__ import annotations

import time
from bisect import bisect_right

STEP_S = 0.05  # a smaller change of the difference is the clock being slewed, and is followed all the same
MAX_STEPS = 64  # that are remembered; times before the oldest go by that


class WallClock:
    """Remembers by how much the two clocks differed, and since when."""

    def __init__(self) -> None:
        self._since_s: list[float] = [0.0]
        self._offset_s: list[float] = [time.time() - time.monotonic()]

    def note(self, now_s: float) -> None:
        """Take in the present difference; the supervisor calls this each time it wakes up."""
        offset_s = time.time() - now_s
        if abs(offset_s - self._offset_s[-1]) < STEP_S:
            return
        self._offset_s.append(offset_s)
        self._since_s.append(now_s)
        if len(self._since_s) > MAX_STEPS:
            del self._since_s[1], self._offset_s[0]

    def __call__(self, monotonic_s: float) -> float:
        """Return what `time.time()` was at the monotonic time."""
        if len(self._since_s) == 1:  # nearly always
            return monotonic_s + self._offset_s[0]
        return monotonic_s + self._offset_s[bisect_right(self._since_s, monotonic_s) - 1]
