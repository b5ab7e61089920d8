"""Carries out commands that concern workers: starts them, writes to them, stops them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial

from procbackground import _platform
from procbackground._log import logger
from procbackground._state import commands as c
from procbackground._state.fleet import Worker
from procbackground._state.job import Job, KeyedJob
from procbackground._state.launches import FINAL
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.inbox import QUICK_S, Inbox
from procbackground._supervisor.monitor import Monitor
from procbackground._supervisor.obstacles import kind_of
from procbackground._supervisor.page import Page
from procbackground._supervisor.process import WorkerProcess
from procbackground._supervisor.shares import Shares
from procbackground._supervisor.stacks import StackDumps
from procbackground._supervisor.watches import Watches
from procbackground._wire import frames as wire
from procbackground._wire.output import Plan
from procbackground._wire.page import LOOKS, REVOKED, STARTED, STOP
from procbackground._wire.shares import NUMBER
from procbackground.errors import SerializationError
from procbackground.task import NO_LIMIT


class Workers:
    """The hands of the scheduler, as far as workers are concerned."""

    def __init__(
        self,
        scheduler: Scheduler,
        inbox: Inbox,
        watches: Watches,
        page: Page,
        events: Events,
        monitor: Monitor,
        stacks: StackDumps,
        fail: Callable[[Job, BaseException], None],
        shares: Shares,
        do_soon: Callable[..., None],
    ) -> None:
        self._scheduler = scheduler
        self._inbox = inbox
        self._watches = watches
        self._page = page
        self._events = events
        self._monitor = monitor
        self._stacks = stacks
        self._fail = fail  # settles a job's handle
        self._shares = shares
        self._do_soon = do_soon  # in a thread of user code
        self._is_sampled = "on_process_sampled" in events.wanted
        self._short_since_s: float | None = None  # since when no worker could be started, for want of something

    # -- writing -------------------------------------------------------------------------------------------

    def send(self, worker: Worker, jobs: list[Job]) -> None:
        """Write the requests of these jobs."""
        process: WorkerProcess = worker.process
        if process.is_closed:
            return  # its jobs come back when its end is known
        if self._events.has_started:
            if worker.loop is not None:
                self._events.loop_started(worker.loop, worker)
            else:
                self._events.head_started(worker)
        needs_watch = self._is_sampled
        frames: list[bytes] = []
        for job in jobs:
            if job.flags & wire.PARCEL and not self._send_parcel(worker, job):
                break  # those behind it go to another worker, too
            if job.recipe.memory_limit is not None:
                needs_watch = True
            frames.append(call_frame(job))
        if not frames:
            return
        if needs_watch:
            self._monitor.request_watch()
        if len(jobs) == 1 and 0 <= jobs[0].recipe.mean_s < QUICK_S:
            self._inbox.may_spin = True
        if not process.channel.write(b"".join(frames)):
            self._write_when_ready(process)

    def _send_parcel(self, worker: Worker, job: Job) -> bool:
        """Send the descriptor of a parcel, before its request; return False where that is not possible now.

        Then this request and those behind it go to another worker. What the worker runs is not concerned.
        """
        channel = worker.process.channel
        try:
            for share in job.payload.shares:
                if share.number not in channel.shares:
                    channel.send_share(share)
                    self._shares.watch(share)
            channel.send_parcel(job.payload)
        except (BrokenPipeError, ConnectionError):
            pass  # it has died: its jobs come back when its end is known
        except OSError as error:
            if not self._scheduler.not_sent(worker, job, time.monotonic()):
                self._fail(job, SerializationError(f"the arguments could not be sent to a worker: {error}"))
            return False
        return True

    def release_share(self, number: int) -> None:
        """Have the workers that have a shared value let go of it."""
        for worker in self._scheduler.workers:
            process: WorkerProcess | None = worker.process
            # A loop reads nothing but whether to continue; its process ends with it.
            if process is not None and number in process.channel.shares and worker.loop is None:
                process.channel.shares.discard(number)
                data = wire.frame(wire.RELEASE, worker.pipeline.sent, NUMBER.pack(number))
                if not process.channel.write(data):
                    self._write_when_ready(process)

    def _write_when_ready(self, process: WorkerProcess) -> None:
        fd = process.channel.task_fd
        if fd >= 0 and fd not in self._watches.actions:
            self._watches.watch(fd, lambda: self._write_rest(process), writable=True)

    def _write_rest(self, process: WorkerProcess) -> None:
        fd = process.channel.task_fd
        if process.channel.write_rest():
            self._watches.forget(fd)

    def dismiss(self, worker: Worker) -> None:
        """Close the worker's task pipe, so that it ends by itself."""
        process: WorkerProcess | None = worker.process
        if process is not None and process.channel.task_fd >= 0:
            self._watches.forget(process.channel.task_fd)
            process.channel.close_tasks()

    def end_loop(self, worker: Worker) -> None:
        """Let the worker's loop end after its running iteration."""
        self._page.write(worker, STOP, 1)
        self.dismiss(worker)

    def continue_loop(self, worker: Worker) -> None:
        """Let a loop whose iteration failed begin the next one."""
        worker.process.channel.write(wire.frame(wire.GO_ON, 0))

    # -- recalling -----------------------------------------------------------------------------------------

    def revoke(self, worker: Worker, up_to: int) -> None:
        """Have the worker skip what it has not begun, up to request `up_to`."""
        self._page.write(worker, REVOKED, up_to)

    def read_mark(self, worker: Worker, up_to: int) -> None:
        """Report which request the worker began last."""
        self._scheduler.mark_seen(worker, self._page.read(worker, STARTED), up_to, time.monotonic())

    def ask_for_look(self, worker: Worker) -> None:
        """Have the worker's chunk look at the clock before its next row."""
        asked_s = time.monotonic()
        self._page.write(worker, LOOKS, (self._page.read(worker, LOOKS) + 1) % 256)
        self._scheduler.look_was_asked(worker, asked_s, time.monotonic())

    # -- stopping ------------------------------------------------------------------------------------------

    def terminate(self, worker: Worker, wants_stack: bool) -> None:
        """Ask the worker's tree to stop, after its stacks were taken if they are wanted."""
        process: WorkerProcess | None = worker.process
        if process is None or process.is_closed:
            return
        if not wants_stack:
            self._signal_stop(worker)
            return

        def taken(stack: str | None, reason: str | None) -> None:
            process.stack = stack
            if process.no_stack_reason is None:
                process.no_stack_reason = reason
            self._signal_stop(worker)

        self._stacks.take(worker, time.monotonic(), taken)

    def _signal_stop(self, worker: Worker) -> None:
        process: WorkerProcess = worker.process
        if process.is_closed or process.is_dead:
            return
        self._page.write(worker, STOP, 1)  # before the signal: the child's handler then knows that it is ours
        process.list_descendants()
        process.signal_group(signal.SIGTERM)
        process.signal_group(signal.SIGCONT)  # a stopped process gets no SIGTERM before it continues
        self.dismiss(worker)

    def kill(self, worker: Worker) -> None:
        """End the worker's tree."""
        process: WorkerProcess | None = worker.process
        if process is None or process.is_closed:
            return
        if process.no_stack_reason is None and process.stack is None:
            process.no_stack_reason = _platform.why_not_running(worker.pid)  # before nothing moves any more
        process.kill_tree()

    def report_silence(self, command: c.Stalled | c.SlowStart) -> None:
        """Send the event of a stall, or log that a start takes long, with the stacks once they are taken."""
        if isinstance(command, c.SlowStart):
            self._stacks.take(command.worker, time.monotonic(), partial(self._log_slow_start, command))
        elif "on_task_stalled" in self._events.wanted:
            job = command.job
            self._events.stalled(job, command.silent_for_s)
            self._stacks.take(
                command.worker, time.monotonic(), lambda stack, reason: self._events.stall_explained(job, stack)
            )

    def _log_slow_start(self, command: c.SlowStart, stack: str | None, reason: str | None) -> None:
        what = "a worker process imports the main module, or runs the initializer,"
        if command.job is not None:
            what = f"task {command.job.recipe.name!r} has not begun: its worker loads the function and its imports,"
        text = "%s for %.0f s now; the manager's start_timeout is %g s%s"
        where = f"; it is here:\n{stack}" if stack else ""
        self._do_soon(logger.warning, text, what, command.lasts_s, command.limit_s, where)

    # -- starting ------------------------------------------------------------------------------------------

    def launch_failed(self, worker: Worker, error: Exception) -> None:
        """A worker's process could not be started."""
        kind = kind_of(error)
        if kind != FINAL and not worker.was_killed:  # else the manager closes, and needs none
            self._begin_shortage(error)
        self._scheduler.launch_failed(worker, time.monotonic(), kind, error)

    def _begin_shortage(self, error: Exception) -> None:
        """Report once that workers cannot be started, until one can."""
        if self._short_since_s is None:
            self._short_since_s = time.monotonic()
            self._do_soon(logger.warning, "a worker process could not be started (%s); trying again", error)
            # Without its frames, which hold the half-started process and its descriptors.
            self._events.manager("on_admission_held", reason="processes", error=error.with_traceback(None))

    def note_ready(self, worker: Worker) -> None:
        """A worker is ready for work."""
        if self._short_since_s is not None:
            held_for_s, self._short_since_s = time.monotonic() - self._short_since_s, None
            self._events.manager("on_admission_resumed", reason="processes", held_for=held_for_s)
        self._events.process("on_process_started", worker)


# Of requests whose beginning is not the same for each job.
_VARYING = wire.PARCEL | wire.HAS_SAVED | wire.HAS_OUTPUT


def call_frame(job: Job) -> bytes:
    """Return the request of a job, whole."""
    recipe = job.recipe
    flags = job.flags
    if flags == recipe.first_flags and job.attempt == 1:
        return wire.call_frame(job.sequence, recipe.first_call, job.payload)  # saves half of its 0.5 µs
    payload: bytes = job.payload.label if flags & wire.PARCEL else job.payload
    if recipe.is_loop:
        payload = wire.LOOP_HEAD.pack(recipe.interval_s, min(recipe.timeout_s, recipe.stalled_s) != NO_LIMIT) + payload
    if isinstance(job, KeyedJob) and not recipe.needs_judge:  # else only the policy knows what is a result
        key = job.facts.key.encode()
        flags |= wire.HAS_KEY
        payload = wire.KEY_HEAD.pack(len(key)) + key + payload
        if flags == recipe.first_flags and job.attempt == 1:
            return wire.call_frame(job.sequence, recipe.first_call, payload)
    if flags & wire.HAS_SAVED:
        assert job.history is not None
        assert job.history.checkpoint is not None
        payload = wire.SAVED_HEAD.pack(len(job.history.checkpoint)) + job.history.checkpoint + payload
    if recipe.output is not None:
        flags |= wire.HAS_OUTPUT
        payload += _output_of(job)
    rest = wire.call_rest(flags, job.attempt, recipe.blob)
    if job.attempt == 1 and recipe.reusable and not recipe.is_loop and not flags & _VARYING:
        recipe.first_flags, recipe.first_call = flags, rest
    return wire.call_frame(job.sequence, rest, payload, wire.LOOP if recipe.is_loop else wire.CALL)


def _output_of(job: Job) -> bytes:
    """Return the part of a job's request that says where its output goes."""
    plan: Plan = job.recipe.output
    if not plan.path:
        return plan.spec()
    path = plan.file_of(job.recipe.name, job.number, job.attempt)
    # A file of this task alone begins empty; one that an earlier attempt has begun is continued.
    began = job.handle._output
    return plan.spec(path, is_new="{id}" in plan.path and (began is None or began.path != path))
