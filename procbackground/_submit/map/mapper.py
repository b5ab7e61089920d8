"""One call of `map`: gives rows to the supervisor in chunks, acts on their answers, and brings the values in order.

Where a chunk was too large, the worker leaves the rows that it has not begun, and they go into smaller chunks.

Who may touch what: all state of a mapper is changed under its `lock`. It is entered by the thread that calls `map`, by
those that take values, and by the supervisor's helper threads (`note_end`). An exception that interrupts one of the
user's threads here (Ctrl-C, say) ends the map: its tasks are cancelled, and nothing half done is done again.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError
from concurrent.futures._base import FINISHED
from typing import Any, assert_never

from procbackground._submit.map import chunk as c
from procbackground._submit.map.chunk import Chunk, Columns
from procbackground._submit.map.rest import Failed, Part, Rest
from procbackground._submit.map.watch import UNWATCHED, RowWatch
from procbackground._submit.recipes import Submitter
from procbackground._sync import Latch, moment_lock, this_life
from procbackground.errors import ManagerClosedError, ProcbackgroundError, SerializationError
from procbackground.handle import TaskHandle


class Mapper:
    """A map whose chunks have a given size; 1 makes each row a task.

    Args:
        returns_exceptions: a row's error is its value; else it ends the map.
    """

    adapts: bool = False  # the size of chunks to what the rows take

    def __init__(
        self,
        submitter: Submitter,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout_s: float | None,
        size: int,
        returns_exceptions: bool,
        watch: RowWatch = UNWATCHED,
    ) -> None:
        self._watch = watch  # if it tells, columns have one more, of the rows' handles
        self.is_watched = self.adapts or watch is not UNWATCHED
        self._life = this_life()
        self.lock = moment_lock()
        self._submitter = submitter
        self._port = submitter.port
        self._fn = fn
        self._size = size
        self._end_s = None if timeout_s is None else time.monotonic() + float(min(timeout_s, threading.TIMEOUT_MAX))
        self._iterables = tuple(map(iter, iterables))
        self._returns_exceptions = returns_exceptions
        self._given: deque[Part] = deque()  # in order of the rows, and not taken
        self._taken: list[Part] = []  # to be yielded next, in reverse
        self._awaited: list[Part] = []  # the one that the consumer is at
        self._is_over = False
        self._name = ""  # of the tasks, once it is wanted
        try:
            with self.lock:
                self._give_first()
        except BaseException:
            self.cancel()  # the submitted rows have no consumer
            raise

    def _give_first(self) -> None:
        while (columns := self._take(self._size))[0]:
            if self._size > 1:
                self._given.append(self._give(self._watch.with_handles(columns)))
            else:
                self._given.append(self._run(tuple(column[0] for column in columns)))

    # -- giving --------------------------------------------------------------------------------------------

    def _take(self, count: int | None) -> Columns:
        """Take rows of the input, or all."""
        if len(self._iterables) == 1:
            return (list(itertools.islice(self._iterables[0], count)),)
        return columns_of(list(itertools.islice(zip(*self._iterables, strict=False), count)))

    def _give(self, columns: Columns, begin: int = 0) -> Part:
        """Give the supervisor some rows, as one chunk; the first is the row `begin` of the map."""
        handles: Any = None
        if self._watch.tells:
            columns, handles = columns[:-1], columns[-1]
        if self._is_over:
            self._watch.end_rows(handles, None)
            return []
        chunk = Chunk(self._port, self, columns, begin, handles)
        try:
            self._submitter.submit_chunk(chunk, self._fn, columns, self.adapts)
        except SerializationError:
            # Some row cannot be pickled, and only that one fails. A chunk of one row is as good as a task.
            chunk._row_handles = None
            never = itertools.repeat(None)
            chunk.parts = list(map(self._run, zip(*columns, strict=True), never, handles or never))
            TaskHandle._settle(chunk, FINISHED, ([], {}, 0.0), None)
        except BaseException:
            self._watch.end_rows(handles, None)
            raise
        else:
            self._note_given()
        return chunk

    def _run(
        self,
        row: tuple[Any, ...],
        failure: bytes | BaseException | None = None,
        handle: TaskHandle[Any] | None = None,
        saved: bytes | None = None,
    ) -> Part:
        """Give the supervisor a row as a task of its own; with `failure`, after its first attempt, which `saved`."""
        if self._is_over:
            self._watch.end_rows([handle], None)
            return []
        if failure is not None:
            given = self._submitter.submit_failed_row(self._fn, row, failure, handle, saved)
        elif handle is not None:
            given = self._submitter.submit_row(self._fn, row, handle)
        else:
            given = self._submitter.submit_call(self._fn, row, {})
        self._watch.follow(given)
        return given

    def _go_on(self, columns: Columns, begin: int) -> Part:
        """Go on with rows that a chunk has not done."""
        return self._follow(len(columns[0]), self._give, columns, begin)

    def _follow(self, rows: int, give: Callable[..., Part], *what: Any) -> Part:
        """Submit further work for this many accepted rows, also while the manager closes.

        What is refused all the same (the close was cut short, or the manager is broken) is a part that says so; as is
        a row whose arguments do not pickle any more.
        """
        try:
            with self._port.accepting_more():
                return give(*what)
        except ProcbackgroundError as error:
            self._watch.end_rows(what[0][-1] if give == self._give else what[-1:], error)
            if isinstance(error, SerializationError):
                return Failed(error, rows)
            refusal = CancelledError() if isinstance(error, ManagerClosedError) else error
            self._give_up(refusal)
            return Failed(refusal, rows)

    # -- acting on answers ---------------------------------------------------------------------------------

    def note_end(self, chunk: Chunk) -> None:
        """A chunk is done: start what its rows need that are not. Runs in a helper thread of the supervisor."""
        self._parts_of(chunk)

    def _parts_of(self, chunk: Chunk) -> list[Part]:
        """Return what the rows of a chunk came to, or what they went on as; the chunk is done."""
        with self.lock:
            parts = chunk.parts
            if parts is None:
                # It is stored before it is filled: what an exception interrupts here is not done twice.
                parts = chunk.parts = []
                try:
                    self._act_on(chunk, parts)
                except BaseException as error:
                    parts.append(Failed(error, 0))  # or the values of these rows would be missing silently
                    self._give_up(error)
                    raise
                chunk.forget_rows()
            return parts

    def _act_on(self, chunk: Chunk, parts: list[Part]) -> None:
        count = len(chunk.columns[0])
        if chunk.cancelled():
            parts.append(Failed(CancelledError(), count))
            self._watch.end_rows(chunk._row_handles, None)
            return
        answers, error = chunk.answers()
        if error is None:
            self._learn(count, sum(len(values) for values, _, _ in answers), answers[-1][2])
        succeeded = sum(len(values) - len(failures) for values, failures, _ in answers)
        if succeeded:
            name = self._name = self._name or chunk.task.name
            self._port.note_rows(name, succeeded, 0.0 if error is not None else answers[-1][2])
        steps = c.plan(count, answers, error, chunk._ended_at_row)
        self._watch.tell_rows(chunk, steps, error)
        for step in steps:
            match step:
                case c.Values(values):
                    parts.append(values)
                case c.FailedRow(row, failure):
                    handle, saved = chunk.handle_of(row), chunk.saved(row)
                    parts.append(self._follow(1, self._run, chunk.row(row), failure, handle, saved))
                case c.UntriedRow(row):
                    parts.append(self._follow(1, self._run, chunk.row(row), None, chunk.handle_of(row)))
                case c.UndoneRows(begin, end):
                    parts.append(self._go_on(chunk.rows(begin, end), chunk.first_row + begin))
                case c.Lost(rows):
                    assert error is not None
                    parts.append(Failed(error, rows))
                case _:
                    assert_never(step)

    def _learn(self, given: int, done: int, took_s: float) -> None:
        """Take in that a chunk of `given` rows had `done` of them done in `took_s`."""

    def _note_given(self) -> None:
        """The supervisor has a chunk, and will say when it is done."""

    def _give_up(self, error: BaseException | None) -> None:
        """Give nothing more: the rows that are left come to `error`."""

    # -- taking --------------------------------------------------------------------------------------------

    def values(self) -> Generator[list[Any], None, None]:
        """Yield the values in order; a row's error is raised when it is its turn."""
        try:
            while (part := self._next_part()) is not None:
                if isinstance(part, list):
                    values: list[Any] | None = part
                elif isinstance(part, Chunk):
                    if not part.done():
                        self._wait_for(part)
                    values = part.whole()
                    if values is None:
                        self._taken += reversed(self._parts_of(part))
                elif isinstance(part, Rest):
                    values = None
                    self._wait_for_more(part)
                elif isinstance(part, Failed):
                    values = self._values_of_failed(part)
                else:
                    self._wait_for(part)
                    values = [self._value_of(part)]
                del part  # it has arguments, or a result
                if values is not None:
                    self._awaited = []
                    yield values
            self._watch.close(is_complete=True)
        except GeneratorExit:
            # The garbage collector may be what ends us, in any thread, at any point, with any lock held.
            self._port.do_soon(self.cancel)
            raise
        except BaseException:
            self.cancel()
            raise

    def _value_of(self, handle: TaskHandle[Any]) -> Any:
        if self._returns_exceptions:
            if handle.cancelled():
                return CancelledError()
            error = handle.exception()
            if error is not None:
                return error
        return handle.result()

    def _values_of_failed(self, failed: Failed) -> list[Any]:
        if self._returns_exceptions and failed.rows:
            return [failed.error] * failed.rows
        raise failed.error

    def _next_part(self) -> Part | None:
        """Return the next part, or None at the end.

        At every moment one of the lists contains it, so that `cancel` finds it after an exception at any point.
        """
        with self.lock:
            if self._is_over:
                return None
            if not self._taken:
                if not self._given:
                    return None
                self._taken.append(self._given[0])
                del self._given[0]
            part = self._taken[-1]
            self._awaited = [part]
            del self._taken[-1]
            return part

    def _wait_for(self, part: TaskHandle[Any]) -> None:
        if self._is_over:
            part.cancel()  # `cancel` sets `_is_over` before it reads `_awaited`
        try:
            part.exception(self._remaining_s())
        except CancelledError:
            if self._is_over:
                raise  # another thread closes the map
        finally:
            if not part.done():
                part.cancel()

    def _wait_for_more(self, rest: Rest) -> None:
        """Wait for rows of `rest` to be given, and take them next; or for its end."""
        while True:
            with self.lock:
                if self._is_over:
                    raise CancelledError  # another thread closes the map
                if rest.given:
                    self._taken += (rest, rest.given[0])
                    del rest.given[0]
                    return
                if not rest.left:
                    return
                news = rest.news = Latch(self._life)
            if not news.wait(self._remaining_s()):
                raise TimeoutError

    def _remaining_s(self) -> float | None:
        return None if self._end_s is None else max(0.0, self._end_s - time.monotonic())

    def cancel(self) -> None:
        """End what has not ended. A call that an exception interrupts can be repeated."""
        with self.lock:
            self._is_over = True
            self._give_up(None)
            parts = [*self._awaited, *self._taken, *self._given]
        while parts:
            part = parts.pop()
            if isinstance(part, Rest):
                parts += part.given
            elif isinstance(part, Chunk) and part.parts is not None:
                parts += part.parts
            elif not isinstance(part, (list, Failed)):
                part.cancel()
                part._look()  # its map is over: the consumer wants to know nothing more
        self._watch.close()
        with self.lock:
            self._taken.clear()
            self._given.clear()


def columns_of(rows: list[tuple[Any, ...]]) -> Columns:
    """Return the arguments of some rows by parameter."""
    return tuple(map(list, zip(*rows, strict=True))) if rows else ([],)
