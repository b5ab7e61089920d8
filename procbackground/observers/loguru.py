"""Writes events to loguru, with their facts as structured fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procbackground._load import load
from procbackground.observers.base import Observer

if TYPE_CHECKING:
    from procbackground import events


class LoguruObserver(Observer):
    """Logs through loguru: failures as errors, retries and stalls as warnings, the rest as info or debug.

    Each record carries `task` (the name), `attempt`, `pid` where there is one, and the task's `meta`, in its
    `extra`. The child's traceback goes with a failure.

    Args:
        logger: a loguru logger, bound or patched as you like; `loguru.logger` by default.
    """

    def __init__(self, logger: Any = None) -> None:
        if logger is None:
            logger = load("loguru").logger  # on first use: loguru takes 50 ms to import
        # These records come from the manager, not from a line of this file.
        self._logger = logger.patch(lambda record: record.update(name="procbackground", function="", line=0))

    def _bound(self, event: Any, **facts: Any) -> Any:
        if event.task is not None:
            facts = {"task": event.task.name, "attempt": event.attempt, "meta": dict(event.task.meta), **facts}
        return self._logger.bind(**facts)

    def on_task_added(self, event: events.TaskAdded) -> None:
        self._bound(event).debug("task {} added", event.task.name)

    def on_task_started(self, event: events.TaskStarted) -> None:
        self._bound(event, pid=event.pid).debug(
            "task {} started in process {}, attempt {}", event.task.name, event.pid, event.attempt
        )

    def on_task_progress(self, event: events.TaskProgress) -> None:
        of_total = "" if event.total is None else f"/{event.total:g}"
        self._bound(event).debug(
            "task {}: {:g}{} {}", event.task.name, event.done, of_total, event.message or ""
        )

    def on_task_stalled(self, event: events.TaskStalled) -> None:
        self._bound(event, stack=event.stack).warning(
            "task {} has been silent for {:.1f} s", event.task.name, event.silent_for
        )

    def on_task_retrying(self, event: events.TaskRetrying) -> None:
        self._bound(event).warning(
            "task {} failed in attempt {} ({!r}), again in {:.2f} s",
            event.task.name, event.attempt, event.error, event.delay,
        )  # fmt: skip

    def on_task_succeeded(self, event: events.TaskSucceeded) -> None:
        self._bound(event).info("task {} succeeded", event.task.name)

    def on_task_failed(self, event: events.TaskFailed) -> None:
        self._bound(event).opt(exception=event.error).error(
            "task {} failed after {} attempt(s): {!r}", event.task.name, event.attempt, event.error
        )

    def on_task_cancelled(self, event: events.TaskCancelled) -> None:
        self._bound(event).info("task {} cancelled", event.task.name)

    def on_process_started(self, event: events.ProcessStarted) -> None:
        self._bound(event, pid=event.pid).debug("process {} started", event.pid)

    def on_process_exited(self, event: events.ProcessExited) -> None:
        self._bound(event, pid=event.pid).debug(
            "process {} ended with exit code {}", event.pid, event.exit_code
        )

    def on_admission_held(self, event: events.AdmissionHeld) -> None:
        if event.free is not None and event.min_free is not None:
            free_mib, min_free_mib = event.free / 2**20, event.min_free / 2**20
            why = f"{free_mib:.0f} MiB of memory are free, less than min_free_memory ({min_free_mib:.0f} MiB)"
        else:
            why = f"workers cannot be started: {event.error}"
        self._bound(event, reason=event.reason).warning("no further attempt begins for now: {}", why)

    def on_admission_resumed(self, event: events.AdmissionResumed) -> None:
        self._bound(event, reason=event.reason).info("attempts begin again after {:.1f} s", event.held_for)

    def on_manager_closed(self, event: events.ManagerClosed) -> None:
        report = event.report
        log = self._bound(event, report=report)
        (log.info if report.is_clean else log.warning)(
            "manager closed in {:.2f} s: {} finished, {} cancelled, {} stopped, {} killed",
            report.seconds, report.finished, report.cancelled, report.stopped, report.killed,
        )  # fmt: skip
