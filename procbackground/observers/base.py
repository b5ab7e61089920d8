"""The base of observers, and which events an observer wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from procbackground import events


class Observer:
    """Receives events, by one method for each kind. Override the methods you want; the others cost nothing.

    The methods are called one at a time, in one thread of the manager; events of one task arrive in order. An exception
    in a method is logged and has no other effect. The queue of events has no bound: if the methods are slower than the
    tasks, no task waits, but the queue grows.
    """

    def on_task_added(self, event: events.TaskAdded) -> None:
        """The manager accepted a task."""

    def on_task_started(self, event: events.TaskStarted) -> None:
        """An attempt began in a process."""

    def on_task_progress(self, event: events.TaskProgress) -> None:
        """A running task reported its progress."""

    def on_task_output(self, event: events.TaskOutput) -> None:
        """A task wrote a line, and its `output` is "capture", "relay" or "tagged"."""

    def on_task_stalled(self, event: events.TaskStalled) -> None:
        """An attempt gave no sign of life for its `stalled_threshold`; it runs on. Sent once for each attempt."""

    def on_task_retrying(self, event: events.TaskRetrying) -> None:
        """An attempt failed and there will be another."""

    def on_task_reassigned(self, event: events.TaskReassigned) -> None:
        """With an engine: the node of an attempt was lost, and another has begun it anew."""

    def on_task_succeeded(self, event: events.TaskSucceeded) -> None:
        """A one-off returned. Not sent for loops."""

    def on_task_failed(self, event: events.TaskFailed) -> None:
        """A one-off, or an iteration of a loop, failed for good."""

    def on_task_cancelled(self, event: events.TaskCancelled) -> None:
        """A task was cancelled, or a loop ended on request."""

    def on_process_started(self, event: events.ProcessStarted) -> None:
        """A worker process is ready."""

    def on_process_sampled(self, event: events.ProcessSampled) -> None:
        """Memory and CPU of a worker's process tree."""

    def on_process_exited(self, event: events.ProcessExited) -> None:
        """A worker process ended."""

    def on_admission_held(self, event: events.AdmissionHeld) -> None:
        """No further attempt begins for now: memory, processes or descriptors are short."""

    def on_admission_resumed(self, event: events.AdmissionResumed) -> None:
        """Attempts begin again."""

    def on_manager_closed(self, event: events.ManagerClosed) -> None:
        """The manager closed: the last event."""


EVENT_NAMES = tuple(name for name in vars(Observer) if name.startswith("on_"))


def events_wanted_by(observer: object) -> frozenset[str]:
    """Return the names of the `on_...` methods that `observer` has of its own.

    Only those events are made. Any object with such methods will do; deriving from `Observer` is not required.
    """
    wanted = set()
    for name in EVENT_NAMES:
        method = getattr(observer, name, None)
        if callable(method) and getattr(method, "__func__", method) is not getattr(Observer, name):
            wanted.add(name)
    return frozenset(wanted)
