"""Makes the parts of a manager: checks each of its options, and gives it to the part that it is for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

from procbackground._load import load
from procbackground._submit import checks
from procbackground._submit.closing import register_for_exit
from procbackground._submit.defaults import Defaults
from procbackground._submit.recipes import Submitter
from procbackground.retry import Retry
from procbackground.task import Output, as_duration, check_args, check_size

if TYPE_CHECKING:
    from contextvars import ContextVar
    from multiprocessing.context import BaseContext

    from procbackground._supervisor.supervisor import Supervisor
    from procbackground.engines import Engine
    from procbackground.observers import Observer


def make_parts(
    *,
    max_workers: int | None,
    mp_context: BaseContext | str | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    max_tasks_per_child: int | None,
    observer: Observer | str | Iterable[Observer | str] | None,
    progress: bool,
    retry: Retry | int | None,
    timeout: float | None,
    stalled_threshold: float | None,
    memory_limit: float | str | None,
    output: Output,
    max_pending: int | None,
    when_full: Literal["wait", "raise"],
    grace: float,
    start_timeout: float,
    min_free_memory: int | str | None,
    preload: Sequence[str],
    threads_per_task: int | None,
    env: Mapping[str, str | None] | None,
    cwd: str | os.PathLike[str] | None,
    nice: int,
    cpu_affinity: Iterable[int] | None,
    context: Iterable[ContextVar[Any]],
    inline: bool,
    journal: str | os.PathLike[str] | None,
    exit_timeout: float | None,
    main_import: str,
    name: str | None,
    status: bool,
    slots: Mapping[str, int] | None,
    max_pending_bytes: float | str | None,
    engine: Engine | None,
) -> tuple[Any, Submitter, int]:
    """Return the supervisor of a manager, what gives it work, and the number of workers.

    The options are `Manager`'s. It is long because they are many: each is checked here, and goes to its part.
    """
    checks.check_plain(name, progress=progress, inline=inline, status=status)
    context_in_use = checks.context_of(mp_context)
    checks.check_workers(max_workers, context_in_use, initializer, max_tasks_per_child, max_pending)
    max_pending_bytes = checks.checked_when_full(when_full, max_pending_bytes)
    grace = as_duration("grace", grace, may_be_zero=True)
    start_timeout = as_duration("start_timeout", start_timeout)
    exit_timeout = checks.checked_timeout(exit_timeout, "exit_timeout")
    from_parent = checks.what_children_get(main_import, engine)
    setup = checks.setup_of_children(threads_per_task, env, cwd, nice, cpu_affinity)
    machine = load("procbackground._supervisor.machine")
    max_workers = checks.default_workers(setup, engine) if max_workers is None else max_workers
    observers = checks.as_observers(observer, progress=progress)
    carrier = checks.carrier_of(context, observers, engine)
    defaults = Defaults(
        retry, timeout, stalled_threshold, memory_limit, checks.any_observes_stalls(observers),
        output=output, shows_progress=progress,
        find_needs=checks.needs_finder(max_workers, slots, env, machine.total_memory_bytes, engine),
    )  # fmt: skip
    initargs, preload = check_args("initargs", initargs), checks.checked_preload(preload)
    first_call = None if initializer is None else (initializer, initargs)
    if inline:
        checks.check_inline(journal, status, engine)
        home = load("procbackground._supervisor.inline")
        stand_in = home.InlineSupervisor(context_in_use, first_call, observers, slots or {}, grace)
        return stand_in, Submitter(stand_in, defaults, {}, carrier), max_workers
    checks.check_threads()
    servers = [checks.status_server(name, max_workers)] if status else []
    with ExitStack() as undo:  # else a socket that is listened to by no manager would stay, and the journal be in use
        undo.callback(checks.discard_all, servers)
        writer, make_keyed_job = checks.journal_at(journal)
        if writer is not None:
            undo.callback(writer.stop, 0.0)
        supervisor: Supervisor = checks.supervisor_for(engine)(
            context=context_in_use,
            max_workers=max_workers,
            max_tasks_per_child=max_tasks_per_child,
            initializer=first_call,
            observers=[*observers, *servers],
            keeps_spare=defaults.retry is not None and defaults.retry.can_retry,
            max_pending=max_pending,
            refuses_when_full=when_full == "raise",
            grace_s=grace,
            start_timeout_s=start_timeout,
            min_free_bytes=None if min_free_memory is None else check_size("min_free_memory", min_free_memory),
            preload=preload,
            setup=setup,
            journal=writer,
            exit_timeout_s=exit_timeout,
            slots=slots,
            max_pending_bytes=max_pending_bytes,
            **from_parent,
        )
        undo.pop_all()
    _begin(supervisor, servers)
    return supervisor, checks.submitter_for(engine)(supervisor, defaults, {}, carrier, make_keyed_job), max_workers


def _begin(supervisor: Supervisor, servers: Sequence[Any]) -> None:
    """Have the manager closed at exit, and its status served; close it where that fails."""
    with ExitStack() as undo:
        undo.callback(supervisor.close, 0.0)  # which stops the servers, too: they observe the end
        register_for_exit(load("procbackground._supervisor.supervisor").close_all_at_exit)
        for server in servers:
            server.start(load("procbackground._supervisor.overview").Overview(supervisor))
        undo.pop_all()
