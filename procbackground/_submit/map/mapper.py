"""One call of `map`: gives rows to the supervisor in chunks, acts on their answers, and brings the values in order.

Where a chunk was too large, the worker leaves the rows that it has not begun, and they go into smaller chunks.

Who may touch what: all state of a mapper is changed under its `lock`. It is entered by the thread that calls `map`, by
those that take values, and by the supervisor's helper threads (`note_end`). An exception that interrupts one of the
user's threads here (Ctrl-C, say) ends the map: its tasks are cancelled, and nothing half done is done again.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from typing import Any, assert_never

from procbackground._submit.map import chunk as c
from procbackground._submit.map.chunk import Chunk, Columns
from procbackground._submit.map.rest import Part, Rest
from procbackground._submit.map.results import Results
from procbackground._submit.map.sizing import OUT_PER_WORKER, Sizing
from procbackground._submit.recipes import Submitter
from procbackground._sync import Latch
from procbackground.errors import ManagerClosedError, ProcbackgroundError, SerializationError
from procbackground.handle import TaskHandle


class Mapper:
    """A map whose chunks have a given size; 1 makes each row a task."""

    adapts: bool = False  # the size of chunks to what the rows take

    def __init__(
        self,
        submitter: Submitter,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout_s: float | None,
        size: int,
        buffersize: int | None = None,
    ) -> None:
        self.lock = threading.RLock()
        self._submitter = submitter
        self._port = submitter.port
        self._fn = fn
        self._size = size
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._iterables = tuple(map(iter, iterables))
        self._given: deque[Part] = deque()  # in order of the rows, and not taken
        self._taken: list[Part] = []  # to be yielded next, in reverse
        self._awaited: list[Part] = []  # the one that the consumer is at
        self._is_over = False
        self._is_exhausted = False
        try:
            with self.lock:
                self._give_first(buffersize)
        except BaseException:
            self.cancel()  # the submitted rows have no consumer
            raise

    def _give_first(self, buffersize: int | None) -> None:
        limit = range(buffersize) if buffersize is not None else itertools.repeat(0)
        for _ in limit:
            if not self._give_next():
                break

    # -- giving --------------------------------------------------------------------------------------------

    def _give_next(self) -> bool:
        columns = self._take(self._size)
        if not columns[0]:
            self._is_exhausted = True
            return False
        if self._size > 1:
            self._given.append(self._give(columns))
        else:
            self._given.append(self._run(tuple(column[0] for column in columns)))
        return True

    def _take(self, count: int | None) -> Columns:
        """Take rows of the input, or all."""
        if len(self._iterables) == 1:
            return (list(itertools.islice(self._iterables[0], count)),)
        rows = list(itertools.islice(zip(*self._iterables, strict=False), count))
        return tuple(map(list, zip(*rows, strict=True))) if rows else ([],)

    def _give(self, columns: Columns, begin: int = 0) -> Part:
        """Give the supervisor some rows, as one chunk; the first is the row `begin` of the map."""
        if self._is_over:
            return []
        chunk = Chunk(self._port, self, columns, begin)
        try:
            self._submitter.submit_chunk(chunk, self._fn, columns, self.adapts)
        except SerializationError:
            # Some row cannot be pickled, and only that one fails. A chunk of one row is as good as a task.
            chunk.parts = [self._run(row) for row in zip(*columns, strict=True)]
            TaskHandle._settle(chunk, FINISHED, ([], {}, 0.0), None)
        else:
            self._note_given()
        return chunk

    def _run(self, row: tuple[Any, ...]) -> Part:
        return [] if self._is_over else self._submitter.submit_call(self._fn, row, {})

    def _adopt(self, row: tuple[Any, ...], failure: bytes | BaseException) -> Part:
        return [] if self._is_over else self._submitter.submit_failed_row(self._fn, row, failure)

    def _go_on(self, columns: Columns, begin: int) -> Part:
        """Go on with rows that a chunk has not done."""
        return self._follow(self._give, columns, begin)

    def _follow(self, give: Callable[..., Part], *what: Any) -> Part:
        """Give what follows from rows that were accepted, though the manager closes meanwhile.

        What is refused all the same (the close was cut short, or the manager is broken) is a part that says so; as is
        a row whose arguments do not pickle any more.
        """
        try:
            with self._port.accepting_more():
                return give(*what)
        except ProcbackgroundError as error:
            refused = self._refused(error)
            if not isinstance(error, SerializationError):
                self._give_up(refused)
            return refused

    def _refused(self, error: BaseException | None) -> TaskHandle[Any]:
        """Return a part that is done already: it failed with `error`, or is cancelled where the manager closed."""
        handle: TaskHandle[Any] = TaskHandle(self._port, None, ())
        is_cancelled = error is None or isinstance(error, ManagerClosedError)
        handle._settle(CANCELLED_AND_NOTIFIED if is_cancelled else FINISHED, None, error)
        return handle

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
                    parts.append(self._refused(error))  # or the values of these rows would be missing silently
                    self._give_up(parts[-1])
                    raise
                chunk.forget_rows()
            return parts

    def _act_on(self, chunk: Chunk, parts: list[Part]) -> None:
        if chunk.cancelled():
            parts.append(self._refused(None))
            return
        count = len(chunk.columns[0])
        answers, error = chunk.answers()
        if error is None:
            self._learn(count, sum(len(values) for values, _, _ in answers), answers[-1][2])
        for step in c.plan(count, answers, error, chunk._ended_at_row):
            match step:
                case c.Values(values):
                    parts.append(values)
                case c.FailedRow(row, failure):
                    parts.append(self._follow(self._adopt, chunk.row(row), failure))
                case c.UntriedRow(row):
                    parts.append(self._follow(self._run, chunk.row(row)))
                case c.UndoneRows(begin, end):
                    parts.append(self._go_on(chunk.rows(begin, end), chunk.first_row + begin))
                case c.Lost():
                    parts.append(self._refused(error))
                case _:
                    assert_never(step)

    def _learn(self, given: int, done: int, took_s: float) -> None:
        """Take in that a chunk of `given` rows had `done` of them done in `took_s`."""

    def _note_given(self) -> None:
        """The supervisor has a chunk, and will say when it is done."""

    def _give_up(self, *parts: Part) -> None:
        """Give nothing more: the rows that are left come to `parts`."""

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
                else:
                    self._wait_for(part)
                    values = [part.result()]
                del part  # it has arguments, or a result
                if values is not None:
                    self._awaited = []
                    yield values
        except GeneratorExit:
            # The garbage collector may be what ends us, in any thread, at any point, with any lock held.
            self._port.do_soon(self.cancel)
            raise
        except BaseException:
            self.cancel()
            raise

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
                if not self._is_exhausted:
                    self._give_next()
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
                news = rest.news = Latch()
            if not news.wait(self._remaining_s()):
                raise TimeoutError

    def _remaining_s(self) -> float | None:
        return None if self._end_s is None else max(0.0, self._end_s - time.monotonic())

    def cancel(self) -> None:
        """End what has not ended. A call that an exception interrupts can be repeated."""
        with self.lock:
            self._is_over = True
            self._give_up()
            parts = [*self._awaited, *self._taken, *self._given]
        while parts:
            part = parts.pop()
            if isinstance(part, Rest):
                parts += part.given
            elif isinstance(part, Chunk) and part.parts is not None:
                parts += part.parts
            elif not isinstance(part, list):
                part.cancel()
        with self.lock:
            self._taken.clear()
            self._given.clear()


class AdaptingMapper(Mapper):
    """Sizes its chunks by what the rows before have taken, and gives a few at a time, earlier rows first."""

    adapts = True

    def __init__(
        self,
        submitter: Submitter,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout_s: float | None,
        workers: int,
    ) -> None:
        self.sizing = Sizing(submitter.recall_rows(fn))
        self._workers = workers
        self._rests: list[Rest] = []  # that have rows left; a heap
        self._out = 0  # chunks given that are not done
        self._range = iterables[0] if len(iterables) == 1 and type(iterables[0]) is range else None
        super().__init__(submitter, fn, iterables, timeout_s, 1)

    def _give_first(self, buffersize: int | None) -> None:
        self._is_exhausted = True
        # All is taken at once, as Executor.map does.
        columns = self._take(None) if self._range is None else (self._range,)
        if columns[0]:
            self._given.append(self._go_on(columns, 0))
            self._give_more(lambda give, *what: give(*what))

    def _go_on(self, columns: Columns, begin: int) -> Part:
        rest = Rest(columns, begin)
        heapq.heappush(self._rests, rest)
        return rest

    def _give_more(self, give: Callable[..., Part]) -> None:
        """Keep some chunks out for each worker, the last ones small enough to end together."""
        while self._rests and self._out < OUT_PER_WORKER * self._workers and not self._is_over:
            rest = self._rests[0]
            if not rest.left:  # a consumer was interrupted when it had taken the last of them
                heapq.heappop(self._rests)
                continue
            begin = rest.begin
            left = sum(each.left for each in self._rests)
            columns = rest.take(self.sizing.next_rows(left, self._workers))
            if not rest.left:
                heapq.heappop(self._rests)  # else it stays first: it has grown, but not beyond the next
            try:
                part = give(self._give, columns, begin)
            except BaseException as error:
                rest.add(self._refused(error))  # or the values of these rows would be missing silently
                self._give_up()
                raise
            rest.add(part)

    def _note_given(self) -> None:
        self._out += 1

    def _give_up(self, *parts: Part) -> None:
        for rest in self._rests:
            rest.end(*parts)
        self._rests.clear()

    def _learn(self, given: int, done: int, took_s: float) -> None:
        if self.sizing.learn(given, done, took_s):
            self._submitter.remember_rows(self._fn, self.sizing.rows)

    def note_end(self, chunk: Chunk) -> None:
        with self.lock:
            self._out -= 1
            try:
                self._parts_of(chunk)
            finally:
                self._give_more(self._follow)


def start_map(
    submitter: Submitter,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    *,
    timeout_s: float | None,
    chunksize: int | None,
    buffersize: int | None,
    workers: int,
    is_apart: bool,
    keeper: object,
) -> Results:
    """Give the first rows of a map to the supervisor, and return the iterator over its values.

    Args:
        is_apart: each row is a task of its own, unless `chunksize` says otherwise.
        keeper: the manager, which a map that gives more rows later keeps open.
    """
    if chunksize is None and (buffersize is not None or is_apart):
        chunksize = 1
    submitter = submitter.in_present_context()  # later rows are submitted in other threads, with other contexts
    mapper: Mapper
    if chunksize is None:
        mapper = AdaptingMapper(submitter, fn, iterables, timeout_s, workers)
    else:
        mapper = Mapper(submitter, fn, iterables, timeout_s, chunksize, buffersize)
    try:
        # Results may be read when the manager has been dropped and is going away; only a lazy map still needs it.
        return Results(mapper.values(), mapper.cancel, keeper if buffersize is not None else None)
    except BaseException:
        mapper.cancel()
        raise
