"""The calls that run tasks: what managers and their views have in common.

First stop of a task, in the caller's thread, with the rest of `_submit`. The pickling is done here, too: it is the
caller's time, and a snapshot of the arguments.
"""

from __future__ import annotations

from procbackground._load import load
from procbackground._submit.bulk import BulkCalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar, Unpack

    from procbackground._submit.recipes import Submitter
    from procbackground._supervisor.supervisor import Supervisor
    from procbackground.handle import TaskHandle
    from procbackground.task import Task, TaskFields

    P = ParamSpec("P")
    R = TypeVar("R")


class TaskCalls(BulkCalls):
    """The calls that a manager and its `options(...)` views have in common: those that run tasks."""

    _supervisor: Supervisor

    def __init__(self, supervisor: Any, submitter: Any, max_workers: int) -> None:
        self._supervisor = supervisor
        self._submitter: Submitter = submitter
        self._call = load("procbackground._submit.shortcut").make_call(submitter)
        self._max_workers = max_workers

    # -- giving work ---------------------------------------------------------------------------------------

    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """Run `fn(*args, **kwargs)` once in a child process and return its handle. Safe from any thread.

        Blocks while the queue is full (`max_pending`, `max_pending_bytes`), or raises `QueueFullError`: see `Manager`.
        Raises (now): `TypeError` for what is not callable, or is an `async def` function; `ManagerClosedError`;
        `QueueFullError`; `WorkerStartError` or `InitializerError` once no worker of this manager can be started.
        Fails with (later): what the function raised, with the child's traceback as its cause; `SerializationError`,
        naming what could not cross; `TaskTimeoutError`; `MemoryLimitError`; `WorkerDiedError`; `WorkerStartError` or
        `InitializerError`; with an engine, `NodeLostError` or `EngineLostError`.
        """
        return self._call(fn, args, kwargs)  # type: ignore[no-any-return]

    if TYPE_CHECKING:

        def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
            """`run`, under the name that `concurrent.futures.Executor` has for it."""
            ...
    else:
        submit = run  # itself: passing the arguments on would cost a tenth of what it does

    def run_task(self, task: Task[R]) -> TaskHandle[R]:
        """Run `task` under its own limits, or in iterations if it is a loop; return its handle. Safe from any thread.

        Blocks while the queue is full, as `run`. A loop given to a manager whose loops were cancelled is cancelled at
        once.
        Raises (now): as `run`; `UnknownTaskTypeError`; `ValueError` for needs (`cores`, `memory`, `slots`) that can
        never be met, naming them and what there is.
        Fails with (later): as `run`. A loop's handle is done only when the loop is cancelled, or cannot start.
        """
        return self._submitter.submit_new_task(task)

    def options(self, **task_fields: Unpack[TaskFields]) -> Options:
        """Return a view on this manager whose calls run under the given fields of `Task`.

        `manager.options(timeout=5, retry=3).map(parse, paths)`. A `Task` that is given to a view (`run_task`, `stream`)
        has those of the fields that it leaves at their defaults; its handle has it with them.
        Raises: as `Task` for fields that it has not, or that are out of range; `ValueError` for needs that can never be
        met.
        """
        load("procbackground._submit.checks").check_options(task_fields)
        fields: dict[str, Any] = {**self._submitter.fields, **task_fields}
        submitter = self._submitter.with_fields(fields)
        submitter.check_fields()
        view = Options(self._supervisor, submitter, self._max_workers)
        view._origin = self
        return view

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """`concurrent.futures.Executor.shutdown`: `close()` without a timeout, or without waiting for it.

        On a view it shuts down the manager that it is a view on.
        """
        self._supervisor.check_usable()
        self._supervisor.ask_to_close(None)
        if cancel_futures:
            self._supervisor.cancel_queued()
        if wait:
            self._supervisor.close(None)


class Options(TaskCalls):
    """A view on a manager whose calls run under other limits; see `Manager.options`. An Executor, too."""

    _origin: TaskCalls | None = None  # kept from being dropped, which would close the manager
