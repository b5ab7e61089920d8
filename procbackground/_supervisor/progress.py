"""Takes the progress reports of workers: from the pipe, and the latest ones from the shared page.

A report by the pipe is followed by one look at the page: the child sends the next one only after that. One more look is
taken when the worker's process ends.
"""

from __future__ import annotations

import struct
import time

from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.page import Page
from procbackground._wire import progress as p
from procbackground.report import Progress

TRIES = 20  # to read a report that the child replaces meanwhile; then the next look finds a later one


class ProgressReports:
    """The progress of all workers' tasks."""

    def __init__(self, page: Page, events: Events) -> None:
        self._page = page
        self._events = events
        self._seen: dict[Worker, int] = {}  # number of the last report; of workers that have reported
        self.looks: dict[Worker, float] = {}  # when to look at the page

    def came(self, worker: Worker, job: Job | None, body: bytes) -> None:
        """Take a report that came by the pipe; `job` is what the worker ran then."""
        try:
            report = p.unpack(body)
        except struct.error:
            return  # the task wrote this to the pipe
        self.looks[worker] = time.monotonic() + p.LOOK_AFTER_S
        self._take(worker, job, report)

    @property
    def next_due_s(self) -> float:
        return min(self.looks.values(), default=float("inf"))

    def look(self, now_s: float) -> None:
        """Look at the page for reports that did not come by the pipe."""
        for worker, due_s in list(self.looks.items()):
            if now_s >= due_s:
                del self.looks[worker]
                if not self._read(worker):
                    self.looks[worker] = now_s + p.LOOK_AFTER_S

    def worker_ended(self, worker: Worker) -> None:
        """Take the last report of a process that has ended."""
        if worker in self._seen:
            self._read(worker)
            del self._seen[worker]
            self.looks.pop(worker, None)

    def _read(self, worker: Worker) -> bool:
        """Take what is in the page; return False if the child wrote each time meanwhile."""
        for _ in range(TRIES):
            number = self._page.read_report_number(worker)
            if number <= self._seen.get(worker, 0):
                return True
            report = self._page.read_report(worker, number)
            if report.number == number == self._page.read_report_number(worker):
                self._take(worker, worker.current, report)
                return True
        return False

    def _take(self, worker: Worker, job: Job | None, report: p.Report) -> None:
        if report.number <= self._seen.get(worker, 0):
            return  # a look at the page was quicker
        self._seen[worker] = report.number
        if job is None or job.sequence != report.sequence or job.has_settled:
            return  # of a thread that outlived its task, or of a task that was cancelled
        done, total, message = report.done, report.total, report.message
        if job.handle._row_handles is not None:
            self._events.rows_started(job.handle, report.row, worker)
        job.handle._shown()._progress = Progress(done, total, message)
        self._events.task("on_task_progress", job, done=done, total=total, message=message)
