"""What the observers that write log lines have in common: the texts, their levels, and the counts of the summary."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from procbackground._printable import printable
from procbackground.errors import repr_of
from procbackground.observers.base import Observer
from procbackground.observers.runs import number

if TYPE_CHECKING:
    from procbackground import events
    from procbackground.task import Task


class Source(NamedTuple):
    """Where a line comes from: the task's function, or the manager."""

    module: str
    function: str
    path: str
    line: int


MANAGER = Source("procbackground", "Manager", "", 0)


def source_of(task: Task[Any] | None) -> Source:
    """Return where the task's function is defined, as far as that is known."""
    if task is None:
        return MANAGER
    fn: Any = task.fn
    while hasattr(fn, "func"):  # a partial
        fn = fn.func
    fn = getattr(fn, "__wrapped__", getattr(fn, "__func__", fn))
    code = getattr(fn, "__code__", None)
    module = getattr(fn, "__module__", None) or MANAGER.module
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return Source(module, name, getattr(code, "co_filename", ""), getattr(code, "co_firstlineno", 0))


def _name(event: Any) -> str:
    return printable(event.task.name)


class LogLines(Observer):
    """Turns events into lines: failures are errors, retries and stalls warnings, all else is debug.

    At the end of the manager one line sums up what happened, with the counts of all that this observer has seen.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def _write(self, level: int, source: Source, text: str, facts: dict[str, Any], error: BaseException | None) -> None:
        """Write one line. `level` is one of `logging`'s; `facts` are structured fields."""
        raise NotImplementedError

    def _is_muted(self, level: int) -> bool:
        """Whether a line of that level would go nowhere."""
        return False

    def _task(self, level: int, event: Any, text: str, error: BaseException | None = None, **facts: Any) -> None:
        if not self._is_muted(level):
            task = event.task
            facts = {"task": task.name, "attempt": event.attempt, "meta": dict(task.meta), **facts}
            self._write(level, source_of(task), text, facts, error)

    def _other(self, level: int, text: str, **facts: Any) -> None:
        if not self._is_muted(level):
            self._write(level, MANAGER, text, facts, None)

    # -- tasks ---------------------------------------------------------------------------------------------

    def on_task_added(self, event: events.TaskAdded) -> None:
        self._task(logging.DEBUG, event, f"task {_name(event)} added")

    def on_task_started(self, event: events.TaskStarted) -> None:
        text = f"task {_name(event)} started in process {event.pid}, attempt {event.attempt}"
        self._task(logging.DEBUG, event, text, pid=event.pid)

    def on_task_progress(self, event: events.TaskProgress) -> None:
        of_total = "" if event.total is None else f"/{number(event.total)}"
        message = "" if event.message is None else f" {printable(event.message)}"
        self._task(logging.DEBUG, event, f"task {_name(event)}: {number(event.done)}{of_total}{message}")

    def on_task_stalled(self, event: events.TaskStalled) -> None:
        self._counts["stalled"] += 1
        where = "" if event.stack is None else f"; it is at:\n{event.stack.rstrip()}"
        text = f"task {_name(event)} has been silent for {event.silent_for:.1f} s{where}"
        self._task(logging.WARNING, event, text, stack=event.stack)

    def on_task_retrying(self, event: events.TaskRetrying) -> None:
        self._counts["retried"] += 1
        why = "its result was not accepted" if event.error is None else repr_of(event.error)
        text = f"task {_name(event)} failed in attempt {event.attempt} ({why}), again in {event.delay:.2f} s"
        self._task(logging.WARNING, event, text)

    def on_task_reassigned(self, event: events.TaskReassigned) -> None:
        text = f"task {_name(event)}, attempt {event.attempt}, began anew on {event.node}; lost: {event.lost_node}"
        self._task(logging.WARNING, event, text, pid=event.pid)

    def on_task_succeeded(self, event: events.TaskSucceeded) -> None:
        self._counts["succeeded"] += 1
        self._task(logging.DEBUG, event, f"task {_name(event)} succeeded")

    def on_task_failed(self, event: events.TaskFailed) -> None:
        self._counts["failed"] += 1
        text = f"task {_name(event)} failed after {event.attempt} attempt(s): {repr_of(event.error)}"
        self._task(logging.ERROR, event, text, event.error)

    def on_task_cancelled(self, event: events.TaskCancelled) -> None:
        self._counts["cancelled"] += 1
        self._task(logging.DEBUG, event, f"task {_name(event)} cancelled")

    # -- processes and the manager -------------------------------------------------------------------------

    def on_process_started(self, event: events.ProcessStarted) -> None:
        self._other(logging.DEBUG, f"process {event.pid} started", pid=event.pid)

    def on_process_exited(self, event: events.ProcessExited) -> None:
        text = f"process {event.pid} ended with exit code {event.exit_code}"
        self._other(logging.DEBUG, text, pid=event.pid)

    def on_admission_held(self, event: events.AdmissionHeld) -> None:
        if event.free is not None and event.min_free is not None:
            free_mib, min_free_mib = event.free / 2**20, event.min_free / 2**20
            why = f"{free_mib:.0f} MiB of memory are free, less than min_free_memory ({min_free_mib:.0f} MiB)"
        else:
            why = f"workers cannot be started: {event.error}"
        self._other(logging.WARNING, f"no further attempt begins for now: {why}", reason=event.reason)

    def on_admission_resumed(self, event: events.AdmissionResumed) -> None:
        self._other(logging.INFO, f"attempts begin again after {event.held_for:.1f} s", reason=event.reason)

    def on_manager_closed(self, event: events.ManagerClosed) -> None:
        report, counts = event.report, self._counts
        parts = [f"{counts[what]} {what}" for what in ("succeeded", "failed", "cancelled")]
        parts += [f"{counts[what]} {what}" for what in ("retried", "stalled") if counts[what]]
        parts += [f"{getattr(report, what)} {what}" for what in ("stopped", "killed") if getattr(report, what)]
        if report.leftovers or report.left:
            parts.append(f"left behind: {', '.join([*report.left, *(f'process {pid}' for pid in report.leftovers)])}")
        level = logging.INFO if report.is_clean and not counts["failed"] else logging.WARNING
        text = f"manager closed in {report.seconds:.2f} s: {', '.join(parts)}"
        self._other(level, text, report=report, counts=dict(counts))
