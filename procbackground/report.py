"""Reports of a manager: attempts, progress, counters, processes, and how a close went. All immutable.

As a program, `python -m procbackground.report FILE`, it reports on the run whose events a file holds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from procbackground._record import record
from procbackground.errors import signal_name
from procbackground.task import Task

__all__ = ["Attempt", "CloseReport", "Outcome", "ProcessInfo", "Progress", "Stats"]


class Outcome(StrEnum):
    """How an attempt ended.

    `SUCCEEDED`: it returned. `RAISED`: the function raised. `TIMED_OUT`: it ran over its `timeout`, or the task over
    its `deadline`. `OVER_MEMORY`: over its `memory_limit`. `DIED`: its process ended before it answered.
    `NOT_SERIALIZED`: the function, an argument, the result or the exception could not cross. `CANCELLED`: the task was
    cancelled, or the manager closed.
    """

    SUCCEEDED = "succeeded"
    RAISED = "raised"
    TIMED_OUT = "timed_out"
    OVER_MEMORY = "over_memory"
    DIED = "died"
    NOT_SERIALIZED = "not_serialized"
    CANCELLED = "cancelled"


@record(frozen=True, slots=True)
class Attempt:
    """One execution of a task in one process.

    Attributes:
        number: from 1 on; for a loop, within the iteration.
        pid: of the process; None if the attempt never got one.
        started, ended: `time.time()`; ended is None while it runs.
        outcome: None while it runs.
        exit_code: as `Process.exitcode` if the process ended (-9 is SIGKILL); None if it lives or the code is unknown.
        error: the exception it ended with, or None.
        cpu_seconds: CPU time that the process spent on it (`time.process_time`), measured by the child for
            attempts of a millisecond and more; None for shorter ones. If the process died or was stopped: the time
            of it and the processes below it, measured by the manager in steps of 10 ms; None if unknown.
        peak_memory: highest resident size of the process so far (`ru_maxrss`), in bytes; measured as `cpu_seconds`.
            If the process died or was stopped: the highest measured size of its tree; None if it was not measured
            (it is measured before each stop, and repeatedly for a `memory_limit` or an observer). Of a tree of several
            processes, pages that they share count once, as in `ProcessInfo.rss`.
        output: what it wrote to its standard output and standard error, where the task's `output` is "capture", "relay"
            or "tagged"; else None.
    """

    number: int
    pid: int | None
    started: float
    ended: float | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    error: BaseException | None = None
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    output: str | None = None

    @property
    def signal(self) -> str | None:
        """Name of the signal that ended the process, such as "SIGKILL", or None."""
        return signal_name(self.exit_code)


@record(frozen=True, slots=True)
class Progress:
    """The progress that a running task reported last, by `current().progress(...)`.

    Attributes: `done` of `total`, in whatever the task counts; `total` and `message` are None where not given.
    """

    done: float
    total: float | None = None
    message: str | None = None


@record(frozen=True, slots=True)
class Stats:
    """Counters since the manager's start; `queued` and `running` are of now.

    Attributes:
        added: tasks that were accepted. Of a `map` its chunks count, and items that continue outside their chunk.
        succeeded, failed, cancelled: tasks that have ended so. Of a loop, the end only.
        retried: further attempts.
        respawned: workers started to replace one that died or was stopped.
        queued: one-offs that wait for a worker, or for their next attempt.
        running: tasks with an attempt in a process.
    """

    added: int
    succeeded: int
    failed: int
    cancelled: int
    retried: int
    respawned: int
    queued: int
    running: int


@record(frozen=True, slots=True)
class ProcessInfo:
    """One worker process at one moment.

    Attributes: `pid`; `task` and `attempt`, None while idle; `since`, the `time.time()` at which it began what it does
    now; `node`, where it runs with an engine, else None; `rss` in bytes and `cpu_percent` (mean since the start; 100 is
    one core), both of the process and its descendants, from /proc, or from `psutil` where there is none. `rss` of a
    single process is its resident size. Of several, pages that they share after a fork count once: it is the sum of
    their proportional shares (`Pss` of /proc/PID/smaps_rollup, `psutil`'s `pss` or `uss`), or the resident size of the
    largest if that is more. Reading it takes the kernel 20 to 50 ms for each GiB. Pages of mapped files are among it;
    for `memory_limit` they do not count.
    """

    pid: int
    task: Task[Any] | None
    attempt: int | None
    since: float
    rss: int
    cpu_percent: float
    node: str | None = None


@record(frozen=True, slots=True)
class CloseReport:
    """How a close went.

    Attributes:
        finished: one-offs that ended by themselves while the manager closed.
        cancelled: one-offs ended while they were queued or waited for a retry. Loops that ended as asked are not
            counted.
        stopped: running tasks that ended within `grace` of SIGTERM.
        killed: running tasks that needed SIGKILL.
        leftovers: pids of processes that could not be ended; of all workers, if the close did not end in time.
            Normally empty.
        left: descriptions of whatever else has not ended in time, such as an observer that blocks. Normally empty.
        seconds: how long the close took.
    """

    finished: int = 0
    cancelled: int = 0
    stopped: int = 0
    killed: int = 0
    leftovers: tuple[int, ...] = ()
    left: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was cut short and nothing is left."""
        return not (self.cancelled or self.stopped or self.killed or self.leftovers or self.left)


if __name__ == "__main__":
    import sys

    from procbackground._report.command import main

    sys.exit(main())
