"""The calls that run tasks: what managers and their views have in common.

First stop of a task, in the caller's thread, with the rest of `_submit`. The pickling is done here, too: it is the
caller's time, and a snapshot of the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from procbackground._state.job import Job, Recipe
from procbackground._submit.bulk import BulkCalls
from procbackground._submit.recipes import HASHED_BY_IDENTITY, Submitter
from procbackground._wire import frames as wire
from procbackground._wire.parcel import Parcel
from procbackground._wire.pickling import dump_arguments
from procbackground.errors import SerializationError
from procbackground.handle import TaskHandle
from procbackground.task import Task, TaskFields

if TYPE_CHECKING:
    from procbackground._supervisor.supervisor import Supervisor

P = ParamSpec("P")
R = TypeVar("R")


class TaskCalls(BulkCalls):
    """The calls that a manager and its `options(...)` views have in common: those that run tasks."""

    _supervisor: Supervisor

    def __init__(self, supervisor: Any, submitter: Any, max_workers: int) -> None:
        self._supervisor = supervisor
        self._submitter: Submitter = submitter
        self._recipes: dict[Any, Recipe] = self._submitter.call_recipes
        self._max_workers = max_workers

    # -- giving work ---------------------------------------------------------------------------------------

    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """Run `fn(*args, **kwargs)` once in a child process and return its handle. Safe from any thread.

        Blocks while the queue is full (`max_pending`, `max_pending_bytes`), or raises `QueueFullError`: see `Manager`.
        Raises (now): `ManagerClosedError`, `InitializerError`, `QueueFullError`.
        Fails with (later): what the function raised, with the child's traceback as its cause; `SerializationError`,
        naming what could not cross; `TaskTimeoutError`; `MemoryLimitError`; `WorkerDiedError`.
        """
        # A shortcut for a plain function that was called before: it does what `Submitter.submit_call` does, for a tenth
        # less (2.1 against 2.4 µs).
        recipe = self._recipes.get(fn) if type(fn) in HASHED_BY_IDENTITY else None
        if recipe is None:
            return self._submitter.submit_call(fn, args, kwargs)
        handle: TaskHandle[R] = TaskHandle(self._supervisor, recipe.make_task, args, kwargs or None)
        try:
            payload = dump_arguments(args, kwargs) if args or kwargs else b""
        except SerializationError as error:
            self._submitter.reject(handle, recipe, error)
            return handle
        flags = wire.HAS_KWARGS | wire.IS_REUSABLE if kwargs else wire.IS_REUSABLE
        if type(payload) is Parcel:
            flags |= wire.PARCEL
        handle._job = job = Job(handle, recipe, payload, flags)
        self._supervisor.accept(job)
        return handle

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
        Raises (now): `ManagerClosedError`, `InitializerError`, `UnknownTaskTypeError`, `QueueFullError`; `ValueError`
        for needs (`cores`, `memory`, `slots`) that can never be met, naming them and what there is.
        Fails with (later): as `run`. A loop's handle is done only when the loop is cancelled, or cannot start.
        """
        handle: TaskHandle[R] = TaskHandle(self._supervisor, None, task)
        self._submitter.submit_task(handle, task)
        return handle

    def options(self, **task_fields: Unpack[TaskFields]) -> Options:
        """Return a view on this manager whose calls run under the given fields of `Task`.

        `manager.options(timeout=5, retry=3).map(parse, paths)`. A `Task` that is given to a view (`run_task`, `stream`)
        has those of the fields that it leaves at their defaults; its handle has it with them.
        Raises: as `Task` for fields that it has not, or that are out of range; `ValueError` for needs that can never be
        met.
        """
        fields: dict[str, Any] = {**self._submitter.fields, **task_fields}
        for name in ("fn", "args", "kwargs"):
            if name in fields:
                raise TypeError(f"options() takes the fields of a Task but {name}, which each call brings itself")
        submitter = self._submitter.with_fields(fields)
        submitter.check_fields()
        view = Options(self._supervisor, submitter, self._max_workers)
        view._origin = self
        return view

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """`concurrent.futures.Executor.shutdown`: `close()` without a timeout, or without waiting for it.

        On a view it shuts down the manager that it is a view on.
        """
        self._supervisor.ask_to_close(None)
        if cancel_futures:
            self._supervisor.cancel_queued()
        if wait:
            self._supervisor.close(None)


class Options(TaskCalls):
    """A view on a manager whose calls run under other limits; see `Manager.options`. An Executor, too."""

    _origin: TaskCalls | None = None  # kept from being dropped, which would close the manager
