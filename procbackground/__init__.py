"""A process manager that never loses a task: limits, retries and reports for CPU-heavy Python functions.

    with Manager(retry=3, timeout=60) as manager:
        handle = manager.run(crunch, "part-0001.parquet")
        print(handle.result())

A task's way out and back, by module:

    ① manager                 checks the call, in the caller's thread
    ② _submit.recipes         makes a job and its handle
       _wire.pickling          pickles the function and the arguments
    ③ _supervisor.supervisor  posts the job and wakes the supervisor thread; the call returns
       _supervisor.inbox       holds the job until the supervisor thread takes it
       _supervisor.loop        is the supervisor thread: waits for requests, pipes, ends of processes and deadlines
       _supervisor.intake      takes the job from the inbox
    ④ _state.scheduler        decides which worker gets it, and when
    ⑤ _supervisor.workers     carries that out
       _supervisor.channel     writes the request to the worker's pipe, and reads answers from it
       _wire.frames            encodes requests and answers
    ⑥ _worker.main            reads the request, in the child
       _worker.execute         calls the function and sends the answer
    ⑦ _supervisor.answers     takes the answer and reports it to the scheduler
       _supervisor.settle      settles the handle and counts the task
    ⑧ handle                  is the caller's end: returns the result

The root and the packages. Each package lists its modules in its own docstring:

    root          task, retry, events, errors, report, context, logs: what users import; joblib: the backend for joblib;
                  cli, __main__: the command, and `task` for files that it runs;
                  _compat: private attributes of ProcessPoolExecutor; _sync, _load, _broken: what all others may
                  import; _figures: what a run is counted in;
                  _testing: what tests see of a manager's inside
    observers     Observer and the ready-made observers
    _cli          the command `procbackground`
    _submit       the caller's side: from a call to a job; map and stream
    _supervisor   the parent's side: the supervisor thread, which owns the scheduler and every worker's pipes
    _journal      the record of keyed tasks, a SQLite file
    _state        decisions only: no thread, clock, pipe or log
    _wire         what crosses between parent and child
    _worker       the child's side
    _platform     what the operating system provides
    _status       the socket by which others watch a manager
    _report       what the figures of a run are told by: text, and a page with plots
"""

from __future__ import annotations

# The child imports this package too, and needs little of it: names that lead to the parent's side load on first use.
from procbackground.context import Context, current
from procbackground.errors import (
    JournalError,
    ManagerClosedError,
    MemoryLimitError,
    ProcbackgroundError,
    QueueFullError,
    RemoteTraceback,
    SerializationError,
    TaskTimeoutError,
    UnknownTaskTypeError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from procbackground.errors import InitializerError, WorkerDiedError, WorkerStartError
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
    "JournalError",
    "LoguruObserver",
    "Manager",
    "ManagerClosedError",
    "MemoryLimitError",
    "Observer",
    "Outcome",
    "ProcbackgroundError",
    "ProcessInfo",
    "Progress",
    "QueueFullError",
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
    "WorkerStartError",
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
    "WorkerStartError": "errors",
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
