"""Checks of what the user passes to a manager, made in the caller's thread before anything is started."""

from __future__ import annotations

import _thread
import math
import os
import select
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from procbackground._load import load
from procbackground._wire.mainmodule import look_again, main_by_value
from procbackground._wire.surroundings import Surroundings
from procbackground.task import Task, TaskFields, as_duration, check_flag, check_function, check_size

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from procbackground._journal.writer import Writer
    from procbackground._state.ledger import Needs
    from procbackground._status.server import StatusServer
    from procbackground._submit.carry import Carrier
    from procbackground._submit.keyed import MakeKeyedJob
    from procbackground._submit.recipes import Submitter
    from procbackground._submit.setup import Setup
    from procbackground._supervisor.supervisor import Supervisor
    from procbackground.engines import Engine

GREEN_MODULES = ("gevent.thread", "gevent.os", "gevent.select", "eventlet.green.thread", "eventlet.green.select")


def checked_timeout(timeout: float | None, name: str = "timeout") -> float | None:
    """Return `timeout`, if it is None, or 0 or more seconds. Raises: `TypeError`, `ValueError`."""
    return None if timeout is None else as_duration(name, timeout, may_be_zero=True)


def time_left(timeout: float | None) -> float | None:
    """Return `timeout` as `checked_timeout` does, but 0 for less: what is left until a deadline may be negative."""
    is_over = isinstance(timeout, (int, float)) and timeout < 0
    return 0.0 if is_over else checked_timeout(timeout)


def check_buffersize(buffersize: int | None) -> None:
    """Raise `TypeError` or `ValueError` unless `buffersize` is None, or 1 or more."""
    if buffersize is None:
        return
    if not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def check_options(fields: Mapping[str, Any]) -> None:
    """Raise `TypeError` for what `options` cannot take."""
    for name in fields:
        if name in ("fn", "args", "kwargs"):
            raise TypeError(f"options() takes the fields of a Task but {name}, which each call brings itself")
        if name not in TaskFields.__annotations__:
            known = ", ".join(TaskFields.__annotations__)
            raise TypeError(f"options() takes no {name!r}; the fields of a Task that it takes are {known}")


def check_iterable(name: str, value: Any, example: str) -> None:
    """Raise `TypeError` for what cannot be iterated over."""
    if not any(hasattr(type(value), method) for method in ("__iter__", "__getitem__", "__aiter__")):
        raise TypeError(f"{name} takes {example}, not {type(value).__name__}")


def check_map(
    fn: Callable[..., Any],
    iterables: tuple[Any, ...],
    timeout: float | None,
    chunksize: int | None,
    buffersize: int | None,
    fields: Mapping[str, Any],
    returns_exceptions: bool,
    shows_progress: bool,
) -> None:
    """Raise `TypeError` or `ValueError` for what `map` cannot take."""
    time_left(timeout)
    check_flag("return_exceptions", returns_exceptions)
    check_flag("progress", shows_progress)
    if fields.get("key") is not None:
        raise ValueError("map cannot give all items one key: they would be the same work, done once")
    if chunksize is not None:
        _check_index("chunksize", chunksize)
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
    check_buffersize(buffersize)
    if not callable(fn):
        raise TypeError(f"map takes a callable, not {type(fn).__name__}")
    check_function(fn)
    for each in iterables:
        check_iterable("map", each, "iterables after the function, such as [1, 2]")


def _check_index(name: str, number: Any) -> None:
    # The supervisor counts with it, and has no caller to tell: `os.cpu_count() / 2` is a float.
    if not hasattr(number, "__index__"):
        raise TypeError(f"{name} takes an int, such as {name}=4, not {number!r}")


def checked_preload(preload: Any) -> tuple[str, ...]:
    """Return the names of modules as a tuple. Raises: `TypeError`."""
    if isinstance(preload, str):
        raise TypeError(f"preload takes the names of modules, not one; write preload=({preload!r},)")
    check_iterable("preload", preload, "the names of modules, such as preload=('numpy',)")
    names = tuple(preload)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"preload takes the names of modules, such as preload=('numpy',), not {name!r}")
    return names


def check_workers(
    max_workers: int | None,
    context: BaseContext,
    initializer: Callable[..., object] | None,
    max_tasks_per_child: int | None,
    max_pending: int | None,
) -> None:
    """Raise `TypeError` or `ValueError` for what a manager cannot have, in the standard library's words."""
    if max_workers is not None:
        _check_index("max_workers", max_workers)
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    for name, number in (("max_tasks_per_child", max_tasks_per_child), ("max_pending", max_pending)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise (TypeError if not isinstance(number, int) else ValueError)(
                f"{name} must be an int of 1 or more, or None"
            )
    if max_tasks_per_child is not None and context.get_start_method() == "fork":
        # As the standard library has it: each replacement would be one more fork of a parent with threads.
        raise ValueError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; supply a different "
            "mp_context."
        )


def checked_when_full(when_full: str, max_pending_bytes: float | str | None) -> float | None:
    """Return `max_pending_bytes` as a number. Raises: `ValueError` unless `when_full` is one of the two words, or for
    what is no size; `TypeError`.
    """
    if when_full not in ("wait", "raise"):
        raise ValueError(f'when_full must be "wait" or "raise", not {when_full!r}')
    if max_pending_bytes is None or max_pending_bytes == math.inf:
        return None if max_pending_bytes is None else math.inf
    return check_size("max_pending_bytes", max_pending_bytes)


def check_plain(name: str | None, **flags: bool) -> None:
    """Raise `TypeError` unless `name` is a text or None, and each flag True or False."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name takes a text, such as name='crunch', not {name!r}")
    for flag, value in flags.items():
        check_flag(flag, value)


def check_threads() -> None:
    """Raise `RuntimeError` where another library has replaced what starts threads and processes, as gevent does."""
    for start in (_thread.start_new_thread, getattr(os, "fork", None), select.select):
        if getattr(start, "__module__", None) in GREEN_MODULES:
            raise RuntimeError(
                f"a manager needs threads and processes of the system, and {start.__module__} has replaced them "
                "(monkey.patch_all()): make it in a program without that, or give Manager(inline=True)"
            )


def what_children_get(main_import: str, engine: object) -> dict[str, Any]:
    """Return what children get of this process as it is now, here or by an engine: options of a supervisor.

    Raises: `ValueError` unless `main_import` is one of its three words, `TypeError` for what is no engine.
    """
    if engine is not None and not callable(getattr(engine, "places", None)):
        raise TypeError(f"engine takes an engine, such as engine=DaskEngine('tls://host:8786'), not {engine!r}")
    if main_import not in ("auto", "once", "each"):
        raise ValueError(f"main_import must be 'auto', 'once' or 'each', not {main_import!r}")
    main = look_again()
    origin = (main.name, main.path) if main.is_importable else None
    return {"surroundings": Surroundings(), "main": origin, "main_import": main_import, "engine": engine}


def context_of(mp_context: BaseContext | str | None) -> BaseContext:
    """Return the context that `mp_context` stands for; by default that of `forkserver`, or of `spawn` without it.

    Raises: `ValueError` for a start method that does not exist here, `TypeError` for anything that is no context.
    """
    import multiprocessing

    # Not by `get_all_start_methods()`: in Python 3.14 that looks for a directory to write to, and imports for it.
    if mp_context is None:
        try:
            return multiprocessing.get_context("forkserver")
        except ValueError:
            return multiprocessing.get_context("spawn")
    if isinstance(mp_context, str):
        try:
            return multiprocessing.get_context(mp_context)
        except ValueError:
            known = ", ".join(map(repr, multiprocessing.get_all_start_methods()))
            raise ValueError(f"mp_context: there is no start method {mp_context!r} here, only {known}") from None
    if not hasattr(mp_context, "get_start_method"):
        raise TypeError(
            "mp_context takes a context of multiprocessing, or the name of a start method such as 'spawn', not "
            f"{type(mp_context).__name__}"
        )
    return mp_context


def setup_of_children(
    threads_per_task: int | None,
    env: Mapping[str, str | None] | None,
    cwd: str | os.PathLike[str] | None,
    nice: int,
    cpu_affinity: Iterable[int] | None,
) -> Setup | None:
    """Return the settings of the children, or None without any. Raises: as `setup.make_setup`."""
    if not nice and all(each is None for each in (threads_per_task, env, cwd, cpu_affinity)):
        return None
    load("procbackground._submit.setup")
    from procbackground._submit.setup import make_setup

    return make_setup(threads_per_task=threads_per_task, env=env, cwd=cwd, nice=nice, cpu_affinity=cpu_affinity)


def carrier_of(context: Iterable[ContextVar[Any]], observers: Iterable[Any], engine: Engine | None) -> Carrier | None:
    """Return what carries the context variables, and what observers send along, if there is anything.

    Raises: as `carry.make_carrier`.
    """
    passengers = [each for observer in observers for each in getattr(observer, "_passengers", ())]
    if context == () and not passengers:
        return None
    load("procbackground._submit.carry")
    from procbackground._submit.carry import make_carrier

    if not isinstance(context, ContextVar):  # of which `make_carrier` says more
        check_iterable("context", context, "a list of context variables")
    with main_by_value() if engine is not None else nullcontext():
        return make_carrier(context, passengers)


def discard_all(servers: list[StatusServer]) -> None:
    """Have these listen no more: there is no manager after all."""
    for server in servers:
        server.stop()


def journal_at(path: str | os.PathLike[str] | None) -> tuple[Writer | None, MakeKeyedJob | None]:
    """Open the journal at `path`, if there is one; return it and what makes jobs with keys. Raises: `JournalError`."""
    if path is None:
        return None, None
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"journal takes the path of a file, such as journal='batch.sqlite', not {path!r}")
    writer, keyed = load("procbackground._journal.writer"), load("procbackground._submit.keyed")
    return writer.Writer(path), keyed.make_keyed_job


def needs_finder(
    max_workers: int,
    slots: Mapping[str, int] | None,
    env: Mapping[str, str | None] | None,
    total_memory_bytes: Callable[[], int],
    engine: Engine | None,
) -> Callable[[Task[Any]], Needs]:
    """Check the slots of a manager; return what finds the needs of its tasks. Raises: `TypeError`, `ValueError`."""
    if slots is not None:
        slots = load("procbackground._submit.needs").checked_slots(slots, env if engine is None else None)

    def find(task: Task[Any]) -> Needs:
        home = load("procbackground._submit.needs")
        if engine is not None:  # whose nodes may differ, and come and go
            return home.stated_needs(task)  # type: ignore[no-any-return]
        return home.needs_of(task, max_workers, slots or {}, total_memory_bytes())  # type: ignore[no-any-return]

    return find


def default_workers(setup: Setup | None, engine: Engine | None) -> int:
    """Return `max_workers` where the user does not say it."""
    if engine is not None:
        return engine.places()
    if setup is not None and setup.cpus is not None:
        return len(setup.cpus)
    return load("procbackground._supervisor.machine").usable_cpus()  # type: ignore[no-any-return]


def supervisor_for(engine: Engine | None) -> type[Supervisor]:
    """Return the class of the supervisor."""
    if engine is not None:
        return load("procbackground._supervisor.engine_loop").EngineSupervisor  # type: ignore[no-any-return]
    return load("procbackground._supervisor.supervisor").Supervisor  # type: ignore[no-any-return]


def submitter_for(engine: Engine | None) -> type[Submitter]:
    """Return the class of what gives work to the supervisor."""
    home = load("procbackground._submit.recipes" if engine is None else "procbackground._submit.far")
    return home.Submitter if engine is None else home.FarSubmitter  # type: ignore[no-any-return]


def check_inline(journal: object, status: bool, engine: object) -> None:
    """Raise `ValueError` for what inline tasks cannot have."""
    if engine is not None:
        raise ValueError("inline tasks run in this process: leave out engine or inline")
    if journal is not None:
        raise ValueError("inline tasks are not recorded: leave out journal or inline")
    if status:
        raise ValueError("inline tasks have no status socket: leave out status or inline")


def status_server(name: str | None, max_workers: int) -> StatusServer:
    """Return a server for a manager's status, which listens already. Raises: `OSError`."""
    load("procbackground._status.server")
    from procbackground._status.server import StatusServer

    return StatusServer(name or "", max_workers)


def as_observers(observer: Any, *, progress: bool = False) -> list[Any]:
    """Return a list of none, one or several observers; one more with `progress`.

    Raises: as `names.observer_by_name`; `TypeError` for what is no observer.
    """
    given: list[Any] = []
    if isinstance(observer, str):
        given = [observer]
    elif observer is not None:
        given = list(observer) if isinstance(observer, Iterable) else [observer]
    if not given and not progress:
        return []
    from procbackground.observers import names
    from procbackground.observers.base import Observer, events_wanted_by

    observers = [names.observer_by_name(each) if isinstance(each, str) else each for each in given]
    for each in observers:
        if isinstance(each, type):
            raise TypeError(f"observer takes an object, not the class {each.__name__}; write {each.__name__}()")
        if not isinstance(each, Observer) and not events_wanted_by(each):
            raise TypeError(
                f"observer takes an Observer, and {each!r} has none of its methods; for a function, write "
                f"CallbackObserver(on_task_failed=...)"
            )
    return [*observers, names.progress_observer()] if progress else observers


def any_observes_stalls(observers: list[Any]) -> bool:
    """Return whether any of `observers` wants to know of stalled attempts."""
    load("procbackground.observers")
    from procbackground.observers import events_wanted_by

    return any("on_task_stalled" in events_wanted_by(each) for each in observers)
