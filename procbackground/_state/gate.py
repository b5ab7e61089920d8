"""The memory gate: whether attempts may begin, for a manager with `min_free_memory`.

While it is shut, jobs stay in their queues. Running attempts continue; cancels, deadlines and closes work as usual.
It is also shut while the memory is not measured, which would cost CPU time; the first job starts the measuring.
"""

from __future__ import annotations

from procbackground._state import commands as c
from procbackground._state import stops
from procbackground._state.state import State

WATCH_AGAIN_S = 0.1  # before the next try to have the memory watched

_UNKNOWN, _OPEN, _HELD = "unknown", "open", "held"


class MemoryGate:
    """Opens while `min_free_bytes` of memory are free."""

    def __init__(self, min_free_bytes: int) -> None:
        self.min_free_bytes: int = min_free_bytes
        self._status = _UNKNOWN
        self._held_since_s = 0.0

    @property
    def is_shut(self) -> bool:
        """Whether no attempt may begin now."""
        return self._status != _OPEN

    def memory_seen(self, state: State, free_bytes: int, now_s: float) -> bool:
        """So much memory is free now; return whether to look again."""
        if not state.unsettled and not state.unsettled_loops:
            self._end_hold(state, free_bytes, now_s)
            self._status = _UNKNOWN
            return False
        if free_bytes >= self.min_free_bytes:
            self._end_hold(state, free_bytes, now_s)
            if self._status != _OPEN:
                self._status = _OPEN
                state.needs_staff = True
        elif self._status != _HELD:
            self._status = _HELD
            self._held_since_s = now_s
            state.commands.append(c.AdmissionHeld(free_bytes))
            stops.recall_all(state, now_s)  # what waits in a worker's pipe has not begun either
        return True

    def want_watch(self, state: State) -> None:
        """Something waits: have the memory watched, if it is not."""
        if state.queue.length or state.fresh_queue.length or state.loops_queue or state.needy:
            state.watch_memory()

    def _end_hold(self, state: State, free_bytes: int, now_s: float) -> None:
        if self._status == _HELD:
            state.commands.append(c.AdmissionResumed(free_bytes, now_s - self._held_since_s))


def memory_not_seen(state: State, now_s: float) -> None:
    """No thread could be had to watch the memory: try again in a while."""
    state.is_memory_watched = False
    state.timers.at(now_s + WATCH_AGAIN_S, _ask_again)


def _ask_again(state: State, subject: None, now_s: float) -> None:
    state.needs_staff = True
