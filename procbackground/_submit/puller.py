"""Pulls what a stream or a lazy map iterates over, ahead of the consumer, in a thread or asyncio task of its own.

So a source that blocks (a queue, a pipe, `tail -f`) holds up neither the results that are there nor the end of the
iteration. Nothing waits for a thread that is in such a source: it is a daemon, and ends when the source returns.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from procbackground._sync import Bell

if TYPE_CHECKING:
    import asyncio

    from procbackground._submit.port import Port


class Puller:
    """Pulls an iterator in a thread, while there is room.

    Attributes: `news`, for the consumer; rung at the end, and by others when something is given or done. `room`,
    rung by the consumer when there is room again. `error`, that the iterator or `give` raised; of use once
    `has_ended`. `is_abandoned`: also of what was given nothing comes any more.

    Args:
        give: takes an item; what it raises ends the pulling.
        has_room: whether the next item may be pulled.
    """

    def __init__(self, port: Port, source: Any, give: Callable[[Any], None], has_room: Callable[[], bool]) -> None:
        self.news: Bell = Bell()
        self.room: Bell = Bell()
        self.has_ended: bool = False
        self.is_abandoned: bool = False
        self.is_stopped: bool = False
        self.error: BaseException | None = None
        self._port = port
        # A list, from which the thread takes it: the last reference is then the thread's, which closes the generator.
        self._source: list[Any] = [source]
        self._give = give
        self._has_room = has_room
        self._thread: threading.Thread | None = None

    # -- the consumer --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to pull, in a copy of the caller's context. Raises: as `Port.attach`; `RuntimeError` for no thread."""
        thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="procbackground-source", daemon=True
        )
        self._port.attach(self)
        try:
            self._port.run_aside(thread.start)
        except RuntimeError:
            self._port.detach(self)
            raise
        self._thread = thread

    def stop(self) -> None:
        """Pull no more. From any thread, and from finalizers: takes no lock."""
        self.is_stopped = True
        self.has_ended = True
        self.room.ring()
        self.news.ring()

    def raise_error(self) -> None:
        """Raise the error that ended the pulling, if one did."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # no circle through the traceback

    # -- the supervisor ------------------------------------------------------------------------------------

    def end(self, error: BaseException) -> None:
        """The manager takes nothing more: stop, and let the consumer have `error` after what was given."""
        if not self.has_ended:
            self.error = error
        self.stop()

    def abandon(self, error: BaseException) -> None:
        """In a fork of the process, which does not have the thread: let the consumer have `error` now."""
        self.error = error
        self.is_abandoned = True
        self.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread; return whether it has ended."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    # -- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        # An interpreter that exits while this thread is in `sys.stdin.buffer` aborts if it frees the text file around
        # it, as freeing closes the buffer, whose lock the thread holds. It does not free what the thread's frames hold.
        _kept = sys.stdin, sys.__stdin__
        try:
            self._pull(self._source[0])
        except BaseException as error:  # the consumer gets it, whatever it is
            self._finish(error)
        else:
            self._finish(None)
        finally:
            self._source.clear()
            self._port.detach(self)

    def _pull(self, source: Iterator[Any]) -> None:
        has_room, give = self._has_room, self._give
        try:
            while True:
                if not has_room():
                    self.room.wait(lambda: self.is_stopped or has_room())
                if self.is_stopped:
                    return
                try:
                    item = next(source)
                except StopIteration:
                    return
                if self.is_stopped:
                    return
                give(item)
                del item
        finally:
            del source  # an error's traceback would keep it

    def _finish(self, error: BaseException | None) -> None:
        if not self.has_ended:
            self.error = error
            self.has_ended = True
        self.news.ring()


class DirectPuller(Puller):
    """Pulls an iterator in the consumer's thread, when that would wait: a debugger finds its tasks there."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.news = _PullingBell(self)

    def start(self) -> None:
        """Refuse if the manager is closed. Raises: as `Port.attach`."""
        self._port.attach(self)

    def pull_one(self) -> bool:
        """Pull and give an item; return False where there is no room."""
        if not self._has_room():
            return False
        try:
            self._give(next(self._source[0]))
        except StopIteration:
            self._finish(None)
        except Exception as error:
            self._finish(error)
        return True


class _PullingBell(Bell):
    """Makes what the consumer waits for true."""

    __slots__ = ("_puller",)

    def __init__(self, puller: DirectPuller) -> None:
        super().__init__()
        self._puller = puller

    def wait(self, is_so: Callable[[], bool], until_s: float | None = None) -> bool:
        while not is_so():
            if not self._puller.pull_one():
                return super().wait(is_so, until_s)
        return True

    async def wait_in_loop(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            if not self._puller.pull_one():
                await super().wait_in_loop(is_so)


class AsyncPuller(Puller):
    """Pulls an asynchronous iterator, in a task of the running event loop."""

    _loop: asyncio.AbstractEventLoop
    _task: asyncio.Task[None]

    def start(self) -> None:
        """Begin to pull. Raises: as `Port.attach`."""
        import asyncio

        self._port.attach(self)
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run_in_loop())

    def stop(self) -> None:
        super().stop()
        try:
            self._loop.call_soon_threadsafe(self._task.cancel)
        except (AttributeError, RuntimeError):
            pass  # it was never started, or the loop is closed

    async def _run_in_loop(self) -> None:
        try:
            await self._pull_in_loop(self._source[0])
        except BaseException as error:
            self._finish(error)
        else:
            self._finish(None)
        finally:
            self._source.clear()
            self._port.detach(self)

    async def _pull_in_loop(self, source: AsyncIterator[Any]) -> None:
        try:
            while True:
                await self.room.wait_in_loop(self._has_room)
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    return
                if self.is_stopped:  # and the source has suppressed the cancellation
                    return
                self._give(item)
                del item
        finally:
            del source


def make_puller(
    port: Port, source: Any, is_async: bool, give: Callable[[Any], None], has_room: Callable[[], bool]
) -> Puller:
    """Return a puller for an iterator of either kind."""
    make = AsyncPuller if is_async else DirectPuller if port.is_inline else Puller
    return make(port, source, give, has_room)
