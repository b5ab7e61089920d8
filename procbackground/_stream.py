"""Many tasks at once: `map` over items and `stream` over tasks, pulled no faster than they are taken."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from procbackground.handle import TaskHandle
from procbackground.task import Task

R = TypeVar("R")


def map_results(
    submit_chunk: Callable[..., TaskHandle[Any]],
    submit: Callable[..., TaskHandle[Any]],
    fn: Callable[..., R],
    iterables: tuple[Iterable[Any], ...],
    timeout_s: float | None,
    chunksize: int | None,
    buffersize: int | None,
) -> Iterator[R]:
    """The work of `Manager.map`."""
    end_s = None if timeout_s is None else time.monotonic() + timeout_s
    calls = zip(*iterables, strict=False)
    ahead = calls if buffersize is None else itertools.islice(calls, buffersize)
    handles = deque(submit(fn, *args) for args in ahead)
    return _results_in_order(handles, calls, submit, fn, end_s)


def _results_in_order(
    handles: deque[TaskHandle[Any]],
    calls: Iterator[tuple[Any, ...]],
    submit: Callable[..., TaskHandle[Any]],
    fn: Callable[..., Any],
    end_s: float | None,
) -> Iterator[Any]:
    try:
        while handles:
            remaining_s = None if end_s is None else max(0.0, end_s - time.monotonic())
            handle = handles.popleft()
            for args in itertools.islice(calls, 1):
                handles.append(submit(fn, *args))
            try:
                result = handle.result(remaining_s)
            finally:
                handle.cancel()
                del handle
            yield result
            del result
    finally:
        for handle in handles:
            handle.cancel()


class Stream(Generic[R]):
    """The iteration of `Manager.stream`; made there."""

    def __init__(
        self,
        run_task: Callable[[Task[R]], TaskHandle[R]],
        tasks: Iterable[Task[R]],
        ordered: bool,
        buffersize: int,
    ) -> None:
        self._run_task = run_task
        self._tasks = iter(tasks)
        self._ordered = ordered
        self._buffersize = buffersize
        self._out: dict[TaskHandle[R], None] = {}  # in order of submission
        self._done: SimpleQueue[TaskHandle[R]] = SimpleQueue()
        self._input_error: BaseException | None = None
        self._is_exhausted = False

    def __iter__(self) -> Iterator[TaskHandle[R]]:
        try:
            while True:
                self._fill()
                if not self._out:
                    break
                if self._ordered:
                    handle = next(iter(self._out))
                    handle.exception() if not handle.done() else None
                else:
                    handle = self._done.get()
                self._out.pop(handle, None)
                yield handle
                del handle
            if self._input_error is not None:
                raise self._input_error
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[TaskHandle[R]]:
        import asyncio

        try:
            while True:
                await asyncio.to_thread(self._fill)
                if not self._out:
                    break
                if self._ordered:
                    handle = next(iter(self._out))
                    await asyncio.wait([asyncio.wrap_future(handle)])
                else:
                    handle = await asyncio.to_thread(self._done.get)
                self._out.pop(handle, None)
                yield handle
                del handle
            if self._input_error is not None:
                raise self._input_error
        finally:
            self.close()

    def close(self) -> None:
        """Cancel what is out."""
        for handle in list(self._out):
            handle.cancel()
        self._out.clear()

    def _fill(self) -> None:
        while not self._is_exhausted and len(self._out) < self._buffersize:
            try:
                task = next(self._tasks)
            except StopIteration:
                self._is_exhausted = True
            except BaseException as error:
                self._is_exhausted = True
                self._input_error = error
            else:
                handle = self._run_task(task)
                self._out[handle] = None
                if not self._ordered:
                    handle.add_done_callback(self._note_done)

    def _note_done(self, handle: Future[R]) -> None:
        assert isinstance(handle, TaskHandle)
        self._done.put(handle)
