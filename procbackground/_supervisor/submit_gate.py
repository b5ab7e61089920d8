"""Where callers wait while the queue is full: first come, first served, so that no thread starves.

The supervisor hands out credits, as many as jobs may be added at once; a caller takes one, and waits in line where
there is none. A caller that is interrupted with a credit in its hand loses it: credits are not counted but made anew,
by what the queue has room for. Between taking and using one a caller may so be overlooked: then the queue holds one job
more, for each thread at the most.
"""

from __future__ import annotations

import sys
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable

from procbackground._state.job import Job
from procbackground._supervisor.inbox import Inbox


class _Place:
    """A caller in line, with the job that it brings."""

    __slots__ = ("error", "is_given_up", "job", "turn")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.is_given_up = False
        self.error: BaseException | None = None
        self.turn: LockType = allocate_lock()
        self.turn.acquire()


class SubmitQueueGate:
    """Bounds the queue of a manager with `max_pending`."""

    def __init__(
        self, limit: int, inbox: Inbox, count_queued: Callable[[], int], has_room: Callable[[], bool],
        take_in: Callable[[Job], None], staff: Callable[[], None],
    ) -> None:  # fmt: skip
        self._limit = limit
        self._inbox = inbox
        self._count_queued = count_queued
        self._has_room = has_room  # a worker is idle
        self._take_in = take_in
        self._staff = staff
        self._credits: deque[None] = deque()
        self._line: deque[_Place] = deque()
        self._refusal: Callable[[], BaseException] | None = None

    # -- callers -------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Add a job when there is room, and wait for that; never in a thread with a running event loop.

        There the awaiting of the handle is the wait. Raises: what `refuse_line` was given.
        """
        try:
            self._credits.pop()
        except IndexError:
            pass
        else:
            self._inbox.put(job)
            return
        if _runs_event_loop():
            self._inbox.put(job)
            return
        place = _Place(job)
        self._inbox.put(lambda: self._line_up(place))
        try:
            place.turn.acquire()
        except BaseException:
            place.is_given_up = True
            self._inbox.put(self.advance)
            raise
        if place.error is not None:
            raise place.error

    @property
    def waiting_callers(self) -> int:
        """How many callers are in line."""
        return len(self._line)

    # -- the supervisor ------------------------------------------------------------------------------------

    def _line_up(self, place: _Place) -> None:
        self._credits.clear()  # callers in line go first
        self._line.append(place)
        if self._refusal is not None:
            self.refuse_line(self._refusal)
        self.advance()
        if self._line:
            self._staff()
            self.advance()

    def advance(self) -> None:
        """Wake waiting callers while there is room; make credits once none waits."""
        line = self._line
        while line:
            place = line[0]
            if not place.is_given_up:
                if self._count_queued() >= self._limit and not self._has_room():
                    return
                self._take_in(place.job)
            line.popleft()
            place.turn.release()
        if self._refusal is None and len(self._credits) <= self._limit >> 1:
            spare = self._limit - self._count_queued() - len(self._inbox.requests) - len(self._credits)
            self._credits.extend([None] * spare)

    def refuse_line(self, error: Callable[[], BaseException]) -> None:
        """Nobody is let in any more: each caller in line gets an error of its own."""
        self._refusal = error
        self._credits.clear()
        while self._line:
            place = self._line.popleft()
            place.error = error()
            place.turn.release()

    def abandon(self, error: BaseException) -> None:
        """In a fork of this process: end the wait of the thread that forked."""
        self.refuse_line(lambda: error)


def _runs_event_loop() -> bool:
    asyncio_events = sys.modules.get("asyncio.events")  # without this module no event loop can be running
    return asyncio_events is not None and asyncio_events._get_running_loop() is not None
