"""Front door: checks and pickles a task, makes its handle, and gives it to the supervisor.

First stop of a task. Everything here runs in the caller's thread, the pickling too: it is the caller's time, and
a snapshot of the arguments.
"""

from __future__ import annotations

import os
import signal
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from procbackground._wire import frames as wire
from procbackground._compat import ExecutorInternals
from procbackground._submit.map.mapper import AdaptingMapper, Chunk, Columns, Mapper
from procbackground._wire.parcel import Parcel
from procbackground._wire.pickling import dump_arguments, dump_function, is_stateless
from procbackground._state.job import Job, Recipe
from procbackground._submit.stream import Stream
from procbackground._supervisor.loop import Supervisor, close_all_at_exit
from procbackground._supervisor.machine import usable_cpus
from procbackground.errors import SerializationError, UnknownTaskTypeError
from procbackground.handle import TaskHandle
from procbackground.report import CloseReport, ProcessInfo, Stats
from procbackground.retry import Retry
from procbackground.task import NO_LIMIT, Task, TaskFields, TaskType, check_duration, parse_size, resolve

if TYPE_CHECKING:
    from contextvars import ContextVar
    from multiprocessing.context import BaseContext

    from procbackground._submit.carry import Carrier
    from procbackground.observers import Observer

P = ParamSpec("P")
R = TypeVar("R")

KEPT_RECIPES = 512
_HASHED_BY_IDENTITY = frozenset({types.FunctionType, types.BuiltinFunctionType})

_exit_lock = threading.Lock()
_is_registered_for_exit = False


class _Defaults:
    """The manager's limits, for tasks that name none of their own."""

    __slots__ = ("memory_limit", "reports_stalls", "retry", "stalled_threshold", "timeout")

    def __init__(
        self,
        retry: Retry | int | None,
        timeout: float | None,
        stalled_threshold: float | None,
        memory_limit: int | str | None,
        reports_stalls: bool,
    ) -> None:
        check_duration("timeout", timeout)
        check_duration("stalled_threshold", stalled_threshold)
        self.retry: Retry | None = Retry.of_attempts(retry) if isinstance(retry, int) else retry
        self.timeout: float | None = timeout
        self.stalled_threshold: float | None = stalled_threshold
        self.memory_limit: int | None = None if memory_limit is None else parse_size(memory_limit)
        self.reports_stalls: bool = reports_stalls


class _FrontDoor(Executor):
    """What a manager and its `options(...)` views have in common: ways to give it work."""

    def __init__(
        self, supervisor: Supervisor, defaults: _Defaults, fields: dict[str, Any], carrier: Carrier | None = None
    ) -> None:
        self._supervisor = supervisor
        self._defaults = defaults
        self._fields = fields
        self._recipes: dict[Any, Recipe] = {}  # by function, of calls with the manager's defaults
        self._chunk_recipes: dict[Any, Recipe] = {}  # by function
        self._task_recipes: dict[Any, Recipe] = {}  # by function and limits
        self._chunk_rows: dict[Any, int] = {}  # by function: how many rows a chunk had in the end, in the last map
        # With context variables to carry, all recipes are here, where the short ways do not look.
        self._carrier = carrier
        self._carried_recipes: dict[Any, Recipe] = {}
        self._make_task: Callable[..., Task[Any]] = partial(_make_task, fields)

    # -- giving work ---------------------------------------------------------------------------------------

    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """Run `fn(*args, **kwargs)` once in a child process and return its handle. Safe from any thread.

        Blocks while `max_pending` tasks wait already.
        Raises (now): `ManagerClosedError`, `InitializerError`.
        Fails with (later): what the function raised, with the child's traceback as its cause;
        `SerializationError`, naming what could not cross; `TaskTimeoutError`; `MemoryLimitError`;
        `WorkerDiedError`.
        """
        # Keeping the pickled function of a plain function saves a third of a task's cost in this thread.
        recipe = self._recipes.get(fn) if type(fn) in _HASHED_BY_IDENTITY else None
        if recipe is None:
            return self._run_other(fn, args, kwargs)
        handle: TaskHandle[R] = TaskHandle(self._supervisor, recipe.make_task, args, kwargs or None)
        try:
            payload = dump_arguments(args, kwargs) if args or kwargs else b""
        except SerializationError as error:
            return self._reject(handle, recipe, error)
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

        Blocks while `max_pending` tasks wait already. A loop given to a manager whose loops were cancelled is
        cancelled at once.
        Raises (now): `ManagerClosedError`, `InitializerError`, `UnknownTaskTypeError`.
        Fails with (later): as `run`. A loop's handle is done only when the loop is cancelled, or cannot start.
        """
        handle: TaskHandle[R] = TaskHandle(self._supervisor, None, task)
        self._give_task(handle, task)
        return handle

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[R]:
        """Return an iterator over `fn` applied to the items, in their order, as Python 3.14's `Executor.map`.

        The items are taken and sent at once; with `buffersize` only that many ahead of the results taken.
        `chunksize` items travel together; by default as many as make one to five milliseconds of work, and where
        that was too many, because these take longer than those before, what a worker has not begun is shared
        again. An item that raises, times out or kills its worker fails alone, whatever the chunk: the iterator
        raises its error when it is that item's turn. Items of one chunk that ran in the milliseconds before a death
        run again; with a chunk size of 1 none does.

        Args:
            timeout: seconds from now within which each result must be there; `TimeoutError` past that.
        Raises (now): `ValueError` for a chunk or buffer size below 1; as `run`.
        """
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        _check_buffersize(buffersize)
        if not callable(fn):
            raise TypeError(f"map takes a callable, not {type(fn).__name__}")
        is_apart = self._fields.get("isolate") or self._supervisor.tells_tasks
        if chunksize is None and (buffersize is not None or is_apart):
            chunksize = 1  # each item is to be a task of its own
        door: _FrontDoor = self
        if self._carrier is not None:
            # Later rows are given wherever earlier ones end; all have the context of this call.
            door = self._options(self._fields, self._carrier.frozen())
            door._origin = self if buffersize is not None else None
        elif buffersize is None:
            # Results may be read when the manager has been dropped and is going away; only a lazy map still needs it.
            door = self._options(self._fields)
            door._recipes, door._chunk_recipes = self._recipes, self._chunk_recipes
        mapper: Mapper
        if chunksize is None:
            mapper = AdaptingMapper(door, self._supervisor, fn, iterables, timeout, self._max_workers)
        else:
            mapper = Mapper(door, self._supervisor, fn, iterables, timeout, chunksize, buffersize)
        return mapper.results()

    def stream(
        self, tasks: Iterable[Task[R]], *, ordered: bool = False, buffersize: int | None = None
    ) -> Stream[R]:
        """Run the tasks of an iterable, pulled lazily, and yield each one's handle once it is done.

        Never more than `buffersize` (by default, 32 for each worker) are out: the way to run ten million items
        in flat memory. With `ordered` the handles come in the order of the tasks, else as they are done. Leaving
        the iteration half-way cancels what is out. Works in `for` and, without blocking the event loop, in
        `async for`. What the iterable raises ends the iteration with it, after the handles of what was out.
        """
        _check_buffersize(buffersize)
        return Stream(self._supervisor, self._give_task, tasks, ordered, buffersize or 32 * self._max_workers)

    def options(self, **task_fields: Unpack[TaskFields]) -> Options:
        """Return a view on this manager whose calls run under the given fields of `Task`.

        `manager.options(timeout=5, retry=3).map(parse, paths)`. Raises: as `Task` for fields that it has not, or
        that are out of range.
        """
        fields: dict[str, Any] = {**self._fields, **task_fields}
        for name in ("fn", "args", "kwargs"):
            if name in fields:
                raise TypeError(f"options() takes the fields of a Task but {name}, which each call brings itself")
        _make_task(fields, _nothing, (), {})  # finds what is wrong now rather than at the first call
        view = self._options(fields, self._carrier)
        view._origin = self
        return view

    def _options(self, fields: dict[str, Any], carrier: Carrier | None = None) -> Options:
        view = Options(self._supervisor, self._defaults, fields, self._max_workers, carrier)
        view._chunk_rows = self._chunk_rows
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

    # -- how that is done ----------------------------------------------------------------------------------

    _max_workers = 1

    def _run_other(
        self, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TaskHandle[R]:
        """A call of a function that is new, or that has a state to be pickled each time."""
        if not callable(fn):
            raise TypeError(f"the first argument must be callable, not {type(fn).__name__}")
        task = self._make_task(fn, args, kwargs)
        handle: TaskHandle[R] = TaskHandle(self._supervisor, None, task)
        if self._fields:
            self._accept_task(handle, task, _task_type(task.type) is TaskType.LOOP)
        else:
            self._accept_call(handle, task, args, kwargs, self._recipes, fn, False)
        return handle

    def _give_task(self, handle: TaskHandle[R], task: Task[R]) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"run_task takes a Task, not {type(task).__name__}; for a function there is run()")
        self._accept_task(handle, task, _task_type(task.type) is TaskType.LOOP)

    def _accept_task(self, handle: TaskHandle[Any], task: Task[Any], is_loop: bool) -> None:
        key = None
        if type(task.fn) in _HASHED_BY_IDENTITY:
            key = (
                task.fn, is_loop, task.name, task.retry, task.timeout, task.deadline, task.stalled_threshold,
                task.memory_limit, task.priority, task.interval, task.isolate,
            )  # fmt: skip
            recipe = self._task_recipes.get(key)
            if recipe is not None:
                try:
                    payload = dump_arguments(task.args, task.kwargs) if task.args or task.kwargs else b""
                except SerializationError as error:
                    self._reject(handle, recipe, error)
                    return
                flags = wire.HAS_KWARGS | wire.IS_REUSABLE if task.kwargs else wire.IS_REUSABLE
                self._give(handle, recipe, payload, flags)
                return
        self._accept_call(handle, task, task.args, task.kwargs, self._task_recipes, key, is_loop)

    def _accept_call(
        self,
        handle: TaskHandle[Any],
        task: Task[Any],
        args: tuple[Any, ...],
        kwargs: Any,
        recipes: dict[Any, Recipe],
        key: Any,
        is_loop: bool,
    ) -> None:
        if self._carrier is not None:
            self._accept_carried(self._carrier, handle, task, args, kwargs, key, is_loop)
            return
        recipe = None
        try:
            is_reusable = is_stateless(task.fn)
            recipe = self._recipe_of(task, b"", is_loop, is_reusable)
            recipe = self._recipe_of(task, dump_function(task.fn), is_loop, is_reusable)
            payload = dump_arguments(args, kwargs) if args or kwargs else b""
        except SerializationError as error:
            assert recipe is not None
            self._reject(handle, recipe, error)
            return
        if is_reusable:
            self._keep(recipes, key, task.fn, recipe)
        flags = (wire.HAS_KWARGS if kwargs else 0) | (wire.IS_REUSABLE if is_reusable else 0)
        self._give(handle, recipe, payload, flags)

    def _accept_carried(
        self,
        carrier: Carrier,
        handle: TaskHandle[Any],
        task: Task[Any],
        args: tuple[Any, ...],
        kwargs: Any,
        key: Any,
        is_loop: bool,
    ) -> None:
        """Accept any call of a manager that carries context variables."""
        is_reusable = is_stateless(task.fn)
        is_new = False
        recipe = self._carried_recipes.get(key) if type(task.fn) in _HASHED_BY_IDENTITY else None
        try:
            if recipe is None:
                is_new = is_reusable
                recipe = self._recipe_of(task, b"", is_loop, is_reusable)
                recipe = self._recipe_of(task, carrier.dump_function(task.fn), is_loop, is_reusable)
            payload = carrier.dump_arguments(args, kwargs)
        except SerializationError as error:
            assert recipe is not None
            self._reject(handle, recipe, error)
            return
        if is_new:
            self._keep(self._carried_recipes, key, task.fn, recipe)
        flags = (wire.HAS_KWARGS if kwargs else 0) | (wire.IS_REUSABLE if is_reusable else 0)
        self._give(handle, recipe, payload, flags)

    def _keep(self, recipes: dict[Any, Recipe], key: Any, fn: Callable[..., Any], recipe: Recipe) -> None:
        """Keep the recipe of a function that pickles as a mere name, and let workers have its module."""
        if key is not None and type(fn) in _HASHED_BY_IDENTITY:
            if len(recipes) >= KEPT_RECIPES:
                recipes.clear()
            recipes[key] = recipe
        self._supervisor.preload(fn.__module__)

    def _give(self, handle: TaskHandle[Any], recipe: Recipe, payload: bytes | Parcel, flags: int) -> None:
        if type(payload) is Parcel:
            flags |= wire.PARCEL
        handle._job = job = Job(handle, recipe, payload, flags)
        if recipe.is_loop:
            self._supervisor.accept_loop(job)
        else:
            self._supervisor.accept(job)

    def _reject(self, handle: TaskHandle[R], recipe: Recipe, error: SerializationError) -> TaskHandle[R]:
        error.task, error.attempt = handle.task, 1
        self._supervisor.reject(Job(handle, recipe, b""), error)
        return handle

    def _recipe_of(
        self, task: Task[Any], blob: bytes, is_loop: bool, is_reusable: bool, is_chunk: bool = False
    ) -> Recipe:
        defaults = self._defaults
        retry = task.retry if task.retry is not None else defaults.retry
        if is_chunk:
            retry = None  # its rows are retried, each for itself
        assert not isinstance(retry, int)
        memory_limit = task.memory_limit if task.memory_limit is not None else defaults.memory_limit
        assert not isinstance(memory_limit, str)
        # A loop is meant to run on: only a threshold of its own makes an iteration a stalled one.
        stalled_s = resolve(task.stalled_threshold, None if is_loop else defaults.stalled_threshold)
        return Recipe(
            task.name,
            blob,
            reusable=is_reusable,
            is_loop=is_loop,
            retry=retry,
            timeout_s=resolve(task.timeout, defaults.timeout),
            deadline_s=resolve(task.deadline, None),
            stalled_s=stalled_s if defaults.reports_stalls else NO_LIMIT,
            memory_limit=memory_limit,
            priority=task.priority,
            interval_s=task.interval,
            isolate=task.isolate,
            is_chunk=is_chunk,
            make_task=partial(self._make_task, task.fn),
        )

    # What a map needs: see `_map.FrontDoor`.

    def run_row(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> TaskHandle[Any]:
        return self.run(fn, *args)

    def adopt_row(
        self, fn: Callable[..., Any], args: tuple[Any, ...], failure: bytes | BaseException
    ) -> TaskHandle[Any]:
        task = self._make_task(fn, args, {})
        handle: TaskHandle[Any] = TaskHandle(self._supervisor, None, task)
        is_reusable = is_stateless(fn)
        carrier = self._carrier
        blob = dump_function(fn) if carrier is None else carrier.dump_function(fn)
        recipe = self._recipe_of(task, blob, False, is_reusable)
        flags = wire.IS_REUSABLE if is_reusable else 0
        payload = dump_arguments(args, {}) if carrier is None else carrier.dump_arguments(args, {})
        if type(payload) is Parcel:
            flags |= wire.PARCEL
        handle._job = job = Job(handle, recipe, payload, flags)
        self._supervisor.adopt(job, failure)
        return handle

    def recall_rows(self, fn: Callable[..., Any]) -> int:
        return self._chunk_rows.get(fn, 0) if type(fn) in _HASHED_BY_IDENTITY else 0

    def remember_rows(self, fn: Callable[..., Any], rows: int) -> None:
        if type(fn) in _HASHED_BY_IDENTITY and is_stateless(fn):
            if len(self._chunk_rows) >= KEPT_RECIPES:
                self._chunk_rows.clear()
            self._chunk_rows[fn] = rows

    def give_chunk(self, chunk: Chunk, fn: Callable[..., Any], columns: Columns) -> None:
        recipe = self._chunk_recipes.get(fn) if type(fn) in _HASHED_BY_IDENTITY else None
        carrier = self._carrier
        if recipe is None:
            is_reusable = is_stateless(fn)
            task = self._make_task(fn, (), {})
            blob = dump_function(fn) if carrier is None else carrier.dump_function(fn)
            recipe = self._recipe_of(task, blob, False, is_reusable, is_chunk=True)
            if is_reusable:
                self._keep(self._chunk_recipes, fn, fn, recipe)
        chunk._make, chunk._args = recipe.make_task, ()
        flags = wire.PER_ITEM | (wire.IS_REUSABLE if recipe.reusable else 0)
        if chunk.may_end_early:
            flags |= wire.MAY_END_EARLY
        payload = dump_arguments(columns, {}) if carrier is None else carrier.dump_columns(columns)
        self._give(chunk, recipe, payload, flags)


class Manager(_FrontDoor, ExecutorInternals):
    """Runs functions in supervised child processes: a `concurrent.futures.Executor`, and more.

    Nothing is started before the first task, and workers only as they are needed.

    Args:
        max_workers: one-off tasks that run at once; by default one for each CPU this process may use, by its affinity
            and its container's quota (rounded up). Loops have a process of their own beside them.
        mp_context: a `multiprocessing` context; by default `forkserver` where it exists, else `spawn`.
        initializer, initargs: called in each worker before its first task. If it raises, the manager is broken:
            tasks fail with `InitializerError`.
        max_tasks_per_child: tasks after which a worker is replaced; by default it never is.
        observer: an `Observer`, or an iterable of them.
        retry: a `Retry`, or an int (that many attempts), for tasks without their own; default one attempt.
        timeout: seconds that one attempt may run, for tasks without their own.
        stalled_threshold: seconds of silence after which an attempt is reported as stalled, likewise.
        memory_limit: bytes (or "512MiB") that an attempt's process tree may hold, likewise.
        max_pending: tasks that may wait; `run` and `run_task` block while there are that many, first come, first
            served. In a thread with a running event loop they never block: there awaiting the handle is the wait.
        grace: seconds between SIGTERM and SIGKILL where a running task is stopped.
        start_timeout: seconds within which a starting worker must be ready: have imported the main module, and run
            the initializer. Past them the manager is broken, as by an initializer that raises; once some worker
            has been ready, only when three in a row are late.
        min_free_memory: bytes (or "1GiB") of the machine's memory, or of the container's limit, that are to stay free:
            while fewer are, no attempt begins. What runs goes on; observers are told. By default attempts begin
            whatever is free.
        preload: modules that workers find imported already (with the default context on Linux).
        threads_per_task: threads that numpy, BLAS, OpenMP and their like may use in a worker, by the variables that
            they read when they are loaded. Under a `fork` context they may be loaded already: then the cap holds
            where `threadpoolctl` is installed.
        env: environment variables that workers have beside the parent's, before they import anything; None removes
            one. Goes before `threads_per_task`.
        cwd: directory that workers run in.
        nice: added to the parent's niceness; below 0 needs privileges.
        cpu_affinity: CPUs (numbers) that workers may run on. `max_workers` is then one for each of them by default.
            Raises (now): `NotImplementedError` where the system has no such thing.
        context: context variables whose values travel with every task: as they are where it is given, until it ends.
            Each must be a variable of a module, so that the child can find it.

    If a starting worker cannot be given its `cwd`, niceness or CPUs, tasks fail with `InitializerError`.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        observer: Observer | Iterable[Observer] | None = None,
        retry: Retry | int | None = None,
        timeout: float | None = None,
        stalled_threshold: float | None = None,
        memory_limit: int | str | None = None,
        max_pending: int | None = None,
        grace: float = 5.0,
        start_timeout: float = 60.0,
        min_free_memory: int | str | None = None,
        preload: Sequence[str] = (),
        threads_per_task: int | None = None,
        env: Mapping[str, str | None] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        nice: int = 0,
        cpu_affinity: Iterable[int] | None = None,
        context: Iterable[ContextVar[Any]] = (),
    ) -> None:
        setup = None
        if nice or any(each is not None for each in (threads_per_task, env, cwd, cpu_affinity)):
            from procbackground._submit.setup import make_setup

            setup = make_setup(
                threads_per_task=threads_per_task, env=env, cwd=cwd, nice=nice, cpu_affinity=cpu_affinity
            )
        carrier = None
        if context != ():
            from procbackground._submit.carry import make_carrier

            carrier = make_carrier(context)
        if max_workers is None:
            max_workers = usable_cpus() if setup is None or setup.cpus is None else len(setup.cpus)
        elif max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        for name, number in (("max_tasks_per_child", max_tasks_per_child), ("max_pending", max_pending)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise (TypeError if not isinstance(number, int) else ValueError)(
                    f"{name} must be an int of 1 or more, or None"
                )
        if max_tasks_per_child is not None and mp_context is not None and mp_context.get_start_method() == "fork":
            # As the standard library has it: each replacement would be one more fork of a parent with threads.
            raise ValueError(
                "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; supply a different "
                "mp_context."
            )
        if not grace >= 0:
            raise ValueError(f"grace must be 0 or more seconds, not {grace!r}")
        check_duration("start_timeout", start_timeout)
        observers = _as_observers(observer)
        reports_stalls = any(_hears_stalls(each) for each in observers)
        defaults = _Defaults(retry, timeout, stalled_threshold, memory_limit, reports_stalls)
        supervisor = Supervisor(
            context=_default_context() if mp_context is None else mp_context,
            max_workers=max_workers,
            max_tasks_per_child=max_tasks_per_child,
            initializer=None if initializer is None else (initializer, tuple(initargs)),
            observers=observers,
            keeps_spare=defaults.retry is not None and defaults.retry.can_retry,
            max_pending=max_pending,
            grace_s=grace,
            start_timeout_s=start_timeout,
            min_free_bytes=None if min_free_memory is None else parse_size(min_free_memory),
            preload=tuple(preload),
            setup=setup,
        )
        super().__init__(supervisor, defaults, {}, carrier)
        self._max_workers = max_workers
        _register_for_exit()

    # -- asking and waiting --------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Block until no one-off is queued, running or waiting for its retry; return False past `timeout` seconds."""
        return self._supervisor.wait(timeout)

    def count_of(self, type: TaskType | str) -> int:
        """Return how many tasks of that type have not ended. Raises: `UnknownTaskTypeError`."""
        return self._supervisor.count(loops=_task_type(type) is TaskType.LOOP)

    def stats(self) -> Stats:
        """Return the counters since the manager's start."""
        return self._supervisor.stats()

    def processes(self) -> list[ProcessInfo]:
        """Return a snapshot of the worker processes; its figures are taken in this call, for whole process trees."""
        return self._supervisor.processes()

    # -- ending --------------------------------------------------------------------------------------------

    def cancel(self, timeout: float | None = None) -> bool:
        """End loops after their running iteration; those added later are not run. One-offs go on.

        Blocks until they have ended, `timeout` seconds at the most; returns whether they all have.
        """
        return self._supervisor.end_loops(timeout)

    def close(self, timeout: float | None = None) -> CloseReport:
        """Accept nothing more, end loops, let one-offs finish; then leave nothing behind.

        Past `timeout` seconds queued tasks are cancelled, and the process trees of running ones get SIGTERM and,
        `grace` seconds later, SIGKILL. Afterwards no child, thread or descriptor is left, every handle is done and
        every event has reached its observer. Never waits longer than timeout, grace and a moment together.
        Idempotent, and safe from any thread; a second call with a shorter timeout hastens the first.
        """
        check_timeout(timeout)
        return self._supervisor.close(timeout)

    @contextmanager
    def closing_on(self, *signals: int, timeout: float | None = None) -> Iterator[Manager]:
        """Close when one of `signals` comes: a context manager, for the main thread.

        The first signal starts `close(timeout)`, a second one stops everything at once. On leaving, the old
        handlers are back, and a close that was started is over.
        """
        check_timeout(timeout)
        seen: list[int] = []

        def note(signal_number: int, frame: Any) -> None:
            seen.append(signal_number)
            if len(seen) > 1:
                raise KeyboardInterrupt if signal_number == signal.SIGINT else SystemExit(128 + signal_number)

        # Python runs a handler when the main thread next executes bytecode, and a signal that comes just before
        # that thread blocks in a lock may find it there for good. The interpreter's C handler writes to this pipe
        # at once, and a thread of ours acts on it.
        read_fd, write_fd = os.pipe()
        os.set_blocking(write_fd, False)
        listener = threading.Thread(
            target=_close_when_told, args=(read_fd, self._supervisor, frozenset(signals), timeout),
            name="procbackground-signals", daemon=True,
        )  # fmt: skip
        listener.start()
        wakeup_before = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        before = {number: signal.signal(number, note) for number in signals}
        try:
            yield self
            if seen:
                self.close(timeout)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup_before)
            os.close(write_fd)
            listener.join()
            os.close(read_fd)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: object, traceback: object) -> None:
        # An exception that leaves the block (Ctrl-C too) means that nobody wants the rest.
        self.close(None if exc_type is None else 0.0)

    async def __aenter__(self) -> Manager:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: object, traceback: object
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.close, None if exc_type is None else 0.0)

    def __del__(self) -> None:
        # A manager that is dropped lets its tasks finish, and goes away with its workers.
        supervisor = self.__dict__.get("_supervisor")
        if supervisor is not None:
            supervisor.ask_to_close(None)


class Options(_FrontDoor):
    """A view on a manager whose calls run under other limits; see `Manager.options`. An Executor, too."""

    _origin: _FrontDoor | None = None  # kept from being dropped, which would close the manager

    def __init__(
        self,
        supervisor: Supervisor,
        defaults: _Defaults,
        fields: dict[str, Any],
        max_workers: int,
        carrier: Carrier | None = None,
    ) -> None:
        super().__init__(supervisor, defaults, fields, carrier)
        self._max_workers = max_workers


def _close_when_told(
    fd: int, supervisor: Supervisor, signals: frozenset[int], timeout: float | None
) -> None:
    """Close at the first of `signals` that comes by the wake-up pipe, at once at the second; end with the pipe."""
    seen = 0
    while numbers := os.read(fd, 64):
        for number in numbers:
            if number in signals:
                seen += 1
                supervisor.ask_to_close(timeout if seen == 1 else 0.0)


def check_timeout(timeout: float | None) -> None:
    """Raise `ValueError` unless `timeout` is None, or 0 or more seconds."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout must be 0 or more seconds, or None, not {timeout!r}")


def _check_buffersize(buffersize: int | None) -> None:
    if buffersize is None:
        return
    if not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def _default_context() -> BaseContext:
    import multiprocessing

    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


def _as_observers(observer: Any) -> list[Any]:
    if observer is None:
        return []
    if isinstance(observer, Iterable):
        return list(observer)
    return [observer]


def _hears_stalls(observer: Any) -> bool:
    from procbackground.observers import events_wanted_by

    return "on_task_stalled" in events_wanted_by(observer)


def _task_type(type_: Any) -> TaskType:
    try:
        return TaskType(type_)
    except ValueError:
        known = ", ".join(str(each) for each in TaskType)
        raise UnknownTaskTypeError(f"{type_!r} is no task type; there are {known}") from None


def _make_task(fields: dict[str, Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> Task[Any]:
    return Task(fn, args, kwargs, **fields)


def _nothing() -> None:
    pass


def _register_for_exit() -> None:
    """Have managers closed when the interpreter exits, before it joins threads and before `multiprocessing` joins
    its children: both would wait for ours."""
    global _is_registered_for_exit
    with _exit_lock:
        if _is_registered_for_exit:
            return
        _is_registered_for_exit = True
    try:
        threading._register_atexit(close_all_at_exit)  # type: ignore[attr-defined]  # as concurrent.futures does
    except RuntimeError:
        close_all_at_exit()  # the interpreter exits already
