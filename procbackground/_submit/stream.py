"""The work of `Manager.stream`: many tasks, pulled no faster than they are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from procbackground._submit.port import Port
from procbackground._submit.puller import make_puller
from procbackground._sync import Bell, Sleeper
from procbackground.handle import TaskHandle
from procbackground.task import Task

R = TypeVar("R")


class _Coming:
    """The handles of a stream that are to be yielded, in this order; apart from the stream, which handles outlive."""

    __slots__ = ("are_ordered", "handles", "news")

    def __init__(self, are_ordered: bool, news: Bell) -> None:
        self.are_ordered = are_ordered  # else a handle is added when it is done
        self.handles: deque[TaskHandle[Any]] = deque()
        self.news = news

    def has_next(self) -> bool:
        """Whether the next handle is there, and done."""
        return bool(self.handles) and (not self.are_ordered or self.handles[0].done())

    def add(self, handle: TaskHandle[Any]) -> None:
        """Put an ordered handle behind the others."""
        self.handles.append(handle)
        if self.news.sleepers and handle.done():  # else the consumer is woken when it is
            self.news.ring()

    def note_done(self, handle: TaskHandle[Any], sleepers: list[Sleeper] | None) -> None:
        """Wake the consumer, if it waits for this handle. In the supervisor thread."""
        if not self.are_ordered:
            self.handles.append(handle)
        if self.news.sleepers and (not self.are_ordered or self._is_next(handle)):
            self.news.ring(sleepers)

    def _is_next(self, handle: TaskHandle[Any]) -> bool:
        try:
            return self.handles[0] is handle
        except IndexError:
            return False  # it is not added yet: `add` will find it done


class Streamed(TaskHandle[R]):
    """A handle that tells its stream once it is done.

    A done-callback would do the same by way of a condition, a list and another thread, for twice the price of the
    whole task.
    """

    __slots__ = ("_coming",)

    def __init__(self, port: Port, task: Task[R], coming: _Coming) -> None:
        super().__init__(port, None, task)
        self._coming = coming

    def _settle(
        self,
        state: str,
        result: Any,
        exception: BaseException | None,
        sleepers: list[Sleeper] | None = None,
    ) -> bool:
        has_callbacks = super()._settle(state, result, exception, sleepers)
        self._coming.note_done(self, sleepers)
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
        port: Port,
        submit_task: Callable[[TaskHandle[R], Task[R]], None],
        tasks: Iterable[Task[R]] | AsyncIterable[Task[R]],
        ordered: bool,
        buffersize: int,
        keeper: object = None,
    ) -> None:
        self._port = port
        self._submit_task = submit_task
        self._buffersize = buffersize
        self._keeper = keeper
        self._out: dict[TaskHandle[R], None] = {}  # submitted, and not yielded
        # An object that is both is taken as what every iteration can use.
        self._is_async = not hasattr(type(tasks), "__iter__") and hasattr(type(tasks), "__aiter__")
        source: Any = aiter(tasks) if self._is_async else iter(tasks)  # type: ignore[arg-type]
        self._puller = make_puller(port, source, self._is_async, self._give, self._has_room)
        self._coming = _Coming(ordered, self._puller.news)
        self._has_begun = False

    # -- the consumer --------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[TaskHandle[R]]:
        if self._is_async:
            raise TypeError("the tasks come from an asynchronous iterable: iterate over the stream by `async for`")
        for handle in self._steps():
            if handle is None:
                self._puller.news.wait(self._has_news)
            else:
                yield handle
            del handle

    async def __aiter__(self) -> AsyncIterator[TaskHandle[R]]:
        import asyncio

        for handle in self._steps():
            if handle is None:
                await self._puller.news.wait_in_loop(self._has_news)
            else:
                await asyncio.sleep(0)  # or many handles that are done would keep the event loop from all else
                yield handle
            del handle

    def _steps(self) -> Iterator[TaskHandle[R] | None]:
        """Yield each handle once it is done, and None where the consumer must wait for news."""
        puller, coming, out = self._puller, self._coming, self._out
        try:
            if not self._has_begun:
                self._has_begun = True
                puller.start()
            while True:
                if coming.has_next():
                    handle = coming.handles.popleft()
                    out.pop(handle, None)
                    if handle._guard is not None:
                        handle._look()  # its consumer has it
                    if puller.room.sleepers:
                        puller.room.ring()
                    yield handle
                    del handle
                elif self._is_at_end():
                    break
                else:
                    yield None
            puller.raise_error()
        finally:
            self._leave()

    def _has_news(self) -> bool:
        return self._coming.has_next() or self._is_at_end()

    def _is_at_end(self) -> bool:
        return self._puller.has_ended and (not self._out or self._puller.is_abandoned)

    def close(self) -> None:
        """Cancel the submitted tasks and submit no more. If an exception interrupts this call, it can be repeated."""
        self._puller.stop()
        for handle in list(self._out):
            handle.cancel()
        self._out.clear()

    def _leave(self) -> None:
        self._puller.stop()
        self._keeper = None  # a puller that is in a source that blocks keeps us
        if self._out:
            # The garbage collector may be what ends us, in any thread, at any point, with any lock held.
            self._port.do_soon(self.close)

    # -- the puller ----------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return len(self._out) < self._buffersize

    def _give(self, task: Task[R]) -> None:
        handle = Streamed(self._port, task, self._coming)
        self._out[handle] = None  # before it can be done
        try:
            self._submit_task(handle, task)
        except BaseException:
            self._out.pop(handle, None)
            raise
        if self._coming.are_ordered:
            self._coming.add(handle)
        if self._puller.is_stopped:  # `stop` may have missed this one
            handle.cancel()
