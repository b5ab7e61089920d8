"""What callers ask of a manager at work: counters, figures, processes, stacks. The supervisor thread answers."""

from __future__ import annotations

import _thread
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from procbackground._load import load
from procbackground._state import fleet
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._supervisor.acceptance import Acceptance
from procbackground._supervisor.inbox import Inbox
from procbackground.report import ProcessInfo, Stats

if TYPE_CHECKING:
    from procbackground._report.run import RunReport
    from procbackground._supervisor import views
    from procbackground._supervisor.loop import Loop

T = TypeVar("T")

VIEWS = "procbackground._supervisor.views"  # not before somebody asks


class Questions:
    """The part of `Supervisor` by which callers learn something."""

    _loop: Loop
    _inbox: Inbox
    _acceptance: Acceptance

    # -- how they are asked --------------------------------------------------------------------------------

    def ask(self, act: Callable[[], Any]) -> Any:
        """Return what `act` returns in the supervisor thread."""
        self._acceptance.check_fork()
        if self._is_own_thread() or not self._loop.is_ready:
            return act()
        return self._inbox.ask(act)

    def run_aside(self, act: Callable[[], T]) -> T:
        """Return what `act` returns in a thread in which no signal handler runs."""
        return self._inbox.ask_aside(act)

    def _is_own_thread(self) -> bool:
        return _thread.get_ident() == self._loop.ident

    # -- the questions -------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        return self.ask(self._stats)  # type: ignore[no-any-return]

    def _stats(self) -> Stats:
        scheduler = self._loop.scheduler
        return Stats(
            added=scheduler.added,
            succeeded=scheduler.succeeded,
            failed=scheduler.failed,
            cancelled=scheduler.cancelled,
            retried=scheduler.retried,
            respawned=scheduler.respawned,
            queued=scheduler.count_queued(),
            running=scheduler.count_running(),
        )

    def count(self, *, loops: bool) -> int:
        """Return how many tasks have not ended."""
        scheduler = self._loop.scheduler
        return self.ask(lambda: len(scheduler.loops) if loops else scheduler.unsettled)  # type: ignore[no-any-return]

    def report(self) -> RunReport:
        """Return the figures of the run so far."""
        loop = self._loop
        figures = self.ask(loop.figures.copy)
        make: type[RunReport] = load("procbackground._report.run").RunReport
        return make(figures, loop.options.max_workers, loop.wall(0.0))

    def processes(self) -> list[ProcessInfo]:
        """Return a snapshot of the workers that are ready."""
        self._acceptance.check_fork()
        if not self._loop.is_ready:
            return []
        # Reading /proc takes descriptors, which an exception in between would leave open.
        return [info for info, _ in self.run_aside(self._loop.sampler.sample)]

    def stacks(self, job: Job | None = None) -> list[views.Running]:
        """Return the attempts that run now, or only that of `job`, each with its Python stacks."""
        self._acceptance.check_fork()
        return load(VIEWS).take_stacks(self._loop, job) if self._loop.is_ready else []

    def stack_of(self, job: Job) -> str | None:
        """Return the Python stacks of the job's running attempt, or None."""
        running = self.stacks(job)
        return running[0].stack if running else None

    def __str__(self) -> str:
        return load(VIEWS).status_line(self._loop)  # type: ignore[no-any-return]

    @property
    def broken_text(self) -> str | None:
        """Why no worker can be started any more, or None."""
        if self._acceptance.failure is not None:
            return str(self._acceptance.failure)
        return None if self._acceptance.breakage is None else self._acceptance.breakage.message

    def living_workers(self) -> list[Worker]:
        """Return the workers that take work, or will when they have started; asks for those that are wanted."""
        return self.ask(self._living_workers)  # type: ignore[no-any-return]

    def _living_workers(self) -> list[Worker]:
        scheduler = self._loop.scheduler
        if self._loop.is_ready and not self._inbox.is_over:
            scheduler.staff(time.monotonic())
        ended = (fleet.LEAVING, fleet.DYING, fleet.GONE)
        return [worker for worker in scheduler.workers if worker.state not in ended]
