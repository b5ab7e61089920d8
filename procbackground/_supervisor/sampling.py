"""Uses of the monitor's measurements: `processes()`, samples for observers, memory limits, free memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from procbackground._named import NamedTuple
from procbackground._state import commands as c
from procbackground._state import fleet
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor import machine
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.inbox import Inbox
from procbackground._supervisor.monitor import Monitor, Watched, held, sample
from procbackground._supervisor.obstacles import starved_error
from procbackground.report import ProcessInfo


class _Row(NamedTuple):
    worker: Worker
    job: Job | None
    sequence: int
    attempt: int | None
    since_s: float


class Sampler:
    """Takes the figures in the thread that asks for them: reading /proc is nothing for the supervisor."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        inbox: Inbox,
        wall: Callable[[float], float],
        events: Events,
        fail: Callable[[Job, BaseException], None],
        min_free_bytes: int,
    ) -> None:
        self._scheduler = scheduler
        self._inbox = inbox
        self._wall = wall
        self._events = events
        self._fail = fail  # settles a job's handle
        self._min_free_bytes = min_free_bytes
        self._keeps = "on_process_sampled" in events.wanted  # what was seen of running tasks
        self.monitor = Monitor(
            name,
            lambda: inbox.ask(self._limited_workers),
            lambda watched, rss_bytes: inbox.put(lambda: self._over_memory(watched)),
            self._send_samples if self._keeps else None,
            self._watch_free_memory,
        )

    def sample(self) -> list[tuple[ProcessInfo, Job | None]]:
        """Return the figures of the workers that are ready, each with the job that it runs."""
        rows = self._inbox.ask(self.rows)
        figures = sample([row.worker.pid for row in rows])
        samples = []
        for row in rows:
            seen = figures.get(row.worker.pid)
            if seen is None:
                continue
            if row.job is not None and self._keeps:
                self.monitor.note(row.worker, row.sequence, seen)
            task = None if row.job is None else row.job.handle.task
            cpu_percent = 100 * seen.cpu_s / seen.age_s
            since = self._wall(row.since_s)
            samples.append(
                (ProcessInfo(row.worker.pid, task, row.attempt, since, seen.rss_bytes, cpu_percent), row.job)
            )
        return samples

    def rows(self) -> list[_Row]:
        """Return the workers that are ready, each with its job. In the supervisor thread."""
        rows = []
        for worker in self._scheduler.workers:
            if worker.pid and worker.state not in (fleet.STARTING, fleet.DYING):
                job = worker.current
                if job is None:
                    rows.append(_Row(worker, None, 0, None, worker.since_s))
                else:
                    rows.append(_Row(worker, job, job.sequence, job.attempt, worker.pipeline.head_since_s))
        return rows

    def obey(self, command: c.WatchMemory | c.Starved | c.AdmissionHeld | c.AdmissionResumed) -> None:
        """Carry out a command that concerns the free memory. In the supervisor thread."""
        min_free = self._min_free_bytes
        match command:
            case c.WatchMemory():
                if not self.monitor.request_watch():
                    self._scheduler.memory_not_seen(time.monotonic())
            case c.Starved(job, free):
                self._fail(job, starved_error(job, free, min_free))
            case c.AdmissionHeld(free):
                self._events.manager("on_admission_held", reason="memory", free=free, min_free=min_free)
            case c.AdmissionResumed(free, held_for_s):
                self._events.manager("on_admission_resumed", reason="memory", free=free, held_for=held_for_s)

    # -- what the monitor's thread calls -------------------------------------------------------------------

    def _limited_workers(self) -> list[Watched]:
        limited = []
        for worker in self._scheduler.workers:
            job = worker.current
            if job is not None and job.recipe.memory_limit is not None:
                limited.append(Watched(worker, job.sequence, job.recipe.memory_limit))
        return limited

    def _over_memory(self, watched: Watched) -> None:
        job = watched.worker.current
        if job is not None and job.sequence == watched.sequence:  # else it was answered meanwhile
            self._scheduler.over_memory(watched.worker, time.monotonic())

    def _watch_free_memory(self) -> bool:
        """Report the free memory; return whether to look again."""
        scheduler = self._scheduler
        if not scheduler.is_memory_watched:  # most managers; a request for a look comes after it is set
            return False
        free_bytes = machine.free_memory_bytes()
        held_bytes: dict[Worker, int] = {}
        if scheduler.ledger.reserved:
            # Of what they have reserved they hold some already, which is not free. Pages of files count as free.
            workers = self._inbox.ask(self._reserving_workers)
            bytes_of_pid = held([worker.pid for worker in workers])
            held_bytes = {each: bytes_of_pid[each.pid] for each in workers if each.pid in bytes_of_pid}
        return self._inbox.ask(lambda: scheduler.memory_seen(free_bytes, time.monotonic(), held_bytes))

    def _reserving_workers(self) -> list[Worker]:
        return [each for each in self._scheduler.workers if each.needs is not None and each.needs.memory]

    def _send_samples(self) -> bool:
        """Send events of all processes' figures; return whether any of them runs a task."""
        samples = self.sample()
        self._inbox.ask(lambda: self._put_samples(samples))
        return any(job is not None for _, job in samples)

    def _put_samples(self, samples: list[tuple[ProcessInfo, Job | None]]) -> None:
        """Send events of the samples that are still true. In the supervisor thread, which makes all other events.

        A task or a process may have ended while the figures were read, and no event of it may follow its end.
        """
        job_of_pid = {row.worker.pid: row.job for row in self.rows()}
        for info, job in samples:
            if info.pid in job_of_pid and (job is None or job is job_of_pid[info.pid]):
                self._events.sampled(info, job)
