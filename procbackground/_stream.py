"""The work of `Manager.stream`: many tasks, pulled no faster than they are taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

from procbackground.handle import TaskHandle
from procbackground.task import Task

R = TypeVar("R")


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
