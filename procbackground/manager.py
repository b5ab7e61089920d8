"""`Manager`: its options, the questions that it answers, and its end. Its calls for tasks are those of `_submit`."""

from __future__ import annotations

from contextlib import contextmanager

from procbackground import _headstart
from procbackground._compat import ExecutorInternals
from procbackground._load import aside, load
from procbackground._submit.calls import TaskCalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextvars import ContextVar
    from multiprocessing.context import BaseContext
    from typing import Any, Literal, NoReturn

    from procbackground._report.run import RunReport
    from procbackground.engines import Engine
    from procbackground.observers import Observer
    from procbackground.report import CloseReport, ProcessInfo, Stats
    from procbackground.retry import Retry
    from procbackground.task import Output, TaskType


class Manager(TaskCalls, ExecutorInternals):
    """Runs functions in supervised child processes: a `concurrent.futures.Executor`, and more.

        with Manager(max_workers=8, retry=3, timeout=60) as manager:  # leaving the block is `close()`
            handle = manager.run(crunch, "part-0001.parquet")         # a Future: `handle.result()`
            sizes = list(manager.map(measure, paths))                 # in order; `stream` for millions

    What a call raises at once, and what its handle fails with later, is said at `run`. Safe from any thread.
    Raises (now): `TypeError` or `ValueError`, naming the argument, its value and what it takes.

    Workers are started only as they are needed. The first manager of a program starts an interpreter at once, with the
    default context on Linux, which imports what workers need while this process imports its own part.

    Args:
        max_workers: one-off tasks that run at once; by default one for each CPU this process may use, by its affinity
            and its container's quota (rounded up). Loops have a process of their own beside them.
        mp_context: a `multiprocessing` context, or a start method's name; by default `forkserver`, else `spawn`.
        initializer, initargs: called in each worker before its first task. If it raises, the manager is broken:
            tasks fail with `InitializerError`.
        max_tasks_per_child: tasks after which a worker is replaced; by default it never is.
        observer: an `Observer`, or the name of one, such as "loguru", or an iterable of them. Other names are looked up
            as entry points of the group `procbackground.observers`.
        progress: whether to show how far the tasks are, on standard error, by `rich`, `tqdm` or plain lines.
        retry: a `Retry`, or an int (that many attempts in total), for tasks without their own; default one attempt.
        timeout: seconds that one attempt may run, for tasks without their own.
        stalled_threshold: seconds of silence after which an attempt is reported as stalled, likewise.
        memory_limit: bytes that an attempt's process tree may hold, likewise; or a text: "2GiB" and "2G" are powers of
            1024, "2GB" of 1000.
        output: where the output of tasks without their own `output` goes: "inherit", "capture", "relay", "tagged" or a
            path; see `Task`.
        max_pending: tasks that may wait, for a worker or their next attempt, those of all callers together.
        max_pending_bytes: bytes (or a text) that their arguments may have; by default a quarter of the free memory, and
            no limit with `math.inf`. A task that is larger by itself is let in when no other waits.
        when_full: what `run` and `run_task` do then: "wait" blocks, first come, first served, except in a thread with a
            running event loop, where awaiting the handle is the wait and the queue grows; "raise" raises
            `QueueFullError`, in an event loop too.
        grace: seconds between SIGTERM and SIGKILL where a running task is stopped.
        start_timeout: seconds within which a starting worker must be ready: have imported the main module, and run
            the initializer. Past them the manager is broken, as by an initializer that raises; once some worker has
            been ready, only when three in a row are late. Also the longest that a worker may take to load the function
            of a task, and what that imports: past it the attempt is stopped; a `timeout` begins after that. A warning
            is logged after half a minute.
        min_free_memory: bytes (or "1GiB") of the machine's memory, or of the container's limit, that must stay free:
            while fewer are free, no attempt begins. Running attempts continue; observers get an event. By default free
            memory is not checked. If that lasts for `start_timeout` while no task runs, those that wait fail with
            `MemoryLimitError`.
        slots: what there is for tasks to need, by name: `{"gpu": 4}`, numbered from 0. A task with `slots={"gpu": 1}`
            has one to itself, in a process that is kept for it. `current().slots` has the numbers; those of "gpu" set
            CUDA_VISIBLE_DEVICES before anything is imported. If that names devices already, they count among these.
        preload: modules that workers find imported already (with the default context on Linux). One that cannot be
            imported is left out.
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
        inline: run each task in the thread that gives it, without a process, for debuggers and tests: `run` returns
            when the task has ended, a loop runs in a thread. Handles, retries, events and slots are the same. Limits,
            `cores`, `memory`, `output`, `env`, `cwd`, `nice` and `cpu_affinity` do nothing, and a task that kills its
            process kills yours. Not with `journal`.
        journal: a file (SQLite) that records every one-off by its key, `Task(key=...)`. Work that has succeeded in an
            earlier run is not done again: its handle gets the stored result at once, and has no attempts. What was
            queued or running when the program was killed, or failed, runs again. By default the key is made from the
            name of the function and the content of the arguments. So a batch continues after its function was
            corrected, and whatever the order of its tasks; `f(1)` and `f(x=1)` are different work. A lambda or nested
            function counts by its code. Tasks of one key that are out at once are run once, with the limits of the
            first. Loops are not recorded.
            A handle is done once its end is on the disk. If the file cannot be written later on (the disk is full,
            say), tasks continue, handles get their results, the log has an error, and the report of `close` counts
            the results that the file does not have. Results are pickles: use only journals that you trust.
            Raises (now): `JournalError` for a file that is in use by another manager, is damaged or read-only, belongs
            to another program, or to a newer version of this one.
        name: of the manager, for people: its status shows it.
        status: whether to offer a status socket, by which `procbackground top` watches this manager, cancels tasks,
            and ends it. It is for this user alone. Raises (now): `OSError` where no socket can be made.
        engine: runs attempts elsewhere, `max_workers` at once: see `procbackground.engines`. `slots` are then those of
            each node that declares none of their names.
        exit_timeout: seconds that an interpreter which exits waits for the tasks of a manager that was not closed; by
            default until they are done. Past them it cancels queued tasks and stops running ones, as `close` does, and
            names them on stderr. A program that an exception ends, such as Ctrl-C's, drops its tasks at once.
        main_import: who imports the main module, with the default context on Linux: "each" worker for itself, as
            `multiprocessing` does; or "once" a process of which workers are then quick copies, which share what the
            import has opened, and draw the same numbers from a random generator that it has made. By default "auto":
            once where the import leaves neither open files, connections, shared memory, processes, threads nor
            generators of `random` or numpy, else each.

    Workers have the environment variables, umask, directory, `sys.path` and resource limits that the parent has when
    the manager is made, whatever the start method. What Python reads as it starts is that of the process that starts
    them: the hash seed, warning filters and encodings; with a fork server, as they were at its start.

    If a starting worker cannot be given its `cwd`, niceness or CPUs, tasks fail with `InitializerError`.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        observer: Observer | str | Iterable[Observer | str] | None = None,
        progress: bool = False,
        retry: Retry | int | None = None,
        timeout: float | None = None,
        stalled_threshold: float | None = None,
        memory_limit: float | str | None = None,
        output: Output = "inherit",
        max_pending: int | None = None,
        when_full: Literal["wait", "raise"] = "wait",
        grace: float = 5.0,
        start_timeout: float = 300.0,
        min_free_memory: int | str | None = None,
        preload: Sequence[str] = (),
        threads_per_task: int | None = None,
        env: Mapping[str, str | None] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        nice: int = 0,
        cpu_affinity: Iterable[int] | None = None,
        context: Iterable[ContextVar[Any]] = (),
        inline: bool = False,
        journal: str | os.PathLike[str] | None = None,
        exit_timeout: float | None = None,
        main_import: str = "auto",
        name: str | None = None,
        status: bool = False,
        slots: Mapping[str, int] | None = None,
        max_pending_bytes: float | str | None = None,
        engine: Engine | None = None,
    ) -> None:
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        try:
            if not inline and engine is None:
                aside(lambda: _headstart.begin(mp_context))
                load("procbackground._supervisor.supervisor")  # all at once: the collector pauses during the first call
            # Only now: a child imports this module with the main module that uses it, and makes no manager.
            super().__init__(*load("procbackground._submit.making").make_parts(**options))
        except BaseException:
            _headstart.drop()
            raise

    # -- asking and waiting --------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Block until no one-off is queued, running or waiting for its retry; return False past `timeout` seconds."""
        return self._supervisor.wait(load("procbackground._submit.checks").time_left(timeout))

    def count_of(self, type: TaskType | str) -> int:
        """Return how many tasks of that type have not ended. Raises: `UnknownTaskTypeError`."""
        return self._supervisor.count(loops=load("procbackground._submit.recipes").task_type(type) == "loop")

    def stats(self) -> Stats:
        """Return the counters since the manager's start."""
        return self._supervisor.stats()

    def processes(self) -> list[ProcessInfo]:
        """Return a snapshot of the workers; its figures are taken in this call, for whole process trees.

        With an engine, of those of all nodes that answer within 2 seconds.
        """
        return self._supervisor.processes()

    def report(self) -> RunReport:
        """Return the figures of the run so far: per task name how many, how long and how large, and who was busy when.

        They are collected with and without observers, in a bounded size: `print(manager.report())`, or
        `manager.report().html("run.html")`. Also after the close.
        """
        return self._supervisor.report()

    def dump(self) -> str:
        """Return a line of status, and the Python stacks of all that runs now, as in tracebacks.

        For people: the format may change. Raises: `ManagerClosedError` in a fork.
        """
        return "\n".join([repr(self), *map(str, self._supervisor.stacks())])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, '_supervisor', 'not made')}>"

    # -- ending --------------------------------------------------------------------------------------------

    def cancel(self, timeout: float | None = None) -> bool:
        """End loops after their running iteration; those added later are not run. One-offs continue.

        Blocks until they have ended, `timeout` seconds at the most; returns whether they all have.
        """
        return self._supervisor.end_loops(load("procbackground._submit.checks").time_left(timeout))

    def close(self, timeout: float | None = None) -> CloseReport:
        """Accept nothing more, end loops, let one-offs finish; then leave nothing behind.

        Past `timeout` seconds queued tasks are cancelled, and the process trees of running ones get SIGTERM and,
        `grace` seconds later, SIGKILL. Afterwards no child, thread or descriptor is left, every handle is done and
        every event has reached its observer; if not, the report's `leftovers` and `left` say so. Never waits longer
        than timeout, grace and a few seconds together.
        Idempotent, and safe from any thread; a second call with a shorter timeout hastens the first.
        """
        return self._supervisor.close(load("procbackground._submit.checks").checked_timeout(timeout))

    @contextmanager
    def closing_on(self, *signals: int, timeout: float | None = None) -> Iterator[Manager]:
        """Close when one of `signals` comes: a context manager, for the main thread.

        The first signal starts `close(timeout)`, a second one stops everything at once. On leaving, the old
        handlers are back, and a close that was started is over. Handlers that the program has set by `signal.signal`
        are called, too, and those of an event loop are, whether they were set before or within the block. A handler
        that `signal.signal` sets within the block replaces the one of the block.
        Raises: `ValueError` in another thread, or without signals.
        """
        self._supervisor.check_usable()
        timeout = load("procbackground._submit.checks").checked_timeout(timeout)
        with load("procbackground._submit.closing").closing_on_signals(self._supervisor, signals, timeout):
            yield self

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: object, traceback: object) -> None:
        # An exception that leaves the block (Ctrl-C too) means that the other results are not wanted.
        if not self._supervisor.is_foreign:  # a fork leaves the block, too, and the manager is its parent's
            load("procbackground._submit.closing").close_block(self._supervisor, exc_type)

    async def __aenter__(self) -> Manager:
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: object, traceback: object) -> None:
        if not self._supervisor.is_foreign:
            await load("procbackground._submit.closing").close_block_async(self._supervisor, exc_type)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Manager belongs to the process that made it; a task can make one of its own")

    def __del__(self) -> None:
        # A manager that is dropped lets its tasks finish, and goes away with its workers.
        supervisor = getattr(self, "_supervisor", None)
        if supervisor is not None:
            supervisor.ask_to_close(None)
