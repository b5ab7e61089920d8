"""A process manager that never loses a task: limits, retries and reports for CPU-heavy Python functions.

    with Manager(retry=3, timeout=60) as manager:
        handle = manager.run(crunch, "part-0001.parquet")
        print(handle.result())

A task's way out and back, by module:

    ① manager               checks and pickles it, makes its handle, writes it to an idle worker or queues it
    ② _wire                 frames, and what is inside them
    ③ _supervisor.loop      the thread that waits for pipes, ends of processes, wake-ups and deadlines
    ④ _state.scheduler      what happened, and when → what to do
    ⑤ _wire                 the answer's frame
    ⑥ _worker               the child: calls the function, turns whatever happens into an answer
    ⑦ _supervisor.delivery  settles the handle and tells observers
    ⑧ handle                the caller goes on
"""

from __future__ import annotations

# The child imports this package too, and needs little of it: names that lead to the parent's side load on first use.
from procbackground.context import Context, current
from procbackground.errors import (
    ManagerClosedError,
    MemoryLimitError,
    ProcbackgroundError,
    RemoteTraceback,
    SerializationError,
    TaskTimeoutError,
    UnknownTaskTypeError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from procbackground.errors import InitializerError, WorkerDiedError
    from procbackground.handle import TaskHandle
    from procbackground.manager import Manager
    from procbackground.observers import CallbackObserver, LoguruObserver, Observer
    from procbackground.report import Attempt, CloseReport, Outcome, ProcessInfo, Progress, Stats
    from procbackground.retry import Retry
    from procbackground.task import Task, TaskType

__all__ = [
    "Attempt",
    "CallbackObserver",
    "CloseReport",
    "Context",
    "InitializerError",
    "LoguruObserver",
    "Manager",
    "ManagerClosedError",
    "MemoryLimitError",
    "Observer",
    "Outcome",
    "ProcbackgroundError",
    "ProcessInfo",
    "Progress",
    "RemoteTraceback",
    "Retry",
    "SerializationError",
    "Stats",
    "Task",
    "TaskHandle",
    "TaskTimeoutError",
    "TaskType",
    "UnknownTaskTypeError",
    "WorkerDiedError",
    "current",
]

__version__ = "0.1.0"

_HOMES = {
    "Attempt": "report",
    "CallbackObserver": "observers",
    "CloseReport": "report",
    "InitializerError": "errors",
    "LoguruObserver": "observers",
    "Manager": "manager",
    "Observer": "observers",
    "Outcome": "report",
    "ProcessInfo": "report",
    "Progress": "report",
    "Retry": "retry",
    "Stats": "report",
    "Task": "task",
    "TaskHandle": "handle",
    "TaskType": "task",
    "WorkerDiedError": "errors",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
