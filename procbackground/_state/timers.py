"""Timers that can be cancelled, in a heap.

A cancelled timer lets go of its subject at once. Its entry stays in the heap until it is due, or until cancelled
entries are half of the heap, which is then built anew: so ten million tasks with a deadline need no more memory than
those that are out.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from procbackground.task import NO_LIMIT

COMPACT_FROM = 64  # entries; a smaller heap is not worth building anew

# Due time, order of creation, what to call, and with what; the last two are None once it is cancelled.
Timer: TypeAlias = list[Any]


class Timers:
    """The timers of one scheduler."""

    __slots__ = ("_cancelled", "_number", "heap")

    def __init__(self) -> None:
        self.heap: list[Timer] = []  # empty most of the time, which is asked more often than anything else
        self._number = 0
        self._cancelled = 0

    def at(self, due_s: float, act: Callable[..., None], subject: Any = None) -> Timer:
        """Have `act(state, subject, now_s)` called at `due_s`; return what `cancel` takes."""
        self._number += 1
        timer: Timer = [due_s, self._number, act, subject]
        heapq.heappush(self.heap, timer)
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Forget a timer; does nothing for None, or for one that was due already."""
        if timer is None or timer[2] is None:
            return
        timer[2] = timer[3] = None
        self._cancelled += 1
        heap = self.heap
        if len(heap) >= COMPACT_FROM and self._cancelled > len(heap) >> 1:
            self.heap = [each for each in heap if each[2] is not None]
            heapq.heapify(self.heap)
            self._cancelled = 0

    @property
    def next_due_s(self) -> float:
        """When the next one is due, at the latest; `inf` without any."""
        heap = self.heap
        while heap and heap[0][2] is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else NO_LIMIT

    def take_due(self, now_s: float) -> tuple[Callable[..., None], Any] | None:
        """Remove the next timer that is due; return its function and argument, or None if none is due."""
        if self.next_due_s > now_s:
            return None
        timer = heapq.heappop(self.heap)
        _, _, act, subject = timer
        timer[2] = timer[3] = None
        return act, subject

    def __len__(self) -> int:
        return len(self.heap)

    def __iter__(self) -> Iterator[Timer]:
        return (timer for timer in self.heap if timer[2] is not None)
