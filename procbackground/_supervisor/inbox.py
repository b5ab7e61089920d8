"""How callers reach the supervisor thread: requests that are made whole or not at all, and a wake-up that is not lost.

A caller appends its request, which is one call of C code and so happens entirely or not, whichever signal comes, and
then notifies the supervisor if that sleeps. The supervisor announces its sleep by a new number (`_sleep`), looks at the
inbox once more, and only then polls: so either it sees the request, or the caller sees the announcement. After its
notification a caller notes for which sleep it was (`_woken`), and others need not notify: a thread that submits many
tasks keeps the interpreter's lock from the supervisor for a while, and would notify once for each (4.8 to 2.5 µs a
call). A late note names an earlier sleep, and suppresses no notification. An exception between appending and notifying
notifies as well, again by a single call of C code. At the end the supervisor sets `is_over` and empties the inbox a
last time; a caller who appends later sees that, and answers its own request.
"""

from __future__ import annotations

import _thread
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from math import nan
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import ref

from procbackground._state.job import Job
from procbackground._sync import acquire_within, this_life
from procbackground.task import NO_LIMIT

if TYPE_CHECKING:
    from procbackground import _platform

T = TypeVar("T")

# After a short task was sent to a worker, its answer is worth waiting for without sleeping: waking up costs 20 µs of a
# round trip of 36, and callers need not notify meanwhile. Longer looks take time from others for nothing.
# It must do for a worker that has to wake up first: with 40 µs, or if it is given up after some in vain, both sides
# fall asleep, and stay at 280 µs a round trip for a hundred of them.
SPIN_S = 100e-6
QUICK_S = 200e-6  # a task that takes longer is not worth it

LONGEST_WAIT_S = 86400.0  # a poller refuses more than 24 days

# A caller that finds so many requests waits until the supervisor has come to its own: threads that only submit would
# otherwise keep the interpreter's lock from the supervisor, and the inbox would grow without end.
CROWDED = 5000

Poll: TypeAlias = "Callable[[float | None], list[tuple[int, int]]]"


class Question:
    """A request whose caller waits for the answer. A raw lock: see `_sync`."""

    __slots__ = ("_done", "act", "answer", "error")

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act
        self.answer: Any = None
        self.error: BaseException | None = None
        self._done = _thread.allocate_lock()
        self._done.acquire()

    def __call__(self) -> None:
        """Answer it; called once."""
        try:
            self.answer = self.act()
        except BaseException as error:
            self.error = error
        self._done.release()

    def wait(self, life: object) -> Any:
        """Return the answer, or raise the error. An interrupted wait changes nothing: the question is asked.

        Raises: `ManagerClosedError` in a fork of the process `life`, which has no thread that would answer.
        """
        acquire_within(self._done, None, life)
        if self.error is not None:
            raise self.error
        return self.answer


class _Dropped(ref[object]):
    """A weak reference that becomes a request when its target is dropped."""

    __slots__ = ("act",)
    act: Callable[[], object]

    def __call__(self) -> None:
        self.act()


class Inbox:
    """Requests of all threads, for the supervisor thread: jobs to take in, and functions to call."""

    def __init__(self) -> None:
        self.requests: deque[Job | Callable[[], object]] = deque()
        self.is_over: bool = False  # the supervisor reads it no more; callers answer their own requests
        self.may_spin: bool = False  # the supervisor expects something within microseconds
        self._life = this_life()
        self._sleep: float = 0  # the number of the supervisor's sleep, or of its last one; written by it only
        self._woken: float = 0  # the sleep that was ended, or will be by a notification
        self._notify: Callable[[], object] = _nothing
        self._refuse_late: Callable[[Job], None] | None = None
        self._has_cores = _usable_cpus() > 1

    # -- any thread ----------------------------------------------------------------------------------------

    def put(self, request: Job | Callable[[], object]) -> None:
        """Add a request."""
        try:
            self.requests.append(request)
            sleep = self._sleep
            if sleep != self._woken:
                self.wake()
                self._woken = sleep
        except BaseException:
            self._notify()
            raise

    def ask(self, act: Callable[[], T]) -> T:
        """Have `act` called in the supervisor thread; return what it returns, or raise what it raises."""
        question = Question(act)
        answer: T = self.wait_for(question, question)
        return answer

    def ask_aside(self, act: Callable[[], T]) -> T:
        """Have `act` called in a thread of its own; return what it returns, or raise what it raises."""
        question = Question(act)
        _thread.start_new_thread(question, ())  # one call: no list of `threading` can be left half changed
        answer: T = question.wait(self._life)
        return answer

    def wait_for(self, question: Question, request: Callable[[], object]) -> Any:
        """Have `request` called in the supervisor thread, which calls `question` then or later; return its answer."""
        self.put(request)
        return question.wait(self._life)

    def when_dropped(self, target: object, act: Callable[[], object]) -> object:
        """Have `act` called in the supervisor thread once nothing refers to `target` any more.

        That is watched as long as what this returns is kept: until `end` at the most. The thread that drops the last
        reference makes two calls of C code, the request and then the notification, and nothing that a signal handler's
        exception could interrupt. Callbacks are called in the reverse order of their making.
        """
        notify = ref(target, partial(next, iter(self._notify, object())))  # without the reference as an argument
        dropped = _Dropped(target, self.requests.append)
        dropped.act = act
        return notify, dropped

    def wait_for_reading(self) -> None:
        """Wait until the supervisor has read what is in the inbox now, which is more than `CROWDED`."""
        self.ask(_nothing)

    def wake(self) -> None:
        """Have the supervisor look at the inbox, or what else has changed for it."""
        if self.is_over:
            self._answer_leftovers()
            return
        try:
            self._notify()
        except BlockingIOError:
            pass  # so many notifications are unread that one more makes no difference

    def _answer_leftovers(self) -> None:
        while True:
            try:
                request = self.requests.popleft()
            except IndexError:
                return
            if isinstance(request, Job):
                assert self._refuse_late is not None
                self._refuse_late(request)
            else:
                request()

    # -- the supervisor ------------------------------------------------------------------------------------

    def open(self, wakeup: _platform.Wakeup) -> None:
        """Notify through `wakeup` from now on."""
        self._notify = wakeup.notify

    def sleep(self, poll: Poll, until_s: float) -> list[tuple[int, int]]:
        """Return what `poll` does until the monotonic time `until_s`; it ends early when a request comes."""
        if self.requests:
            return poll(0)
        if self.may_spin:
            self.may_spin = False
            if self._has_cores:
                give_up_s = perf_counter() + SPIN_S
                while perf_counter() < give_up_s:
                    events = poll(0)
                    if events or self.requests:
                        return events
        seconds = None if until_s == NO_LIMIT else max(0.0, min(until_s - monotonic(), LONGEST_WAIT_S))
        self._sleep += 1
        events = poll(0 if self.requests else seconds)
        self._woken = self._sleep
        return events

    def end(self, refuse_late: Callable[[Job], None]) -> None:
        """Stop reading: from now on each caller has its own request answered, a job by `refuse_late`."""
        self._refuse_late = refuse_late
        self.is_over = True  # before the last look: a caller that does not see it yet is seen by that
        self._sleep = nan  # which differs from itself too: every caller wakes, and so sees `is_over`
        self._notify = _nothing  # well before its descriptor is closed
        self._answer_leftovers()

    def jobs(self) -> list[Job]:
        """Return the jobs that are in it."""
        return [request for request in list(self.requests) if isinstance(request, Job)]

    def abandon(self) -> None:
        """In a fork of this process: there is no supervisor thread to wake, and nothing to do for one."""
        self._notify = _nothing
        self.requests.clear()


def _nothing() -> None:
    pass


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
