"""The workers as the decisions see them: what each holds, and which are idle, busy, spare, leaving or gone."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from procbackground._state.attempt import QUEUED
from procbackground._state.job import Job

STARTING: Final = "starting"  # a process was asked for; it has not said hello
SPARE: Final = "spare"  # ready, has run nothing, and belongs to no job
IDLE: Final = "idle"  # one of the pool, with nothing to do
BUSY: Final = "busy"
STOPPING: Final = "stopping"  # its tree is being stopped, whatever it runs
LEAVING: Final = "leaving"  # was asked to end by itself
GONE: Final = "gone"


class Worker:
    """One worker process. `process` is the supervisor's and means nothing here."""

    __slots__ = (
        "cost", "counts", "done", "exit_code", "has_ended", "head_since_s", "in_writing", "inflight", "is_last",
        "is_signalled", "line", "log_tail", "look_asked_s", "look_due_s", "loop", "notes", "number", "peak_bytes",
        "pid", "process", "revoked_up_to", "sent", "silence", "since_s", "state", "stop_reason", "told_up_to", "wall",
        "was_killed", "was_oom",
    )  # fmt: skip

    def __init__(self, number: int, line: int, wall: Callable[[float], float], now_s: float) -> None:
        self.number: int = number
        self.line: int = line  # of the shared page
        self.wall: Callable[[float], float] = wall  # turns monotonic times into those of time.time()
        self.state: str = STARTING
        self.pid: int = 0
        self.inflight: deque[Job] = deque()  # sent and not answered, in order
        self.sent: int = 0  # number of the latest request
        self.done: int = 0  # answered requests
        self.head_since_s: float = now_s  # when the first of `inflight` began, as far as we can tell
        # A chunk was last asked to look at the clock between these: a look before may have missed it, and what begins
        # after has one.
        self.look_asked_s: float = 0.0
        self.look_due_s: float = 0.0
        self.since_s: float = now_s  # when it came into its state
        self.counts: bool = False  # against `max_workers`
        self.loop: Job | None = None
        self.stop_reason: str | None = None
        self.was_killed: bool = False  # by us, with SIGKILL
        self.notes: str | None = None  # what the process left: the stacks of a fatal error, or of a timeout
        self.silence: str | None = None  # why it did not dump its stacks when it was asked to
        self.log_tail: tuple[bytes, ...] = ()  # the last records that its running task logged, as they came
        self.exit_code: int | None = None
        self.was_oom: bool = False  # killed by the kernel for want of memory, as far as we can tell
        self.peak_bytes: int = 0  # most that its tree was seen to hold
        # CPU seconds and peak bytes of the answer that comes next, or of the attempt that died, as far as known.
        self.cost: tuple[float | None, int | None] | None = None
        self.is_last: bool = False  # it leaves after what it runs
        self.revoked_up_to: int = 0  # number of the last request that was to be skipped
        self.is_signalled: bool = False  # it was told to stop, and will end
        self.told_up_to: int = 0  # number of the last request whose beginning observers were told
        self.has_ended: bool = False  # its process has, and it is yet to be buried
        self.in_writing: Job | None = None  # a caller's thread is writing it: the descriptors must stay open
        self.process: Any = None

    @property
    def is_fresh(self) -> bool:
        return self.sent == 0

    @property
    def is_idle(self) -> bool:
        return self.state == IDLE

    @property
    def is_running(self) -> bool:
        """Whether user code runs in it, as far as we can tell."""
        return bool(self.inflight) or self.loop is not None

    def enter(self, state: str, now_s: float) -> None:
        self.state = state
        self.since_s = now_s

    def __repr__(self) -> str:
        return f"<worker {self.number} pid={self.pid} {self.state} inflight={len(self.inflight)}>"


class JobQueue:
    """Jobs in order of priority, then of acceptance.

    A deque for each priority: nearly always there is one, and jobs then cost a pointer each. Jobs that ended while
    they waited stay where they are and are skipped.
    """

    __slots__ = ("_by_priority", "_order", "length")

    def __init__(self) -> None:
        self._by_priority: dict[int, deque[Job]] = {}
        self._order: list[int] = []  # of the priorities, negated, lowest first
        self.length: int = 0  # jobs that still wait; whoever settles one lowers it

    def __len__(self) -> int:
        return self.length

    def __contains__(self, job: object) -> bool:
        return any(job is each for queue in self._by_priority.values() for each in queue)

    def push(self, job: Job) -> None:
        """Append a job."""
        queue = self._by_priority.get(job.recipe.priority)
        if queue is None:
            queue = self._deque_for(job.recipe.priority)
        self.length += 1  # first: Ctrl-C might come after the call
        queue.append(job)

    def push_back_in_order(self, job: Job) -> None:
        """Put back a job that was accepted before those that wait."""
        queue = self._deque_for(job.recipe.priority)
        if not queue or job.number < queue[0].number:
            queue.appendleft(job)
        else:
            position = 0
            for position, other in enumerate(queue):  # noqa: B007
                if job.number < other.number:
                    break
            else:
                position += 1
            queue.insert(position, job)
        self.length += 1

    def _deque_for(self, priority: int) -> deque[Job]:
        queue = self._by_priority.get(priority)
        if queue is None:
            queue = self._by_priority[priority] = deque()
            heapq.heappush(self._order, -priority)
        return queue

    def peek(self) -> Job | None:
        """Return the first job that still waits, without taking it."""
        while self._order:
            priority = -self._order[0]
            queue = self._by_priority[priority]
            while queue and queue[0].state != QUEUED:
                queue.popleft()
            if queue:
                return queue[0]
            del self._by_priority[priority]
            heapq.heappop(self._order)
        return None

    def pop(self) -> Job:
        """Take the first job; there must be one, as `peek` tells."""
        self.length -= 1
        return self._by_priority[-self._order[0]].popleft()

    def tidy(self) -> None:
        """A job of this queue settled where it waits."""
        if not self.length:
            # All that is left has settled. Nobody may come to skip it for a long time, and it holds its arguments.
            self._by_priority, self._order = {}, []

    def __iter__(self) -> Iterator[Job]:
        for negated in sorted(self._order):
            yield from (job for job in self._by_priority[-negated] if job.state == QUEUED)
