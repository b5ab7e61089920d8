"""A backend for joblib, and so for scikit-learn: `joblib.parallel_config(backend="procbackground")`.

Importing this module registers it. joblib cuts the calls into batches and tunes their size; each batch is a task of a
manager, so it has the manager's limits and retries, a worker that dies costs its own batch at the most, and a call
that fails, runs over joblib's `timeout` or is abandoned has its running batches stopped.

An array of a megabyte or more that many batches of a call have is copied once, as joblib's own backends do with their
memory maps: so it must not change while the call runs.
"""

from __future__ import annotations

import copyreg
import multiprocessing
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from threading import RLock, get_ident
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

try:
    from joblib.parallel import (  # pyright: ignore[reportMissingImports]
        AutoBatchingMixin,
        BatchedCalls,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
        cpu_count,
        register_parallel_backend,
    )
except ImportError as _missing:
    raise ImportError(
        "procbackground.joblib needs joblib 1.5 or later: pip install 'procbackground[joblib]'"
    ) from _missing

from procbackground._sync import Latch
from procbackground._wire.copies import Keeper, keeping
from procbackground.handle import TaskHandle
from procbackground.manager import Manager
from procbackground.task import Task, qualified_name

__all__: list[str] = []  # to import it is all that there is to do

# Options that joblib passes to every backend. They are of no use here: large arrays cross in memory as they are.
_FOR_OTHER_BACKENDS = frozenset({"context", "max_nbytes", "mmap_mode", "temp_folder", "verbose"})

_ABORT_S = 1.0  # for a thread that passes a batch to joblib; it takes microseconds


class _Backend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib is untyped
    """Runs joblib's batches in a manager.

    The manager is made for the first call and kept for later ones with the same `n_jobs` and options; it goes with
    the backend, that is, with the block of `parallel_config`, or with the `Parallel` object.

    Args:
        manager: run in this one, which stays open. Its `max_workers` bounds what runs at once.
        options: what else `Manager` takes, `timeout` (of a batch), `memory_limit` and `retry` for instance. BLAS and
            its like get as many threads in each worker as there are CPUs for it, unless `threads_per_task`, joblib's
            `inner_max_num_threads` or the environment say otherwise.
    """

    supports_retrieve_callback = True  # and with it return_as="generator" and Parallel(timeout=...)
    supports_inner_max_num_threads = True

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        manager: Manager | None = None,
        **options: Any,
    ) -> None:
        if "max_workers" in options:
            raise TypeError("joblib's n_jobs says how many workers there are, not max_workers")
        if manager is not None and options:
            raise TypeError(f"{', '.join(options)}: give them to the manager that you bring")
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **options)
        self._options = options
        self._given = manager
        self._manager = manager
        self._made_with: dict[str, Any] | None = None
        self._calls: WeakKeyDictionary[Any, _Call] = WeakKeyDictionary()  # the latest of each `Parallel` object
        self._loose = _Call(None)  # for batches that belong to no call

    # -- before and after a call of Parallel ---------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int | None) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return how many batches can run at once, for joblib's `n_jobs`: -1 is one for each CPU."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if multiprocessing.current_process().daemon:
            if n_jobs != 1:
                warnings.warn("a daemonic process may not start others: setting n_jobs=1", stacklevel=3)
            return 1
        most: int = cpu_count() if self._given is None else self._given._max_workers
        if n_jobs < 0:
            return max(most + 1 + n_jobs, 1)
        return n_jobs if self._given is None else min(n_jobs, most)

    def configure(  # pyright: ignore[reportIncompatibleMethodOverride]  # the base's returns are not typed
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **options: Any
    ) -> int:
        """Get ready for a call; return how many batches can run at once."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        own = {name: value for name, value in options.items() if name not in _FOR_OTHER_BACKENDS}
        if self._given is None:
            self._make_manager({**self._options, **own}, n_jobs)
        elif own or self.inner_max_num_threads is not None:
            names = ", ".join(own) or "inner_max_num_threads"
            raise TypeError(f"{names}: give it to the manager that you bring (threads: `threads_per_task`)")
        return n_jobs

    def _make_manager(self, options: dict[str, Any], n_jobs: int) -> None:
        if self.inner_max_num_threads is not None or "threads_per_task" not in options:
            caps = self._prepare_worker_env(n_jobs=n_jobs)
            options = {**options, "env": {**caps, **(options.get("env") or {})}}
        options["max_workers"] = n_jobs
        if self._manager is not None and not self._manager._supervisor.is_refusing:
            if options == self._made_with:
                return
            self._manager.shutdown(wait=False)
        self._manager = Manager(**options)
        self._made_with = options

    def start_call(self) -> None:
        """A call begins, in the caller's thread."""
        # joblib keeps the batches that it has cut and not given yet, and would run those of a failed call in this one.
        ready = getattr(self.parallel, "_ready_batches", None)
        while ready is not None and not ready.empty():
            ready.get_nowait()

    def terminate(self) -> None:
        """A call is over; the workers stay for the next."""
        self.reset_batch_stats()
        call = None if self.parallel is None else self._calls.get(self.parallel)
        if call is not None and call.arrays is not None:
            call.arrays.clear()
        self.parallel = None  # it has us, too: without the circle we go with it at once, and the workers with us

    # -- batches -------------------------------------------------------------------------------------------

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> TaskHandle[Any]:
        """Run a batch; `callback` gets its handle when it is done."""
        assert self._manager is not None
        # The batch is an argument, not the function: large parts of it are sent in memory files, as arguments are.
        task = Task(_run_batch, args=(func,), name=_name_of(func))
        call = self._call_of(callback)
        # In a copy: two threads may not be in one context at a time.
        handle: TaskHandle[Any] = call.context.copy().run(_run_when_there_is_room, self._manager, task, call.arrays)
        call.handles.add(handle)
        handle.add_done_callback(call.handles.discard)
        if callback is not None:
            handle.add_done_callback(partial(call.finish, callback))
        return handle

    def _call_of(self, callback: Any) -> _Call:
        """Return the call that a batch belongs to; the first batch of each is given in the caller's thread."""
        parallel, name = getattr(callback, "parallel", None), getattr(callback, "parallel_call_id", None)
        if parallel is None:
            return self._loose
        call = self._calls.get(parallel)
        if call is None or call.name != name:
            call = self._calls[parallel] = _Call(name)
        return call

    def retrieve_result_callback(self, out: TaskHandle[Any]) -> Any:
        """Return the results of a batch that is done, or raise what it failed with."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop the batches of a call that failed, also the running ones; the manager keeps working."""
        # Several `Parallel` objects may use this backend; joblib marks the one that it aborts.
        for parallel, call in list(self._calls.items()):
            if getattr(parallel, "_aborting", True):
                call.abort()
        self._loose.abort()


class _Call:
    """One call of a `Parallel` object. Once it is aborted, no batch of it reaches the object, which may be in its next
    call by then: joblib checks for that once at the end of each batch, and then counts the batch and gives more."""

    def __init__(self, name: str | None) -> None:
        self.name = name  # joblib's
        self.context = copy_context()  # the caller's; later batches are given by whichever thread ends an earlier one
        self.handles: set[Future[Any]] = set()
        self.arrays = None if name is None else Keeper()  # those that its batches have in common
        # Never held while joblib is called: its own lock may be held by a thread that comes here next.
        self._lock = RLock()
        self._inside: list[tuple[int, Latch]] = []  # the threads that call joblib, each with what it sets afterwards
        self._is_over = False

    def finish(self, callback: Callable[[Any], Any], handle: Future[Any]) -> None:
        """Pass a batch that is done to joblib."""
        me = get_ident(), Latch()
        with self._lock:
            if self._is_over:
                return
            self._inside.append(me)
        try:
            callback(handle)
        finally:
            self._inside.remove(me)
            me[1].set()

    def abort(self) -> None:
        """Stop what is out, and wait until no other thread is in `finish`."""
        with self._lock:
            self._is_over = self.name is not None
            inside = list(self._inside)
        for handle in list(self.handles):
            handle.cancel()
        # Not for ever: the thread may be taking items of the caller's iterable, and then joblib's own lock protects
        # the next call.
        end_s = monotonic() + _ABORT_S
        for ident, has_left in inside:
            if ident != get_ident():
                has_left.wait(end_s - monotonic())
        for handle in list(self.handles):  # given meanwhile
            handle.cancel()


def _reduce_batch(batch: BatchedCalls) -> tuple[Any, ...]:
    """Pickle a batch for any backend's workers such that the backend of this module can be named there, too."""
    rebuild, args = batch.__reduce__()
    return _load_batch, (rebuild, args)


def _load_batch(rebuild: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return rebuild(*args)  # the import of this module has registered the backend


def register(make_default: bool = False) -> None:
    """Let joblib know the backend as "procbackground"; importing this module has done so.

    Args:
        make_default: what names no backend runs here, too.
    """
    register_parallel_backend("procbackground", _Backend, make_default=make_default)
    copyreg.pickle(BatchedCalls, _reduce_batch)


def _run_when_there_is_room(manager: Manager, task: Task[Any], arrays: Keeper | None) -> TaskHandle[Any]:
    """Do as `Manager.run_task`, but wait for room in a full queue, whatever `when_full` says.

    joblib bounds by itself what it gives, and a refusal would end the call.
    """
    handle: TaskHandle[Any] = TaskHandle(manager._supervisor, None, task)
    with keeping(arrays):
        manager._submitter.waiting_for_room().submit_task(handle, task)
    return handle


def _run_batch(batch: Callable[[], Any]) -> Any:
    return batch()


def _name_of(batch: Any) -> str:
    """Return the name of the task that runs a batch: that of what it calls."""
    items = getattr(batch, "items", None)
    if not items:
        return qualified_name(batch)
    return qualified_name(items[0][0])


register()
