"""Makes events and passes them to the observers, one at a time and in order, in a thread of its own.

Only events that some observer wants are made. The supervisor thread puts them in a queue without a bound: an observer
that is slower than the tasks makes the queue grow, and delays no task; `close` waits for it to be emptied.
"""

from __future__ import annotations

import queue
import threading
import time
from _thread import get_ident
from collections.abc import Callable, Iterable
from typing import Any

from procbackground._log import logger
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._sync import Latch
from procbackground._wire.page import NO_ROW
from procbackground.handle import TaskHandle
from procbackground.observers.base import events_wanted_by

OF_RUNNING_ROWS = frozenset({"on_task_progress", "on_task_stalled"})  # that a chunk's job has for the row that runs


class Events:
    """The events of one manager. All but `put` is called by the supervisor only."""

    def __init__(self, observers: Iterable[Any], name: str) -> None:
        self._observers = [(observer, events_wanted_by(observer)) for observer in observers]
        self.wanted: frozenset[str] = frozenset().union(*(wanted for _, wanted in self._observers))
        self.has_started: bool = "on_task_started" in self.wanted
        self.has_succeeded: bool = "on_task_succeeded" in self.wanted
        self.has_failed: bool = "on_task_failed" in self.wanted
        self.note_started: Callable[[Job, Worker], None] | None = None  # the journal's, who needs it as observers do
        self._queue: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ident: int | None = None  # of the thread that calls the observers
        self._has_ended: Latch = Latch()
        self._name = name
        self._stalls: dict[Job, dict[str, Any]] = {}  # whose stacks are being taken

    # -- events of tasks -----------------------------------------------------------------------------------

    def task(self, name: str, job: Job, attempt: int | None = None, **facts: Any) -> None:
        """Make an event of a task, if an observer wants it."""
        if self._stalls and job in self._stalls:
            self.stall_explained(job, None)  # events of one task stay in order
        if name in self.wanted:
            handle = job.handle
            if job.recipe.is_chunk:
                if name not in OF_RUNNING_ROWS or handle._row_handles is None:
                    return  # its map sends the events of its rows
                handle = handle._shown()
            elif name == "on_task_added" and handle._is_announced:
                return
            number = job.attempt if attempt is None else attempt
            make = _event_class(name)
            self.put(name, make(task=handle.task, handle=handle, attempt=number, time=time.time(), **facts))

    def of_row(self, name: str, handle: TaskHandle[Any], when: float | None = None, **facts: Any) -> None:
        """Make an event of a row of a map that is in a chunk. In any thread."""
        if name in self.wanted:
            make = _event_class(name)
            when = time.time() if when is None else when
            self.put(name, make(task=handle.task, handle=handle, attempt=1, time=when, **facts))

    def rows_started(self, chunk: TaskHandle[Any], row: int, worker: Worker) -> None:
        """The worker has come to this row of the chunk, and so to those before it."""
        handles = chunk._row_handles
        if handles is None or not self.has_started or row == NO_ROW:
            return
        begun: int = chunk.rows_begun  # type: ignore[attr-defined]  # of a `Chunk`
        for handle in handles[begun : row + 1]:
            chunk.rows_begun += 1  # type: ignore[attr-defined]
            if not handle._is_begun:  # else it was in a chunk before, whose process died
                handle._is_begun = True
                self.of_row("on_task_started", handle, pid=worker.pid)

    def started(self, job: Job, worker: Worker) -> None:
        """The worker has come to this job, unless that is known, or the job was cancelled meanwhile."""
        if job.recipe.is_chunk:
            self.rows_started(job.handle, 0, worker)
            return
        if job.worker is not worker or job.sequence <= worker.last_started_event_sequence:
            return
        worker.last_started_event_sequence = job.sequence
        is_known = job.handle._is_begun and job.attempt == 1
        if not is_known and (job.history is None or job.history.unbegun_attempt != job.attempt):
            if self.note_started is not None:
                self.note_started(job, worker)
            self.task("on_task_started", job, pid=worker.pid)

    def answered(self, jobs: list[Job], worker: Worker) -> None:
        """Send the start events of jobs that the worker has answered, unless they were sent before."""
        if "on_task_started" in self.wanted:
            for job in jobs:
                self.started(job, worker)
        else:  # the journal's record of the end has all that the one of the start would have
            worker.last_started_event_sequence = max(worker.last_started_event_sequence, jobs[-1].sequence)

    def loop_started(self, loop: Job, worker: Worker) -> None:
        """The loop has a process; one that died before it began counts as the same start."""
        history = loop.with_history()
        if history.unbegun_attempt != loop.attempt:
            self.task("on_task_started", loop, pid=worker.pid)
        worker.last_started_event_sequence = loop.sequence
        history.unbegun_attempt = 0  # a later process of the same attempt is one more start

    def head_started(self, worker: Worker) -> None:
        """A request that was sent ahead begins when it is its turn."""
        if self.has_started and worker.pipeline.jobs:
            self.started(worker.pipeline.jobs[0], worker)

    def head_did_not_begin(self, worker: Worker, sequence: int) -> None:
        """The worker has not begun request `sequence`: if its event was sent already, it is not sent again."""
        jobs = worker.pipeline.jobs
        if self.has_started and jobs and jobs[0].sequence == sequence <= worker.last_started_event_sequence:
            jobs[0].with_history().unbegun_attempt = jobs[0].attempt

    def stalled(self, job: Job, silent_for_s: float) -> None:
        """The attempt is silent; the event follows with its stack, or before the next event of the task."""
        self._stalls[job] = {"silent_for": silent_for_s, "attempt": job.attempt}

    def stall_explained(self, job: Job, stack: str | None) -> None:
        """Send the event of a stall, unless it is sent."""
        facts = self._stalls.pop(job, None)
        if facts is not None:
            self.task("on_task_stalled", job, stack=stack, **facts)

    # -- other events --------------------------------------------------------------------------------------

    def process(self, name: str, worker: Worker, **facts: Any) -> None:
        """Make an event of a process, if an observer wants it."""
        if name in self.wanted:
            make = _event_class(name)
            self.put(name, make(task=None, handle=None, attempt=None, time=time.time(), pid=worker.pid, **facts))

    def manager(self, name: str, **facts: Any) -> None:
        """Make an event of the manager, if an observer wants it."""
        if name in self.wanted:
            self.put(name, _event_class(name)(task=None, handle=None, attempt=None, time=time.time(), **facts))

    def sampled(self, info: Any, job: Job | None) -> None:
        """Make an event of a sample."""
        handle = None if job is None else job.handle._shown()
        task = info.task if handle is None else handle.task
        make = _event_class("on_process_sampled")
        facts = {"task": task, "handle": handle, "attempt": info.attempt, "pid": info.pid, "sample": info}
        self.put("on_process_sampled", make(time=time.time(), **facts))

    # -- passing them on -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, if an observer wants anything. Raises: `RuntimeError` when the system has none to give."""
        if self.wanted and self._thread is None:
            from procbackground import events  # noqa: F401  # now: later there may be no descriptor left to load it

            thread = threading.Thread(target=self._run, name=f"{self._name}-observers", daemon=True)
            thread.start()
            self._thread = thread

    def put(self, name: str, event: Any) -> None:
        """Have the observers' method `name` called with `event`."""
        self._queue.put((name, event))

    def owns(self, thread: threading.Thread) -> bool:
        return thread.ident == self._ident

    def stop(self, timeout_s: float, is_hurried: Callable[[], bool] = lambda: True) -> bool:
        """Wait until all events are delivered; return False when an observer blocks for `timeout_s`.

        Of observers that are only slow, the rest is waited for, unless the close `is_hurried`.
        """
        if self._thread is None and self._queue.empty():
            return True
        self._queue.put(None)
        try:
            self.start()  # for a manager that was never used
        except RuntimeError:
            self._run()  # no thread can be started, for example while the interpreter exits
            return True
        # Not by `join`: a thread that is none of `threading`'s would be added to its list for good.
        before = self._queue.qsize()
        while not self._has_ended.wait(timeout_s):
            left = self._queue.qsize()
            if left >= before or is_hurried():
                return False
            before = left
        return True

    def _run(self) -> None:
        self._ident = get_ident()  # before any observer is called, which may close the manager
        while (item := self._queue.get()) is not None:
            name, event = item
            for observer, wanted in self._observers:
                if name not in wanted:
                    continue
                try:
                    getattr(observer, name)(event)
                except BaseException:  # the other observers must get their events
                    logger.exception("observer %r failed in %s", observer, name)
            del item, event
        self._has_ended.set()


def _event_class(name: str) -> Any:
    """Return the class of the events that an observer's method `name` gets.

    Loaded on first use: making these classes takes 6 ms, which a manager without observers need not spend.
    """
    from procbackground import events

    return events.BY_METHOD[name]
