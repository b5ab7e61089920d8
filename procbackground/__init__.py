"""A process manager that never loses a task: limits, retries and reports for CPU-heavy Python functions.

    from procbackground import Manager

    def square(number):
        return number * number

    if __name__ == "__main__":  # the workers import this file too
        with Manager(max_workers=2, retry=3, timeout=60) as manager:
            print([handle.result() for handle in [manager.run(square, number) for number in range(6)]])

Giving work:

    manager.run(fn, *args)              run it once in a child process; returns a `TaskHandle`, which is a Future
    manager.run_task(Task(fn, ...))     the same under limits of its own, or as a loop
    manager.map(fn, *iterables)         results in order, in chunks that size themselves
    manager.stream(tasks)               ten million tasks in flat memory, each handle as it ends
    manager.share(value)                large data once per machine; give it to tasks in place of the value
    manager.options(timeout=5)          a view on the manager whose calls run under these limits

Following it:

    handle.result(), await handle       what the function returned, or raises what it raised
    handle.cancel()                     ends the task, also while it runs
    handle.attempts, .progress, .output, .stack()
    manager.stats(), .processes(), .report(), .dump()
    Manager(observer="logging", progress=True)

Ending:

    manager.wait()                      until no one-off is left
    manager.close(timeout)              nothing is left behind; leaving the `with` block does it
    manager.closing_on(signal.SIGTERM)  closes when a signal comes

Inside a task: `current()` gives `progress(done, total)`, `save(state)`, `saved`, `stopping` and more.

A task that fails gives its caller the original exception, or one of the errors below; it never touches another task.
`help(Manager)`, `help(Task)` and `help(TaskHandle)` go on from here. `GUIDE.md`, beside this file, is the long guide;
`ARCHITECTURE.md` is about the code.
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

    from procbackground.errors import (
        EngineLostError,
        InitializerError,
        NodeLostError,
        WorkerDiedError,
        WorkerStartError,
    )
    from procbackground.handle import TaskHandle
    from procbackground.manager import Manager
    from procbackground.observers import CallbackObserver, LoguruObserver, Observer
    from procbackground.report import Attempt, CloseReport, Outcome, ProcessInfo, Progress, Stats
    from procbackground.retry import Retry
    from procbackground.shared import Shared
    from procbackground.task import Task, TaskType

__all__ = [
    "Attempt",
    "CallbackObserver",
    "CloseReport",
    "Context",
    "EngineLostError",
    "InitializerError",
    "JournalError",
    "LoguruObserver",
    "Manager",
    "ManagerClosedError",
    "MemoryLimitError",
    "NodeLostError",
    "Observer",
    "Outcome",
    "ProcbackgroundError",
    "ProcessInfo",
    "Progress",
    "QueueFullError",
    "RemoteTraceback",
    "Retry",
    "SerializationError",
    "Shared",
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
    "EngineLostError": "errors",
    "InitializerError": "errors",
    "LoguruObserver": "observers",
    "Manager": "manager",
    "NodeLostError": "errors",
    "Observer": "observers",
    "Outcome": "report",
    "ProcessInfo": "report",
    "Progress": "report",
    "Retry": "retry",
    "Shared": "shared",
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
    from procbackground._load import load

    value = getattr(load(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
