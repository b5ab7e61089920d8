"""Takes what workers send: seventh stop of a task. Values are collected for `settle`; everything else is a fact for
the scheduler, or a message for the handle, the observers or the log.

Nothing that comes out of a pipe is trusted, because a task may write to the worker's descriptors. On bytes that are no
frame, or an answer without a request, the worker is killed, and its task fails with an error that says so.
"""

from __future__ import annotations

import functools
import signal
import time
from typing import Any

from procbackground import _platform
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.pipeline import UnexpectedAnswer
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.output import Outputs
from procbackground._supervisor.page import Page
from procbackground._supervisor.process import WorkerProcess
from procbackground._supervisor.progress import ProgressReports
from procbackground._supervisor.relay import RecordRelay, origin_of, relay_record
from procbackground._supervisor.settle import ResultBatch, Settler
from procbackground._supervisor.watches import Watches
from procbackground._supervisor.workers import Workers
from procbackground._wire import frames as wire
from procbackground._wire.page import ITERATIONS
from procbackground._wire.parcel import ReceivedParcel
from procbackground._wire.plain import STACK_GLOBAL

# Of a worker's log records, of some 500 bytes each, that wait for the parent's handlers; then the worker waits, as it
# would for handlers of its own.
UNRELAYED_BYTES = 256 << 10


class Answers:
    """Reads the result pipes."""

    def __init__(
        self,
        scheduler: Scheduler,
        watches: Watches,
        page: Page,
        events: Events,
        settler: Settler,
        workers: Workers,
        log_records: RecordRelay,
    ) -> None:
        self._scheduler = scheduler
        self._watches = watches
        self._page = page
        self._events = events
        self._settler = settler
        self._workers = workers
        self._log_records = log_records
        self.progress: ProgressReports = ProgressReports(page, events)
        self.outputs = Outputs(watches, events, log_records)

    def watch(self, worker: Worker) -> None:
        """Read the worker's result pipe whenever it holds something."""
        self._watches.watch(worker.process.channel.result_fd, lambda: self.read_once(worker))

    def read_once(self, worker: Worker) -> bool:
        """Take what the worker's result pipe holds; return whether there may be more."""
        process: WorkerProcess = worker.process
        channel = process.channel
        data = channel.read()
        if data is None:
            return False
        if data:
            self._take_frames(worker, process, channel.reader.feed(data))
            return channel.result_fd >= 0
        # The end of the pipe: the process has ended, or the task closed the worker's descriptor or runs another program
        # in its place. No more answers can come in any case.
        self._stop_reading(process)
        if not process.is_dead:
            process.how_cut_off = _platform.how_cut_off(process.pid, self._page.fd)
            process.signal_group(signal.SIGKILL)
            if process.pidfd is None:
                # Its sentinel is a pipe, which a process that the task has forked may hold open for longer.
                self._watches.act(process.death_fd)
        return False

    def read_last(self, worker: Worker) -> None:
        """Take all that a process which has ended has sent."""
        while worker.process.channel.result_fd >= 0 and self.read_once(worker):
            pass
        self.outputs.end(worker.process.output)
        self.progress.worker_ended(worker)

    def _stop_reading(self, process: WorkerProcess) -> None:
        self._watches.forget(process.channel.result_fd)
        process.channel.close_results()

    def _take_frames(self, worker: Worker, process: WorkerProcess, frames: list[tuple[int, int, bytes]]) -> None:
        try:
            self._take_checked(worker, process, frames)
            error: Exception | None = process.channel.reader.error
        except UnexpectedAnswer as wrong:
            error = wrong
        if error is not None and process.protocol_error is None:
            # Nothing that follows can be read. The task fails, whichever of its processes wrote this.
            process.protocol_error = str(error)
            self._stop_reading(process)
            self._scheduler.sent_garbage(worker, time.monotonic())

    def _take_checked(self, worker: Worker, process: WorkerProcess, frames: list[tuple[int, int, bytes]]) -> None:
        """Act on frames, in order. Raises: `UnexpectedAnswer` where one answers what was not asked."""
        scheduler, channel, events = self._scheduler, process.channel, self._events
        values: list[Any] = []
        messages: list[tuple[int, int, bytes, Job | None]] = []
        last = 0
        wants_more = False
        now_s = time.monotonic()
        for kind, sequence, body in frames:
            if kind <= wire.SKIPPED:
                wants_more = True
                if kind <= wire.PARCEL_VALUE:
                    values.append(body if kind != wire.PARCEL_VALUE else self._receive_parcel(process, body))
                    last = sequence
                    continue
            if values:
                self._match(worker, process, values, last, now_s)
                values = []
            if kind == wire.MEASURED:
                channel.measured = wire.COST.unpack(body)
            elif kind == wire.OUTPUT:
                self.outputs.begin(worker, sequence)
            elif kind == wire.FAILURE:
                self.outputs.end(process.output)
                measured, channel.measured = channel.measured, None
                scheduler.failure_came(worker, body, now_s, sequence, measured)
                events.head_started(worker)
            elif kind == wire.SKIPPED:
                events.head_did_not_begin(worker, sequence)
                scheduler.skipped(worker, sequence, now_s)
                events.head_started(worker)
            elif kind == wire.HELLO:
                scheduler.said_hello(worker, now_s)
            elif kind == wire.LEAVING:
                for job in list(worker.pipeline.jobs):
                    events.head_did_not_begin(worker, job.sequence)
                scheduler.leaves(worker, now_s)
            elif kind == wire.BROKEN:
                scheduler.initializer_failed(worker, body, now_s)
            elif kind == wire.ITERATION_FAILED:
                self.outputs.drain(process.output)
                scheduler.iteration_failed(worker, body, self._page.read(worker, ITERATIONS), now_s)
            elif kind == wire.LOOP_ENDED:
                self.outputs.end(process.output)
                scheduler.loop_ended(worker, now_s)
            else:
                if kind == wire.LOG_RECORD:
                    process.relayed.add(sequence)
                    process.unrelayed_bytes += len(body)
                messages.append((kind, sequence, body, worker.current))
        if values:
            self._match(worker, process, values, last, now_s)
        # Only after an answer: before the first one, a request may still be due as a command of the scheduler.
        jobs = scheduler.refill(worker, now_s) if wants_more else []
        if jobs:
            self._workers.send(worker, jobs)
        for message in messages:
            self.take_message(worker, *message)
        if process.unrelayed_bytes > UNRELAYED_BYTES and not process.is_dead:
            self._pause(worker, process)

    def _pause(self, worker: Worker, process: WorkerProcess) -> None:
        """Read no more from the worker until the parent's handlers have had its records, or are blocked."""
        process.unrelayed_bytes = 0

        def resume() -> None:
            if not process.is_dead and process.channel.result_fd >= 0:
                self.watch(worker)

        self._watches.forget(process.channel.result_fd)
        self._log_records.after_records(resume)

    def _receive_parcel(self, process: WorkerProcess, label: bytes) -> ReceivedParcel | bytes:
        try:
            return process.channel.receive_parcel(label)
        except (OSError, EOFError):
            return b"\x94" + STACK_GLOBAL  # no descriptor is left; this fails to load, which fails this task only

    def _match(self, worker: Worker, process: WorkerProcess, values: list[Any], last: int, now_s: float) -> None:
        if process.output is not None:
            self.outputs.end(process.output)
        since_s = worker.pipeline.head_since_s
        pace_s = self._page.pace_of(worker, last)
        jobs = self._scheduler.answers_came(worker, len(values), last, now_s, pace_s)
        measured, process.channel.measured = process.channel.measured, None
        self._settler.batches.append(ResultBatch(worker, jobs, values, measured, since_s, now_s))
        if self._events.has_started:
            self._events.answered(jobs, worker)
            self._events.head_started(worker)

    def take_message(self, worker: Worker, kind: int, sequence: int, body: bytes, current: Job | None) -> None:
        """Take a message that is no answer; `current` is the job that the worker ran then."""
        is_current = current is not None and current.sequence == sequence
        if kind == wire.PARTIAL:
            if is_current:
                assert current is not None
                take_part = functools.partial(current.handle._take_part, body)
                if sequence in worker.process.relayed:
                    self._log_records.after_records(take_part)
                else:
                    take_part()
        elif kind == wire.PROGRESS:
            self.progress.came(worker, current, body)
        elif kind == wire.CHECKPOINT:
            if is_current and current is not None and not current.has_settled and len(body) > wire.CHECKPOINT_HEAD.size:
                self._keep_checkpoint(current, body)
        elif kind == wire.LOG_RECORD:
            worker.process.note_record(sequence, body)
            self._log_records.put(relay_record, body, origin_of(worker.pid, current if is_current else None))

    def _keep_checkpoint(self, job: Job, body: bytes) -> None:
        """Keep what the task saved for its next attempt; it is never loaded here."""
        (row,) = wire.CHECKPOINT_HEAD.unpack_from(body)
        state = body[wire.CHECKPOINT_HEAD.size :]
        if job.recipe.is_chunk:
            job.handle._take_checkpoint(row, state)
        else:
            job.with_history().checkpoint = state
            job.flags |= wire.HAS_SAVED
            if self._settler.keyed is not None:
                self._settler.keyed.note_saved(job, state)
