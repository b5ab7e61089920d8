"""What the status socket shows of a manager, and does to it: see `_status`."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from procbackground._supervisor import views

if TYPE_CHECKING:
    from procbackground._state.job import Job
    from procbackground._supervisor.supervisor import Supervisor
    from procbackground.report import ProcessInfo, Stats

EACH_S = 0.1  # how exact the age of the queue is
MOST_MARKS = 10_000


class ArrivalMarks:
    """Remembers when how many tasks had been added, in steps of time, for the age of the queue.

    A time in each job would cost every manager; this costs one with a status socket a look at a batch of jobs.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque(maxlen=MOST_MARKS)  # time, and number of tasks added before

    def note(self, now_s: float, added: int) -> None:
        """A batch of tasks comes, the first of which is number `added`, from 0 on."""
        if not self._marks or now_s - self._marks[-1][0] > EACH_S:
            self._marks.append((now_s, added))

    def age_s(self, now_s: float, begun: int) -> float | None:
        """Return how long task number `begun` has been there, or None if it is not known."""
        marks = self._marks
        while len(marks) > 1 and marks[1][1] <= begun:
            marks.popleft()
        return max(0.0, now_s - marks[0][0]) if marks else None


class Overview:
    """A manager as the status server needs it. From any thread."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._loop = supervisor._loop
        self._marks = ArrivalMarks()

    def stats(self) -> Stats:
        return self._supervisor.stats()

    def processes(self) -> list[ProcessInfo]:
        return self._supervisor.processes()

    def state(self) -> str:
        """Return one word: unused, open, closing, closed or broken."""
        return views.state_of(self._loop)

    def mark_arrivals(self) -> None:
        """Have the intake note when tasks come."""
        self._loop.intake.marks = self._marks

    def queue_age_s(self) -> float | None:
        """Return how long the oldest queued task has waited, were tasks taken in their order."""
        scheduler = self._loop.scheduler

        def look() -> float | None:
            begun = scheduler.succeeded + scheduler.failed + scheduler.cancelled + scheduler.count_running()
            return self._marks.age_s(time.monotonic(), begun)

        return self._supervisor.ask(look)  # type: ignore[no-any-return]

    def cancel_at(self, pid: int, since: float | None) -> bool:
        """Cancel the task that a worker runs, if it runs it since then; return whether it was cancelled.

        Raises: `LookupError` for a pid that is no worker's. With `since` it was one, and has ended.
        """

        def look() -> Job | None:
            for row in self._loop.sampler.rows():
                if row.worker.pid == pid:
                    is_same = since is None or abs(self._loop.wall(row.since_s) - float(since)) < 1e-3
                    return row.job if is_same else None
            if since is None:
                raise LookupError(f"no worker has pid {pid}")
            return None

        job: Any = self._supervisor.ask(look)
        return job is not None and job.handle.cancel()

    def cancel_queued(self) -> None:
        self._supervisor.cancel_queued()

    def ask_to_close(self, timeout_s: float | None) -> None:
        self._supervisor.ask_to_close(timeout_s)
