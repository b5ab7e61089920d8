"""Recipes and jobs: what a call or a `Task` becomes before the supervisor takes it.

Second stop of a task, in the caller's thread. A `Submitter` finds or makes the recipe (the pickled function and the
limits, shared by all calls of the function), `make_job` pickles the arguments, and the supervisor takes the job.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from procbackground._load import load
from procbackground._state.job import Job, Recipe
from procbackground._wire import frames as wire
from procbackground._wire.descriptors import call_sent
from procbackground._wire.output import make_plan
from procbackground._wire.parcel import Parcel
from procbackground._wire.pickling import dump_arguments, dump_function, is_stateless
from procbackground.errors import ProcbackgroundError, SerializationError, UnknownTaskTypeError
from procbackground.handle import TaskHandle
from procbackground.task import NO_LIMIT, Task, TaskType, resolve

if TYPE_CHECKING:
    from procbackground._submit.carry import Carrier
    from procbackground._submit.defaults import Defaults
    from procbackground._submit.keyed import MakeKeyedJob
    from procbackground._submit.port import Port

KEPT_RECIPES = 512
# Other callables may have an equality of their own, or none; they get a recipe for each call.
HASHED_BY_IDENTITY = frozenset({types.FunctionType, types.BuiltinFunctionType})
_ONE_OFF = TaskType.ONE_OFF


class Submitter:
    """Gives work to the supervisor. A manager has one, and so has each of its `options(...)` views.

    It knows the supervisor but not the manager: a running map does not keep a dropped manager open.

    Args:
        fields: of `Task`, for calls that bring only a function and arguments, and for tasks that lack them.
        carrier: of the context variables that travel with every call, if there are any.
        make_keyed_job: makes the jobs of one-offs, in a manager with a journal: `keyed.make_keyed_job`.
    """

    def __init__(
        self, port: Port, defaults: Defaults, fields: dict[str, Any], carrier: Carrier | None = None,
        make_keyed_job: MakeKeyedJob | None = None,
    ) -> None:  # fmt: skip
        self.port = port
        self.defaults = defaults
        self.fields = fields
        self.carrier = carrier
        self._of_map: tuple[Any, ...] | None = None  # where it is for a map: the function and its pickle, once made
        self.is_patient: bool = False  # waits for room in the queue, also where the manager refuses others
        self.make_keyed_job = make_keyed_job
        # By function, of calls that may not take the shortcut: with a journal, or an engine.
        self._long_way_recipes: dict[Any, Recipe] = {}
        self.make_task: Callable[..., Task[Any]] = partial(_make_task, fields)
        # By function, of calls under the manager's defaults. `Manager.run` looks here; all it finds is plain.
        self.call_recipes: dict[Any, Recipe] = {}
        self._task_recipes: dict[Any, Recipe] = {}  # by function and limits
        self._chunk_recipes: dict[Any, Recipe] = {}  # by function
        self._chunk_rows: dict[Any, int] = {}  # by function: how many rows a chunk had in the end, in the last map

    def with_fields(self, fields: dict[str, Any]) -> Submitter:
        """Return a submitter whose calls run under other fields of `Task`."""
        view = type(self)(self.port, self.defaults, fields, self.carrier, self.make_keyed_job)
        view._chunk_rows = self._chunk_rows
        return view

    def check_fields(self) -> None:
        """Raise `TypeError` or `ValueError` now, rather than at the first call, for fields that no call can have."""
        self.defaults.needs_of(self.make_task(print, (), {}))

    def waiting_for_room(self) -> Submitter:
        """Return a submitter for streams and maps, which submit no faster than they are read, so none is refused."""
        patient = object.__new__(type(self))
        patient.__dict__.update(self.__dict__)
        patient.is_patient = True
        return patient

    def for_map(self) -> Submitter:
        """Return a submitter for a map, which waits for room as others do, and pickles its function once."""
        submitter = self.waiting_for_room().in_present_context()
        submitter._of_map = ()
        return submitter

    def in_present_context(self) -> Submitter:
        """Return a submitter whose calls have the values that the context variables have now."""
        if self.carrier is None:
            return self
        frozen = type(self)(self.port, self.defaults, self.fields, self.carrier.frozen(), self.make_keyed_job)
        # Recipes do not contain the values.
        frozen._task_recipes, frozen._chunk_recipes = self._task_recipes, self._chunk_recipes
        frozen._long_way_recipes = self._long_way_recipes
        frozen._chunk_rows, frozen.is_patient = self._chunk_rows, self.is_patient
        return frozen

    @property
    def may_shorten(self) -> bool:
        """Whether calls of a function that was called before may take the shortcut of `Manager.run`."""
        return self.make_keyed_job is None

    @property
    def runs_apart(self) -> bool:
        """Whether each row of a map is a task of its own: it has its own process, or its own output."""
        output = self.fields.get("output") or self.defaults.output
        return bool(self.fields.get("isolate")) or output != "inherit"

    # -- giving work ---------------------------------------------------------------------------------------

    def submit_call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskHandle[Any]:
        """Give `fn(*args, **kwargs)` to the supervisor, under the fields, and return its handle."""
        recipe = self.call_recipes.get(fn) if type(fn) in HASHED_BY_IDENTITY else None
        if recipe is not None:
            handle: TaskHandle[Any] = TaskHandle(self.port, recipe.make_task, args, kwargs or None)
            job = make_job(handle, recipe, args, kwargs)
            if isinstance(job, Job):  # as `_submit` does, whose call would cost a row of a map 3 %
                handle._job = job
                self.port.accept(job, self.is_patient)
            else:
                self.reject(handle, recipe, job)
            return handle
        recipe = self._long_way_recipes.get(fn) if type(fn) in HASHED_BY_IDENTITY else None
        if recipe is not None:
            handle = TaskHandle(self.port, recipe.make_task, args, kwargs or None)
            self._submit(handle, recipe, None, fn, args, kwargs, self.fields.get("key"))
            return handle
        if not callable(fn):
            hint = "; for a Task there is run_task()" if isinstance(fn, Task) else ""
            raise TypeError(f"run and submit take a callable first, not {type(fn).__name__}{hint}")
        task = self.make_task(fn, args, kwargs)
        handle = TaskHandle(self.port, None, task)
        recipe, error = self._recipe_of_call(task)
        is_kept = recipe.reusable and type(fn) in HASHED_BY_IDENTITY and not recipe.is_loop
        if is_kept and not self.may_shorten:
            if len(self._long_way_recipes) >= KEPT_RECIPES:
                self._long_way_recipes.clear()
            self._long_way_recipes[fn] = recipe
        self._submit(handle, recipe, error, fn, args, kwargs, task.key)
        return handle

    def submit_task(self, handle: TaskHandle[Any], task: Task[Any]) -> None:
        """Give `task` to the supervisor, for `handle`."""
        if not isinstance(task, Task):
            raise TypeError(
                f"run_task and stream take Task(...), not {type(task).__name__}; "
                "for a function there are run() and map()"
            )
        if self.fields:
            task = handle._args = _with_fields(task, self.fields)
        recipe, error = self._recipe_of_task(task)
        self._submit(handle, recipe, error, task.fn, task.args, task.kwargs, task.key)

    def submit_new_task(self, task: Task[Any]) -> TaskHandle[Any]:
        """Give `task` to the supervisor and return its handle."""
        handle: TaskHandle[Any] = TaskHandle(self.port, None, task)
        self.submit_task(handle, task)
        return handle

    def submit_row(self, fn: Callable[..., Any], args: tuple[Any, ...], handle: TaskHandle[Any]) -> TaskHandle[Any]:
        """Give a row of a map that has a handle already to the supervisor, as a task of its own."""
        recipe, error = self._recipe_of_call(handle.task)
        self._submit(handle, recipe, error, fn, args, {}, handle.task.key)
        return handle

    def submit_failed_row(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        failure: bytes | BaseException,
        handle: TaskHandle[Any] | None = None,
        saved: bytes | None = None,
    ) -> TaskHandle[Any]:
        """Give a row of a chunk that failed to the supervisor, as a job of its own after its first attempt.

        Args:
            saved: the state that this attempt saved, pickled.

        Raises: `SerializationError`; `ManagerClosedError`.
        """
        if handle is None:
            handle = TaskHandle(self.port, None, self.make_task(fn, args, {}))
        task = handle.task
        recipe, error = self._recipe_of_call(task)
        job = error or make_job(handle, recipe, args, {}, self.carrier)
        if not isinstance(job, Job):
            raise job
        if saved is not None:
            job.with_history().checkpoint = saved
            job.flags |= wire.HAS_SAVED
        handle._job = job
        self.port.adopt(job, failure)
        return handle

    def submit_chunk(
        self, chunk: TaskHandle[Any], fn: Callable[..., Any], columns: tuple[Sequence[Any], ...], may_end_early: bool
    ) -> None:
        """Give some rows of a map to the supervisor, as one request. Raises: `SerializationError`."""
        recipe = self._chunk_recipes.get(fn) if type(fn) in HASHED_BY_IDENTITY else None
        error = None
        if recipe is None:
            recipe, error = self._new_recipe(self._chunk_recipes, fn, self.make_task(fn, (), {}), is_chunk=True)
        chunk._make, chunk._args = recipe.make_task, ()
        job = error or make_job(chunk, recipe, columns, {}, self.carrier, wire.MAY_END_EARLY if may_end_early else 0)
        if not isinstance(job, Job):
            raise job
        chunk._job = job
        self.port.accept(job, self.is_patient)

    # -- what a map has learned ----------------------------------------------------------------------------

    def recall_rows(self, fn: Callable[..., Any]) -> int:
        """Return how many rows a chunk of `fn` had in the end, in the last map; 0 where that is not known."""
        return self._chunk_rows.get(fn, 0) if type(fn) in HASHED_BY_IDENTITY else 0

    def remember_rows(self, fn: Callable[..., Any], rows: int) -> None:
        """Keep for the next map of `fn` how many rows make a chunk, if that will be the same function."""
        if type(fn) in HASHED_BY_IDENTITY and is_stateless(fn):
            if len(self._chunk_rows) >= KEPT_RECIPES:
                self._chunk_rows.clear()
            self._chunk_rows[fn] = rows

    # -- how that is done ----------------------------------------------------------------------------------

    def _submit(
        self,
        handle: TaskHandle[Any],
        recipe: Recipe,
        error: SerializationError | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        key: str | None,
    ) -> None:
        make: Any = Job
        if self.make_keyed_job is not None and not recipe.is_loop:
            make = partial(self.make_keyed_job, fn, args, kwargs, key)
        job = error or make_job(handle, recipe, args, kwargs, self.carrier, make=make)
        if not isinstance(job, Job):
            self.reject(handle, recipe, job)
            return
        handle._job = job
        if recipe.is_loop:
            self.port.accept_loop(job)
        else:
            self.port.accept(job, self.is_patient)

    def reject(self, handle: TaskHandle[Any], recipe: Recipe, error: ProcbackgroundError) -> None:
        """Fail a task that cannot be pickled, by way of the supervisor: it is counted, and observers see it."""
        error.task, error.attempt = handle.task, 1
        self.port.reject(Job(handle, recipe, b""), error)

    def _recipe_of_call(self, task: Task[Any]) -> tuple[Recipe, SerializationError | None]:
        if self.fields or self.carrier is not None or self.make_keyed_job is not None:
            return self._recipe_of_task(task)
        recipe = self.call_recipes.get(task.fn) if type(task.fn) in HASHED_BY_IDENTITY else None
        return self._new_recipe(self.call_recipes, task.fn, task) if recipe is None else (recipe, None)

    def _recipe_of_task(self, task: Task[Any]) -> tuple[Recipe, SerializationError | None]:
        type_ = task.type
        is_loop = type_ is not _ONE_OFF and task_type(type_) is TaskType.LOOP  # the call takes a tenth of the whole
        key = (
            task.fn, is_loop, task.name, task.retry, task.timeout, task.deadline, task.stalled_threshold,
            task.memory_limit, task.priority, task.interval, task.isolate, task.output,
            self.defaults.needs_of(task) if task._has_needs else None,
        )  # fmt: skip
        recipe = self._task_recipes.get(key) if type(task.fn) in HASHED_BY_IDENTITY else None
        if recipe is not None:
            return recipe, None
        return self._new_recipe(self._task_recipes, key, task, is_loop=is_loop)

    def _new_recipe(
        self, recipes: dict[Any, Recipe], key: Any, task: Task[Any], *, is_loop: bool = False, is_chunk: bool = False
    ) -> tuple[Recipe, SerializationError | None]:
        """Return a new recipe, with the error if the function cannot be pickled; keep it in `recipes` if it can be."""
        fn = task.fn
        is_reusable = is_stateless(fn)
        make_recipe = partial(self._make_recipe, task, is_reusable=is_reusable, is_loop=is_loop, is_chunk=is_chunk)
        try:
            blob, carried = self._dump_function(fn)
        except SerializationError as error:
            return make_recipe(b""), error
        recipe = make_recipe(blob)
        recipe.carried = carried
        if is_reusable:
            if type(fn) in HASHED_BY_IDENTITY:
                if len(recipes) >= KEPT_RECIPES:
                    recipes.clear()
                recipes[key] = recipe
            self.port.preload(fn.__module__)
        return recipe, None

    def _dump_function(self, fn: Callable[..., Any]) -> tuple[bytes, tuple[Any, ...]]:
        """Return the pickled function, or `call_sent` and the arguments for it. Raises: `SerializationError`."""
        if self._of_map and self._of_map[0] is fn:
            return self._of_map[1]  # type: ignore[no-any-return]
        dump = dump_function if self.carrier is None else self.carrier.dump_function
        is_carried = self._of_map is not None and not is_stateless(fn)
        carried = load("procbackground._wire.carried").carry(fn) if is_carried else None
        blob = None if carried is not None else dump(fn)
        found = (blob, ()) if blob is not None else (dump(call_sent) or b"", (fn if carried is None else carried,))
        if self._of_map is not None:
            self._of_map = fn, found
        return found

    def _make_recipe(self, task: Task[Any], blob: bytes, *, is_reusable: bool, is_loop: bool, is_chunk: bool) -> Recipe:
        defaults = self.defaults
        retry = task.retry if task.retry is not None else defaults.retry
        if is_chunk:
            retry = None  # its rows are retried, each for itself
        assert not isinstance(retry, int)
        memory_limit = task.memory_limit if task.memory_limit is not None else defaults.memory_limit
        assert not isinstance(memory_limit, str)
        limit_bytes = None if memory_limit is None or memory_limit == NO_LIMIT else int(memory_limit)
        # A loop is meant to run on: only a threshold of its own makes an iteration a stalled one.
        stalled_s = resolve(task.stalled_threshold, None if is_loop else defaults.stalled_threshold)
        return Recipe(
            task.name,
            wire.pack_name(task.name) + blob,
            reusable=is_reusable,
            is_loop=is_loop,
            retry=retry,
            timeout_s=resolve(task.timeout, defaults.timeout),
            deadline_s=resolve(task.deadline, None),
            stalled_s=stalled_s if defaults.reports_stalls else NO_LIMIT,
            memory_limit=limit_bytes,
            priority=task.priority,
            interval_s=task.interval,
            isolate=task.isolate,
            needs=self.defaults.needs_of(task),
            is_chunk=is_chunk,
            make_task=partial(self.make_task, task.fn),
            output=make_plan(defaults.output if task.output is None else task.output),
        )


def make_job(
    handle: TaskHandle[Any],
    recipe: Recipe,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    carrier: Carrier | None = None,
    flags: int = 0,
    make: Callable[[TaskHandle[Any], Recipe, Any, int], Job | ProcbackgroundError] = Job,
) -> Job | ProcbackgroundError:
    """Pickle the arguments of a call, or the columns of a chunk; return the job, or why that is not possible.

    Args:
        carrier: adds the values of context variables.
        flags: of the request, beside those that follow from the other arguments.
        make: makes the job, or says why it cannot be made.
    """
    if recipe.carried:
        args = ([recipe.carried[0]] * len(args[0]), *args) if recipe.is_chunk else (*recipe.carried, *args)
    try:
        if carrier is not None:
            if recipe.is_chunk:
                payload = carrier.dump_columns(args, handle, handle._row_handles)
            else:
                payload = carrier.dump_arguments(args, kwargs, handle)
        else:
            payload = dump_arguments(args, kwargs) if args or kwargs else b""
    except SerializationError as error:
        return error
    if kwargs:
        flags |= wire.HAS_KWARGS
    if recipe.reusable:
        flags |= wire.IS_REUSABLE
    if recipe.is_chunk:
        flags |= wire.PER_ITEM
    if type(payload) is Parcel:
        flags |= wire.PARCEL
    return make(handle, recipe, payload, flags)


def task_type(type_: Any) -> TaskType:
    """Return the type that `type_` names. Raises: `UnknownTaskTypeError`."""
    try:
        return TaskType(type_)
    except ValueError:
        known = ", ".join(str(each) for each in TaskType)
        raise UnknownTaskTypeError(f"{type_!r} is no task type; there are {known}") from None


def _with_fields(task: Task[Any], fields: Mapping[str, Any]) -> Task[Any]:
    """Return `task` with those of the `fields` that it leaves at their defaults. Raises: as `Task`."""
    plain = Task(task.fn)
    missing = {name: value for name, value in fields.items() if getattr(task, name) == getattr(plain, name)}
    # Not imported with this module: it takes 9 ms with what it imports.
    return load("dataclasses").replace(task, **missing)  # type: ignore[no-any-return]


def _make_task(fields: dict[str, Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> Task[Any]:
    return Task(fn, args, kwargs, **fields)
