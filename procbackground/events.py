"""The events that observers get: one frozen class for each `on_...` method of an observer.

`time` is `time.time()`. `attempt` counts from 1. `task`, `handle` and `attempt` are None in events of a process
outside any task, and in those of the manager: `AdmissionHeld`, `AdmissionResumed`, `ManagerClosed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from procbackground.report import CloseReport, ProcessInfo
from procbackground.task import Task

if TYPE_CHECKING:
    from procbackground.handle import TaskHandle


__all__ = [
    "AdmissionHeld",
    "AdmissionResumed",
    "Event",
    "ManagerClosed",
    "ProcessExited",
    "ProcessSampled",
    "ProcessStarted",
    "TaskAdded",
    "TaskCancelled",
    "TaskFailed",
    "TaskOutput",
    "TaskProgress",
    "TaskReassigned",
    "TaskRetrying",
    "TaskStalled",
    "TaskStarted",
    "TaskSucceeded",
]


@dataclass(frozen=True, slots=True)
class _TaskEvent:
    """Every event of a task has these: `task`, `handle`, the number of the `attempt`, and `time` (`time.time()`)."""

    task: Task[Any]
    handle: TaskHandle[Any]
    attempt: int
    time: float


@dataclass(frozen=True, slots=True)
class TaskAdded(_TaskEvent):
    """The manager accepted the task."""


@dataclass(frozen=True, slots=True)
class TaskStarted(_TaskEvent):
    """An attempt (for a loop: a process of it) began in the process `pid`. Sent once for each attempt."""

    pid: int


@dataclass(frozen=True, slots=True)
class TaskProgress(_TaskEvent):
    """The task called `current().progress(done, total, message)`.

    `done`, `total` and `message` are as it gave them.
    """

    done: float
    total: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class TaskOutput(_TaskEvent):
    """The attempt wrote a line to its standard output or standard error, where the task's `output` is no file.

    `line` is without its end. `stream` is "stdout" or "stderr"; None with `output="capture"`, where both are one.
    """

    line: str
    stream: str | None


@dataclass(frozen=True, slots=True)
class TaskStalled(_TaskEvent):
    """The attempt has been silent for `silent_for` seconds, its `stalled_threshold`; it runs on.

    `stack` is the Python stack of the child as text, or None where it could not be taken.
    """

    silent_for: float
    stack: str | None


@dataclass(frozen=True, slots=True)
class TaskRetrying(_TaskEvent):
    """The attempt failed with `error`, and the next one starts in `delay` seconds.

    `error` is None for a result that the policy did not accept.
    """

    error: BaseException | None
    delay: float


@dataclass(frozen=True, slots=True)
class TaskReassigned(_TaskEvent):
    """With an engine: `lost_node`, which ran the attempt, was lost, and `node` has begun it anew in its process `pid`.

    So what the attempt does has happened in part before, or whole if only its report was lost. Not sent where the loss
    came before the first node could report that it had begun, in the first milliseconds of the attempt.
    """

    pid: int
    node: str
    lost_node: str


@dataclass(frozen=True, slots=True)
class TaskSucceeded(_TaskEvent):
    """The task returned `result`."""

    result: Any


@dataclass(frozen=True, slots=True)
class TaskFailed(_TaskEvent):
    """The task (for a loop: an iteration) failed with `error` and is not tried again."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class TaskCancelled(_TaskEvent):
    """The task was cancelled, or the loop ended as asked."""


@dataclass(frozen=True, slots=True)
class _ProcessEvent:
    """Every event of a process has its `pid`; `task`, `handle` and `attempt`, None outside any task; and `time`."""

    task: Task[Any] | None
    handle: TaskHandle[Any] | None
    attempt: int | None
    time: float
    pid: int


@dataclass(frozen=True, slots=True)
class ProcessStarted(_ProcessEvent):
    """A worker process is ready for work."""


@dataclass(frozen=True, slots=True)
class ProcessSampled(_ProcessEvent):
    """Memory and CPU of a worker's process tree: `sample`."""

    sample: ProcessInfo


@dataclass(frozen=True, slots=True)
class ProcessExited(_ProcessEvent):
    """A worker process ended; `exit_code` as `Process.exitcode`, None where unknown."""

    exit_code: int | None


@dataclass(frozen=True, slots=True)
class _ManagerEvent:
    """Every event of the manager has its `time`; `task`, `handle` and `attempt` are None."""

    task: None
    handle: None
    attempt: None
    time: float


@dataclass(frozen=True, slots=True)
class AdmissionHeld(_ManagerEvent):
    """No further attempt begins for now, because the machine is short of something; running attempts continue.

    `reason` is "memory": `free` bytes are free, fewer than `min_free`, the manager's `min_free_memory`. Or
    it is "processes": starting a worker failed with `error` (no process, descriptor, memory or disk is left), and is
    tried again repeatedly; the existing workers continue to take tasks.
    """

    reason: str
    free: int | None = None
    min_free: int | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class AdmissionResumed(_ManagerEvent):
    """Attempts begin again after `held_for` seconds; `reason` and `free` as in `AdmissionHeld`."""

    reason: str
    held_for: float
    free: int | None = None


@dataclass(frozen=True, slots=True)
class ManagerClosed(_ManagerEvent):
    """The manager closed; the last event of all. `report` is what `close` returns."""

    report: CloseReport


Event: TypeAlias = (
    TaskAdded
    | TaskStarted
    | TaskProgress
    | TaskOutput
    | TaskStalled
    | TaskRetrying
    | TaskReassigned
    | TaskSucceeded
    | TaskFailed
    | TaskCancelled
    | ProcessStarted
    | ProcessSampled
    | ProcessExited
    | AdmissionHeld
    | AdmissionResumed
    | ManagerClosed
)

BY_METHOD: dict[str, type[Event]] = {
    "on_task_added": TaskAdded,
    "on_task_started": TaskStarted,
    "on_task_progress": TaskProgress,
    "on_task_output": TaskOutput,
    "on_task_stalled": TaskStalled,
    "on_task_retrying": TaskRetrying,
    "on_task_reassigned": TaskReassigned,
    "on_task_succeeded": TaskSucceeded,
    "on_task_failed": TaskFailed,
    "on_task_cancelled": TaskCancelled,
    "on_process_started": ProcessStarted,
    "on_process_sampled": ProcessSampled,
    "on_process_exited": ProcessExited,
    "on_admission_held": AdmissionHeld,
    "on_admission_resumed": AdmissionResumed,
    "on_manager_closed": ManagerClosed,
}
