"""Where callers wait while the queue is full: first come, first served, so that no thread starves. Or are refused.

The supervisor hands out credits, as many as jobs may be added at once; a caller takes one, or more if its arguments are
large, and waits in line where there are too few. A caller that is interrupted with a credit in its hand loses it:
credits are not counted but made anew, by what the queue has room for. Between taking and using one a caller may so be
overlooked: then the queue holds one job more, for each thread at the most.
"""

from __future__ import annotations

import sys
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable

from procbackground._state.job import Job
from procbackground._supervisor.inbox import Inbox
from procbackground._supervisor.pending_bytes import UNITS, PendingBytes
from procbackground._sync import acquire_within, this_life
from procbackground.errors import QueueFullError


class _Place:
    """A caller in line, with the job that it brings."""

    __slots__ = ("error", "is_given_up", "is_refused", "is_refused_by_count", "job", "turn", "waits")

    def __init__(self, job: Job, waits: bool = True) -> None:
        self.job = job
        self.waits = waits  # else it is refused where there is no room at once
        self.is_refused = False
        self.is_refused_by_count = False  # else by bytes
        self.is_given_up = False
        self.error: BaseException | None = None
        self.turn: LockType = allocate_lock()
        self.turn.acquire()


class SubmitQueueGate:
    """Bounds the queue of a manager, by `max_pending` and by `max_pending_bytes`.

    Args:
        limit: jobs that may wait; None for no such limit.
        pending: bytes that may wait.
        show: called with the gate itself when callers must come to it, and with None when they need not.
        is_lasting: they always must. Else they do while there is no room, and each asks the supervisor.
        refuses: callers get `QueueFullError` while the queue is full, in place of waiting.
    """

    def __init__(
        self, limit: int | None, pending: PendingBytes, inbox: Inbox, count_queued: Callable[[], int],
        has_room: Callable[[], bool], take_in: Callable[[Job], None], staff: Callable[[], None],
        show: Callable[[SubmitQueueGate | None], None], is_lasting: bool = True, refuses: bool = False,
    ) -> None:  # fmt: skip
        self._limit = limit
        self._pending = pending
        self._show = show
        self._is_lasting = is_lasting
        self._refuses = refuses
        self._inbox = inbox
        self._count_queued = count_queued
        self._has_room = has_room  # a worker is idle
        self._take_in = take_in
        self._staff = staff
        self._credits: deque[None] = deque()
        self._line: deque[_Place] = deque()
        self._refusal: Callable[[], BaseException] | None = None
        self._life = this_life()

    # -- callers -------------------------------------------------------------------------------------------

    def submit(self, job: Job, is_patient: bool = False) -> None:
        """Add a job when there is room, and wait for that; never in a thread with a running event loop.

        There the awaiting of the handle is the wait. Raises: what `refuse_line` was given; `QueueFullError` in place of
        any wait if the gate refuses, unless the caller `is_patient`.
        """
        try:
            for _ in range(1 + self._pending.units_of(len(job.payload))):
                self._credits.pop()
        except IndexError:
            pass
        else:
            self._inbox.put(job)
            return
        waits = is_patient or not self._refuses
        if waits and _runs_event_loop():
            self._inbox.put(job)
            return
        # Without a credit there may be room all the same, as workers take from the queue. Only the supervisor knows; it
        # answers at once, so that an event loop may ask, too.
        place = _Place(job, waits)
        self._inbox.put(lambda: self._line_up(place))
        try:
            acquire_within(place.turn, None, self._life)
        except BaseException:
            place.is_given_up = True
            self._inbox.put(self.advance)
            raise
        if place.is_refused:
            raise self._full_error(place)
        if place.error is not None:
            raise place.error

    def _full_error(self, place: _Place) -> QueueFullError:
        if place.is_refused_by_count:
            what = f"{self._limit} tasks wait, as many as max_pending allows"
        else:
            limit = self._pending.limit
            what = f"the arguments of the tasks that wait have as many bytes as max_pending_bytes allows ({limit:.0f})"
        return QueueFullError(
            f'the queue is full: {what}; try again later (with when_full="wait" the call would wait)',
            task=place.job.handle.task,
            max_pending=self._limit or 0,
            max_pending_bytes=self._pending.limit,
        )

    @property
    def waiting_callers(self) -> int:
        """How many callers are in line."""
        return len(self._line)

    # -- the supervisor ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Have callers come here from the start, if they always must."""
        self._show(self if self._is_lasting else None)

    def note_arrivals(self) -> None:
        """Jobs have come in: have callers come here if there is no room any more."""
        if self._pending.is_exceeded:
            self._show(self)

    def _line_up(self, place: _Place) -> None:
        self._credits.clear()  # callers in line go first
        self._line.append(place)
        if self._refusal is not None:
            self.refuse_line(self._refusal)
        self.advance()
        if self._line:
            self._staff()
            self.advance()
        if self._line:
            self._show(self)  # it may have been about to be hidden
        if not place.waits and self._line and self._line[-1] is place:
            self._line.pop()
            place.is_refused, place.is_refused_by_count = True, self._has_enough
            place.turn.release()

    def advance(self) -> None:
        """Wake waiting callers while there is room; make credits once none waits."""
        line = self._line
        while line:
            place = line[0]
            if not (place.is_given_up or place.job.has_settled):  # it may have been cancelled in the line
                if not self._may_enter(place.job):
                    return
                self._take_in(place.job)
            line.popleft()
            place.turn.release()
        if self._is_lasting:
            if self._refusal is None:
                self._give_credits()
        elif not line and self._pending.has_room_for(0):
            self._show(None)

    def _may_enter(self, job: Job) -> bool:
        if job.recipe.needs is None and self._has_room():
            return True
        return not self._has_enough and self._pending.has_room_for(len(job.payload))

    @property
    def _has_enough(self) -> bool:
        """Whether as many jobs wait as may."""
        return self._limit is not None and self._count_queued() >= self._limit

    def _give_credits(self) -> None:
        most = UNITS if self._limit is None else min(self._limit, UNITS)
        if len(self._credits) > most >> 1:
            return
        in_inbox = [request for request in list(self._inbox.requests) if isinstance(request, Job)]
        large = sum(self._pending.units_of(len(job.payload)) for job in in_inbox)
        spare = self._pending.free_units() - len(self._credits) - len(in_inbox) - large
        if self._limit is not None:
            spare = min(spare, self._limit - self._count_queued() - len(self._credits) - len(self._inbox.requests))
        self._credits.extend([None] * spare)

    def refuse_line(self, error: Callable[[], BaseException]) -> None:
        """Nobody is let in any more: each caller in line gets an error of its own."""
        self._refusal = error
        self._credits.clear()
        while self._line:
            place = self._line.popleft()
            place.error = error()
            place.turn.release()


def _runs_event_loop() -> bool:
    asyncio_events = sys.modules.get("asyncio.events")  # without this module no event loop can be running
    return asyncio_events is not None and asyncio_events._get_running_loop() is not None
