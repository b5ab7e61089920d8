"""Jobs that wait for a worker, in order of priority, then of acceptance."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from procbackground._state.attempt import QUEUED
from procbackground._state.job import Job


class _Line:
    """Jobs of one priority: those that came in order, and those that came back, which go by their number."""

    __slots__ = ("back", "fresh")

    def __init__(self) -> None:
        self.fresh: deque[Job] = deque()
        self.back: list[tuple[int, Job]] = []  # a heap

    def peek(self) -> Job | None:
        fresh, back = self.fresh, self.back
        while fresh and fresh[0].state != QUEUED:
            fresh.popleft()
        if not back:  # nearly always
            return fresh[0] if fresh else None
        while back and back[0][1].state != QUEUED:
            heapq.heappop(back)
        if back and not (fresh and fresh[0].number < back[0][0]):
            return back[0][1]
        return fresh[0] if fresh else None

    def pop(self) -> Job:
        fresh, back = self.fresh, self.back
        if back and not (fresh and fresh[0].number < back[0][0]):
            return heapq.heappop(back)[1]
        return fresh.popleft()

    def __iter__(self) -> Iterator[Job]:
        yield from (job for job in self.fresh if job.state == QUEUED)
        yield from (job for _, job in sorted(self.back) if job.state == QUEUED)


class JobQueue:
    """A line for each priority: nearly always there is one, and jobs then cost a pointer each.

    Jobs that ended while they waited stay where they are and are skipped.
    """

    __slots__ = ("_lines", "_order", "length")

    def __init__(self) -> None:
        self._lines: dict[int, _Line] = {}
        self._order: list[int] = []  # of the priorities, negated; a heap
        self.length: int = 0  # jobs that still wait

    def __len__(self) -> int:
        return self.length

    def push(self, job: Job) -> None:
        """Append a job that was accepted after all others."""
        line = self._lines.get(job.recipe.priority)
        if line is None:
            line = self._line_for(job.recipe.priority)
        line.fresh.append(job)
        self.length += 1

    def extend(self, priority: int, jobs: list[Job]) -> None:
        """Append jobs of this priority that were accepted after all others."""
        self._line_for(priority).fresh.extend(jobs)
        self.length += len(jobs)

    def push_back(self, job: Job) -> None:
        """Put back a job, among the others by its order of acceptance."""
        heapq.heappush(self._line_for(job.recipe.priority).back, (job.number, job))
        self.length += 1

    def _line_for(self, priority: int) -> _Line:
        line = self._lines.get(priority)
        if line is None:
            line = self._lines[priority] = _Line()
            heapq.heappush(self._order, -priority)
        return line

    def peek(self) -> Job | None:
        """Return the first job that still waits, without taking it."""
        while self._order:
            priority = -self._order[0]
            job = self._lines[priority].peek()
            if job is not None:
                return job
            del self._lines[priority]
            heapq.heappop(self._order)
        return None

    def pop(self) -> Job:
        """Take the job that `peek` has just returned."""
        self.length -= 1
        return self._lines[-self._order[0]].pop()

    def take(self, most: int, is_behind: bool) -> list[Job]:
        """Take up to `most` jobs that may be in one worker's pipe, where others are already if `is_behind`.

        A job with a `depth` of 1 must have the pipe to itself.
        """
        taken: list[Job] = []
        while len(taken) < most:
            job = self.peek()
            if job is None or (job.recipe.depth == 1 and (is_behind or taken)):
                break
            line = self._lines[-self._order[0]]
            if line.back:
                taken.append(line.pop())
                continue
            # Those that came in order, in one go: a `peek` and a `pop` for each would be a quarter of a refill's time.
            fresh = line.fresh
            while fresh and len(taken) < most:
                job = fresh[0]
                if job.state == QUEUED:
                    if job.recipe.depth == 1 and (is_behind or taken):
                        break
                    taken.append(job)
                fresh.popleft()
        self.length -= len(taken)
        return taken

    def take_all(self) -> list[Job]:
        """Take all jobs that wait."""
        jobs = list(self)
        self._lines, self._order, self.length = {}, [], 0
        return jobs

    def note_ended(self) -> None:
        """A job of this queue has ended where it waits; its state says so already."""
        self.length -= 1
        if not self.length:
            # All that is left has ended. It may be long until the next `peek` skips it, and it holds its arguments.
            self._lines, self._order = {}, []

    def __iter__(self) -> Iterator[Job]:
        for negated in sorted(self._order):
            yield from self._lines[-negated]
