"""The memory gate: whether attempts may begin, for a manager with `min_free_memory`.

While it is shut, jobs stay in their queues. Running attempts continue; cancels, deadlines and closes work as usual.
It is also shut while the memory is not measured, which would cost CPU time; the first job starts the measuring.

It must not stay shut for what the manager itself holds. While none of its one-offs runs, one is begun all the same if
the arguments of those that wait are what is missing, and then the next; else the idle workers leave. What others hold
is waited for, but not for ever: then the jobs fail.
"""

from __future__ import annotations

from procbackground._state import commands as c
from procbackground._state import outcomes, stops
from procbackground._state.state import State

WATCH_AGAIN_S = 0.1  # before the next try to have the memory watched

_UNKNOWN, _OPEN, _HELD = "unknown", "open", "held"


class MemoryGate:
    """Opens while `min_free_bytes` of memory are free.

    Args:
        patience_s: how long jobs wait at the most while none runs.
    """

    def __init__(self, min_free_bytes: int, patience_s: float) -> None:
        self.min_free_bytes: int = min_free_bytes
        self.lets_one: bool = False  # attempt begin, though it is shut
        self._patience_s = patience_s
        self._status = _UNKNOWN
        self._held_since_s = 0.0
        self._stuck_since_s: float | None = None  # it is shut and no one-off runs

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
            self._stuck_since_s, self.lets_one = None, False
        elif self._status != _HELD:
            self._status = _HELD
            self._held_since_s = now_s
            state.commands.append(c.AdmissionHeld(free_bytes))
            stops.recall_all(state, now_s)  # what waits in a worker's pipe has not begun either
        else:
            self._look_after_those_who_wait(state, free_bytes, now_s)
        return True

    def want_watch(self, state: State) -> None:
        """Something waits: have the memory watched, if it is not."""
        if state.queue.length or state.fresh_queue.length or state.loops_queue or state.needy:
            state.watch_memory()

    def _look_after_those_who_wait(self, state: State, free_bytes: int, now_s: float) -> None:
        if state.runs_one_offs:
            self._stuck_since_s, self.lets_one = None, False
        elif free_bytes + state.count_payload_bytes() >= self.min_free_bytes:
            self.lets_one = state.needs_staff = True
        elif self._stuck_since_s is None:
            self._stuck_since_s = now_s
            stops.release_idle(state, now_s)
        elif now_s >= self._stuck_since_s + self._patience_s:
            self.lets_one = False
            for job in [*state.queued(), *state.loops_queue]:
                if now_s >= job.started_s + self._patience_s:
                    outcomes.end(state, job)
                    state.commands.append(c.Starved(job, free_bytes))

    def _end_hold(self, state: State, free_bytes: int, now_s: float) -> None:
        if self._status == _HELD:
            state.commands.append(c.AdmissionResumed(free_bytes, now_s - self._held_since_s))


def memory_not_seen(state: State, now_s: float) -> None:
    """No thread could be had to watch the memory: try again in a while."""
    state.is_memory_watched = False
    state.timers.at(now_s + WATCH_AGAIN_S, _ask_again)


def _ask_again(state: State, subject: None, now_s: float) -> None:
    state.needs_staff = True
