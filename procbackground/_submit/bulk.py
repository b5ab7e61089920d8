"""The calls of a manager for many tasks: `map` and `stream`, and `share` for what they have in common."""

from __future__ import annotations

from concurrent.futures import Executor

from procbackground._load import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Iterator
    from typing import Any, Literal, TypeVar, overload

    from procbackground._submit.recipes import Submitter
    from procbackground._submit.stream import Stream
    from procbackground.shared import Shared
    from procbackground.task import Task

    R = TypeVar("R")
    T = TypeVar("T")


class BulkCalls(Executor):
    """What `Manager` and its views have by inheritance."""

    _supervisor: Any  # a `Port`
    _submitter: Submitter
    _max_workers: int

    if TYPE_CHECKING:

        @overload
        def map(
            self,
            fn: Callable[..., R],
            *iterables: Iterable[Any],
            timeout: float | None = None,
            chunksize: int | None = None,
            buffersize: int | None = None,
            return_exceptions: Literal[False] = False,
            progress: bool = False,
        ) -> Iterator[R]: ...

        @overload
        def map(
            self,
            fn: Callable[..., R],
            *iterables: Iterable[Any],
            timeout: float | None = None,
            chunksize: int | None = None,
            buffersize: int | None = None,
            return_exceptions: bool,
            progress: bool = False,
        ) -> Iterator[R | BaseException]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        progress: bool = False,
    ) -> Iterator[Any]:
        """Return an iterator over `fn` applied to the items, in their order, as Python 3.14's `Executor.map`.

        The items are taken and sent at once; with `buffersize` only that many ahead of the results taken, by a thread
        of its own, in a copy of the caller's context: each result comes when it is there, also while an iterable
        blocks. `chunksize` items are sent together; by default as many as make one to five milliseconds of work. If
        items turn out slower than those before, those of a chunk that have not begun are sent again in smaller chunks.
        An item that raises, times out or kills its worker fails alone, whichever chunk it was in: the iterator raises
        its error when it is that item's turn. Items of one chunk that ran in the milliseconds before a death run again;
        with a chunk size of 1 none does. Waits for room in a full queue, whatever `when_full` says.

        Args:
            timeout: seconds from now within which each result must be there; `TimeoutError` past that.
            chunksize: with a journal, each item is a task of its own, whatever this says.
            buffersize: with a `chunksize`, of chunks.
            return_exceptions: yield the error of an item in its place, and go on. What is wrong with the iteration
                itself (an iterable that raises, `timeout`, a manager that is closed) is raised all the same.
            progress: whether to show a bar of the items that are done, as `Manager(progress=True)` does; such a
                manager shows them anyway. The total is known if an iterable has a length.
        Raises (now): `ValueError` for a chunk or buffer size below 1; as `run`.
        """
        load("procbackground._submit.checks").check_map(
            fn, iterables, timeout, chunksize, buffersize, self._submitter.fields, return_exceptions, progress
        )
        is_apart = self._supervisor.is_inline or self._submitter.make_keyed_job is not None
        return load("procbackground._submit.map.start").start_map(  # type: ignore[no-any-return]
            self._submitter,
            fn,
            iterables,
            timeout_s=timeout,
            chunksize=1 if is_apart else chunksize,
            buffersize=buffersize,
            returns_exceptions=return_exceptions,
            workers=self._max_workers,
            is_apart=self._submitter.runs_apart,
            keeper=self,
            is_told=self._supervisor.tells_tasks,
            shows_progress=progress and not self._submitter.defaults.shows_progress,
        )

    def stream(
        self,
        tasks: Iterable[Task[R]] | AsyncIterable[Task[R]],
        *,
        ordered: bool = False,
        buffersize: int | None = None,
    ) -> Stream[R]:
        """Run the tasks of an iterable, pulled lazily, and yield each one's handle once it is done.

        At most `buffersize` tasks (by default, 64 for each worker) are submitted and not yet yielded: the way to run
        ten million tasks in flat memory. With `ordered` the handles come in the order of the tasks, else as they are
        done. Leaving the iteration early cancels the submitted tasks. Works in `for` and, without blocking the event
        loop, in `async for`. If the iterable raises, the submitted tasks are yielded first, then that is raised.

        The iterable is pulled ahead by a thread of its own, in a copy of the caller's context: handles come also while
        it blocks, and it may block for ever without holding up anything else. In `async for` it may be asynchronous;
        then it is pulled by a task of the event loop. Waits for room in a full queue, whatever `when_full` says.
        """
        checks = load("procbackground._submit.checks")
        checks.check_buffersize(buffersize)
        checks.check_flag("ordered", ordered)
        checks.check_iterable("stream", tasks, "an iterable of tasks")
        submit_task = self._submitter.waiting_for_room().submit_task
        make: type[Stream[R]] = load("procbackground._submit.stream").Stream
        return make(self._supervisor, submit_task, tasks, ordered, buffersize or 64 * self._max_workers, self)

    def share(self, value: T) -> Shared[T]:
        """Lay `value` down in shared memory, once for all workers of a machine; return what to give to tasks instead.

        A task that gets the `Shared`, in its arguments or its function at any depth, receives the value: its arrays
        (of numpy, pandas, Arrow: whatever pickle's protocol 5 takes out of band) and memoryviews are mapped read-only,
        without a copy, and a write to them raises `ValueError`. Each worker unpickles the value once. `bytes` and other
        objects are copied into each worker at that moment; share a `memoryview` of large bytes instead. The value is
        as it was at this call. Its memory is freed with the last reference to the `Shared`, or when the manager closes.

        Raises (now): `ManagerClosedError`; `SerializationError`, naming what cannot be pickled; `OSError` where memory,
        disk or descriptors do not suffice.
        Fails with (later), where a task cannot load it: `SerializationError`.
        """
        make: type[Shared[T]] = load("procbackground.shared").Shared
        return make(self._supervisor.share(value))
