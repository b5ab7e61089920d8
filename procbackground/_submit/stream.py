"""The work of `Manager.stream`: many tasks, pulled no faster than they are taken."""

from __future__ import annotations

from _thread import LockType
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from procbackground.handle import Owner, TaskHandle
from procbackground.task import Task

R = TypeVar("R")


class Streamed(TaskHandle[R]):
    """A handle that goes to its stream once it is done.

    A done-callback would do the same by way of a condition, a list and another thread, for twice the price of the
    whole task.
    """

    __slots__ = ("_done",)

    def __init__(self, owner: Owner, task: Task[R], done: SimpleQueue[TaskHandle[R]]) -> None:
        super().__init__(owner, None, task)
        self._done = done

    def _settle(
        self,
        state: str,
        result: Any,
        exception: BaseException | None,
        sleepers: list[LockType] | None = None,
    ) -> bool:
        has_callbacks = super()._settle(state, result, exception, sleepers)
        self._done.put(self)
        return has_callbacks


class Stream(Generic[R]):
    """The iteration of `Manager.stream`; made there.

    An exception that interrupts it at any point (Ctrl-C, say) ends it: the submitted tasks are cancelled, or run to
    their end, and the manager keeps working.

    Args:
        keeper: the manager, which must live as long as this object.
    """

    def __init__(
        self,
        owner: Owner,
        submit_task: Callable[[TaskHandle[R], Task[R]], None],
        tasks: Iterable[Task[R]],
        ordered: bool,
        buffersize: int,
        keeper: object = None,
    ) -> None:
        self._owner = owner
        self._submit_task = submit_task
        self._tasks = iter(tasks)
        self._ordered = ordered
        self._buffersize = buffersize
        self._keeper = keeper
        self._out: dict[TaskHandle[R], None] = {}  # in order of submission
        self._done: SimpleQueue[TaskHandle[R]] = SimpleQueue()
        self._input_error: Exception | None = None
        self._is_exhausted = False
        self._is_closed = False

    def __iter__(self) -> Iterator[TaskHandle[R]]:
        try:
            while True:
                self._fill()
                if not self._out:
                    break
                if self._ordered:
                    handle = next(iter(self._out))
                    if not handle.done():
                        handle._wait(None)
                else:
                    handle = self._done.get()
                self._out.pop(handle, None)
                yield handle
                del handle
            if self._input_error is not None:
                raise self._input_error
        except GeneratorExit:
            self._close_soon()
            raise
        except BaseException:
            self.close()
            raise

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
        except GeneratorExit:
            self._close_soon()
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancel the submitted tasks and submit no more. If an exception interrupts this call, it can be repeated."""
        self._is_closed = True
        for handle in list(self._out):
            handle.cancel()
        self._out.clear()

    def _close_soon(self) -> None:
        # The garbage collector may be what ends us, in any thread, at any point, with any lock held.
        self._is_closed = True
        self._owner.do_soon(self.close)

    def _fill(self) -> None:
        while not self._is_exhausted and not self._is_closed and len(self._out) < self._buffersize:
            try:
                task = next(self._tasks)
            except StopIteration:
                self._is_exhausted = True
            except Exception as error:  # an interrupt, an exit or a cancellation ends the stream at once instead
                self._is_exhausted = True
                self._input_error = error
            else:
                handle: TaskHandle[R]
                if self._ordered:
                    handle = TaskHandle(self._owner, None, task)
                else:
                    handle = Streamed(self._owner, task, self._done)
                self._submit_task(handle, task)
                self._out[handle] = None
                if self._is_closed:  # another thread closes the stream, and may have missed this one
                    handle.cancel()
