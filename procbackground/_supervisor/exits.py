"""The end of a worker's process: collects the facts, and settles what depends on it.

The facts come apart: the pidfd reports the end, the zygote its exit code, the result pipe what was sent last. `Death`
is made once, from all of them.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from procbackground import _platform
from procbackground._state.fleet import Death, Worker
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor import monitor
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.machine import OomKills
from procbackground._supervisor.page import Page
from procbackground._supervisor.process import WorkerProcess
from procbackground._supervisor.stacks import StackDumps, shorten
from procbackground._supervisor.watches import Watches
from procbackground._wire.page import MARK, PID, ROW, STARTED

EXIT_CODE_S = 0.25  # between a process's end and its exit code
FIRST_LOOK_S = 0.001  # for an exit code or an end that no message brings; doubles
LONGEST_PAUSE_S = 0.1  # between two looks whether a process has ended


class _Awaited:
    """A process that has ended, and whose exit code is not known yet."""

    __slots__ = ("ended_s", "look_s", "oom_kills", "pause_s")

    def __init__(self, oom_kills: int | None, now_s: float) -> None:
        self.oom_kills = oom_kills  # counted right after its end: later kills are not its own
        self.ended_s = now_s
        self.pause_s = FIRST_LOOK_S
        self.look_s = now_s + FIRST_LOOK_S


class _Unwatched:
    """A process that goes on although its sentinel or its result pipe says that it has ended."""

    __slots__ = ("look_s", "pause_s", "start")

    def __init__(self, start: float, now_s: float) -> None:
        self.start = start
        self.pause_s = FIRST_LOOK_S
        self.look_s = now_s + FIRST_LOOK_S


class Exits:
    """The ends of all workers' processes."""

    def __init__(
        self,
        scheduler: Scheduler,
        watches: Watches,
        page: Page,
        events: Events,
        monitor_: monitor.Monitor,
        stacks: StackDumps,
        read_last: Callable[[Worker], None],
    ) -> None:
        self._scheduler = scheduler
        self._watches = watches
        self._page = page
        self._events = events
        self._monitor = monitor_
        self._stacks = stacks
        self._read_last = read_last  # reads what a worker's result pipe still holds
        self.awaited: dict[Worker, _Awaited] = {}
        self.unwatched: dict[Worker, _Unwatched] = {}
        self.unclosed: list[WorkerProcess] = []  # processes that have ended, with descriptors to close
        self._oom_kills = OomKills()
        self.killed_descendants: dict[int, float] = {}  # pid -> start time

    def process_ended(self, worker: Worker) -> None:
        """The process has ended. Its exit code may be a moment behind."""
        process: WorkerProcess = worker.process
        if process.is_dead:
            return
        self._watches.forget(process.death_fd)
        now_s = time.monotonic()
        # A sentinel is a pipe: the fork server's, which may have died, or one that the process closes before it ends.
        # The result pipe, whose end brings us here too, is closed by a process that goes on as another program.
        if process.pidfd is None and (start := _platform.start_time(process.pid)) is not None:
            self.unwatched[worker] = _Unwatched(start, now_s)
            return
        self._note_end(worker, now_s)

    def _note_end(self, worker: Worker, now_s: float) -> None:
        process: WorkerProcess = worker.process
        process.is_dead = True
        self._scheduler.process_ended(worker, now_s)
        launcher = process.launcher
        oom_kills = self._oom_kills.count() if worker.is_running and not worker.was_killed else None
        if launcher.exit_code_of(process) is None and launcher.expects_exit_code(process):
            self.awaited[worker] = _Awaited(oom_kills, now_s)
            # The zygote, on another core, has probably sent it: a pass of the loop for it would take 0.15 ms.
            self._watches.defer(launcher.look_for_exits)
        else:
            self._finish_exit(worker, oom_kills)

    def exit_code_came(self, process: WorkerProcess) -> None:
        """The launcher has learnt the exit code, or will not any more."""
        worker = process.worker
        awaited = self.awaited.pop(worker, None)
        if awaited is not None:
            self._finish_exit(worker, awaited.oom_kills)
        elif not process.is_dead and not process.is_closed:
            process.is_dead = True
            self._watches.forget(process.death_fd)
            self._scheduler.process_ended(worker, time.monotonic())
            self._finish_exit(worker)

    @property
    def next_due_s(self) -> float:
        """When to look for what is `awaited` or `unwatched`."""
        looks_s = [each.look_s for each in self.awaited.values()]
        looks_s += [each.look_s for each in self.unwatched.values()]
        return min(looks_s, default=float("inf"))

    def look(self, now_s: float) -> None:
        """Look for ends that nothing reports, and again for exit codes that are late; do without those too late."""
        for worker, unwatched in list(self.unwatched.items()):
            if now_s < unwatched.look_s:
                continue
            if _platform.start_time(worker.pid) == unwatched.start:
                unwatched.pause_s = min(2 * unwatched.pause_s, LONGEST_PAUSE_S)
                unwatched.look_s = now_s + unwatched.pause_s
                continue
            del self.unwatched[worker]
            self._note_end(worker, now_s)
        for worker, awaited in list(self.awaited.items()):
            if now_s < awaited.look_s or worker not in self.awaited:
                continue
            process: WorkerProcess = worker.process
            launcher = process.launcher
            waited_s = now_s - awaited.ended_s
            if launcher.exit_code_of(process) is None and launcher.expects_exit_code(process):
                if waited_s < EXIT_CODE_S or launcher.may_wait_longer(waited_s):
                    awaited.pause_s *= 2
                    awaited.look_s = now_s + awaited.pause_s
                    continue
                if worker not in self.awaited:
                    continue  # the launcher has given up all of them
            del self.awaited[worker]
            self._finish_exit(worker, awaited.oom_kills)

    def _finish_exit(self, worker: Worker, oom_kills: int | None = None) -> None:
        """Settle what a dead worker had."""
        process: WorkerProcess = worker.process
        if process.is_closed or process in self.unclosed:
            return
        process.kill_tree()  # what it started ends with it
        if process.descendants:
            self.killed_descendants = {**self.descendants_alive(), **process.descendants}
        # Empty the pipe before believing the death: a worker that answers and then dies makes both ready in one
        # wait, and its answer counts.
        self._read_last(worker)
        self._stacks.forget(worker)
        death = self._make_death(worker, process, oom_kills)
        started = self._page.read(worker, STARTED)
        self._page.write(worker, PID, 0)  # the pid may be reused
        self._page.write(worker, MARK, 0)  # its launcher's helper ends what has it
        self._note_what_began(worker, started)
        for fd in process.channel.fds():
            self._watches.forget(fd)
        self._scheduler.worker_gone(worker, started, death, time.monotonic())
        self.unclosed.append(process)

    def close_ended(self) -> None:
        """Close what processes that have ended leave.

        Apart from their ends: it takes the kernel 0.1 ms, for which the error of a task, or its retry, need not wait.
        """
        while self.unclosed:
            self.unclosed.pop().close()

    def _make_death(self, worker: Worker, process: WorkerProcess, oom_kills: int | None) -> Death:
        current = worker.current
        sequence = 0 if current is None else current.sequence
        exit_code = process.launcher.exit_code_of(process)
        used_s = process.cpu_s
        if used_s is None and worker.is_running and process.is_held:
            used_s = monitor.cpu_seconds(worker.pid)
        cpu_s, peak_bytes = self._monitor.cost_of_the_dead(worker, sequence, used_s, process.peak_bytes)
        oom = ""
        if exit_code == -signal.SIGKILL and not worker.was_killed and not process.how_cut_off:
            # Of an idle worker's, too: else the next one that is killed at a task would be charged with it.
            oom = self._oom_kills.cause_of_death(self._oom_kills.count() if oom_kills is None else oom_kills)
        stack = process.stack
        if stack is None:
            process.notes_seen = 0
            notes = process.read_notes()
            stack = None if notes is None else shorten(notes)
        return Death(
            exit_code=exit_code,
            oom=oom,
            cpu_s=cpu_s,
            peak_bytes=max(peak_bytes or 0, process.peak_bytes) or None,
            stack=stack,
            no_stack_reason=process.no_stack_reason,
            log_records=process.log_tail(sequence),
            protocol_error=process.protocol_error,
            how_cut_off=process.how_cut_off,
            stderr=self._page.stderr_of(worker),
        )

    def _note_what_began(self, worker: Worker, started: int) -> None:
        """Keep what only the page says: the row at which a chunk ended, and whether an event came too early."""
        jobs = worker.pipeline.jobs
        if jobs:
            jobs[0].handle._ended_at_row = self._page.read(worker, ROW)
            if jobs[0].sequence > started:
                self._events.head_did_not_begin(worker, jobs[0].sequence)
        elif worker.loop is not None and not started and worker.last_started_event_sequence:
            worker.loop.with_history().unbegun_attempt = worker.loop.attempt

    def descendants_alive(self) -> dict[int, float]:
        """Return what the workers had started and SIGKILL has not ended yet."""
        killed = self.killed_descendants.items()
        return {pid: start for pid, start in killed if _platform.start_time(pid) == start}
