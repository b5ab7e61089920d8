"""The requests on their way to one worker: their numbers, and how they are recalled.

A worker may have several requests in its pipe. It begins them in order and marks each in the shared page before it
begins it. Recalling those that it has not begun takes two steps:

1. The parent stores the number of the last request in the worker's word REVOKED (command `Revoke`). The worker, before
   each request, first stores its mark STARTED and then reads REVOKED: a revoked request is answered by a skip.
2. A moment later (`READ_MARK_S`) the parent reads STARTED (command `ReadMark`). If it still names the first request,
   the worker has not begun another, and when it comes to the next one it will see REVOKED: the rest is ours and may go
   elsewhere at once (`take_back`). If the mark has moved, the worker answers or skips each of them and says so
   (`skipped`).

Each side stores before it reads, so at least one of them sees the other's store once store buffers have drained, which
takes well under a microsecond; the moment is a thousand times that. Rescue, cancel, stop and close all use this.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from procbackground._state.job import Job

READ_MARK_S: Final = 0.001  # after a recall; the poller's clock ticks in milliseconds


class UnexpectedAnswer(Exception):
    """An answer to a request that is not the worker's next: no worker sends that."""


class Pipeline:
    """The requests that one worker was sent and has not answered. A cancelled job stays until its answer."""

    __slots__ = ("head_since_s", "jobs", "recalled_up_to", "sent")

    def __init__(self, now_s: float) -> None:
        self.jobs: deque[Job] = deque()
        self.sent: int = 0  # number of the latest request
        self.recalled_up_to: int = 0
        self.head_since_s: float = now_s  # when the first of `jobs` began, as far as the parent knows

    def recall(self) -> int:
        """Recall all but what has begun; return the number of the last request concerned."""
        self.recalled_up_to = self.sent
        return self.sent

    def may_take_back(self, started: int, up_to: int) -> bool:
        """Whether a mark that stands at `started` says that the first request still runs.

        A later recall has a look of its own.
        """
        return up_to == self.recalled_up_to and bool(self.jobs) and self.jobs[0].sequence == started

    def take_back(self, up_to: int) -> list[Job]:
        """Return the jobs that were recalled and not begun, the last one first; call `may_take_back` before."""
        head = self.jobs[0].sequence
        taken: list[Job] = []
        kept: deque[Job] = deque()
        # Only up to the recall: the worker may have answered and been sent more since, which it will run.
        for job in self.jobs:
            (taken if head < job.sequence <= up_to else kept).append(job)
        self.jobs = kept
        taken.reverse()
        return taken

    def take_back_unsent(self, job: Job) -> list[Job]:
        """Return the jobs from `job` on, which could not be written, the last one first; their numbers are free."""
        taken: list[Job] = []
        while self.jobs and self.jobs[-1].sequence >= job.sequence:
            taken.append(self.jobs.pop())
        self.sent = job.sequence - 1
        return taken

    def skipped(self, sequence: int, now_s: float) -> Job | None:
        """The worker skipped request `sequence`; return its job, or None: that was taken back before."""
        if not self.jobs or self.jobs[0].sequence != sequence:
            return None
        self.head_since_s = now_s
        return self.jobs.popleft()

    def empty(self) -> deque[Job]:
        """Return all jobs, and keep none: the worker has ended."""
        jobs, self.jobs = self.jobs, deque()
        return jobs
