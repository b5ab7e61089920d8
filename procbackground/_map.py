"""The work of `Manager.map`: rows of arguments that travel in chunks, and fail each for itself.

A chunk is one request. When a row of it raises, the row goes on as a job of its own, with that failure as its first
attempt. When the chunk's process dies or a row runs over its time, the rows that were answered stand, the guilty
row goes on alone, and the rest makes new chunks. So a row has the same policy and the same end as a task.
"""

from __future__ import annotations

import itertools
import pickle
import threading
import time
from _thread import LockType
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from procbackground.errors import ManagerClosedError, ProcbackgroundError, SerializationError, TaskTimeoutError
from procbackground.handle import Owner, TaskHandle

# What a chunk should take: long enough that its cost on the way is small, short enough to share work evenly.
CHUNK_S = 0.002
FIRST_ROWS = 1
GROWTH = 8  # at most so many times the rows of the chunk before
MAX_ROWS = 16384
OUT_PER_WORKER = 3  # chunks of a map that sizes its chunks itself; more would keep their first size
LEAST_SHARE = 8  # at the end of the input, chunks shrink down to this part of their size to end together

# The consumer's view of a chunk: values, jobs of their own, and chunks, in the order of the rows.
Part: TypeAlias = "list[Any] | TaskHandle[Any] | Chunk"

Columns: TypeAlias = tuple[list[Any], ...]  # the arguments of some rows, a list for each parameter


class FrontDoor(Protocol):
    """What a map needs of the manager."""

    def run_row(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> TaskHandle[Any]:
        """Run one row as a task."""
        ...

    def adopt_row(
        self, fn: Callable[..., Any], args: tuple[Any, ...], failure: bytes | BaseException
    ) -> TaskHandle[Any]:
        """Go on with a row that failed once."""
        ...

    def give_chunk(self, chunk: Chunk, fn: Callable[..., Any], columns: Columns) -> None:
        """Give the manager a chunk. Raises: `SerializationError`."""
        ...


class Chunk(TaskHandle[Any]):
    """Some rows of a map on their way, and what became of each."""

    __slots__ = ("_bodies", "_columns", "_mapper", "_parts")

    def __init__(self, owner: Owner, mapper: Mapper, columns: Columns) -> None:
        super().__init__(owner, None, ())
        self._mapper = mapper
        self._columns: Columns = columns
        self._bodies: list[bytes] = []
        self._parts: list[Part] | None = None

    def _take_part(self, body: bytes) -> None:
        self._bodies.append(body)

    def _settle(
        self,
        state: str,
        result: Any,
        exception: BaseException | None,
        sleepers: list[LockType] | None = None,
    ) -> bool:
        super()._settle(state, result, exception, sleepers)
        # Success needs nobody's attention before the consumer comes, unless rows of it go on, or others wait for
        # its place.
        goes_on = (
            exception is not None or self._mapper.sizes_itself or bool(self._bodies) or bool(result and result[1])
        )
        if goes_on:
            self._owner.hold()  # what follows from it belongs to the map, which was accepted: no close is to miss it
        return goes_on

    def _invoke_callbacks(self) -> None:
        try:
            self._mapper.note_end(self)
        finally:
            self._owner.let_go()

    def parts(self) -> list[Part]:
        """Return what the rows came to; the chunk is done."""
        with self._mapper.lock:
            if self._parts is None:
                self._parts = self._resolve()
                self._columns = ()
                self._bodies = []
            return self._parts

    def _resolve(self) -> list[Part]:
        if self.cancelled():
            return [self]
        mapper = self._mapper
        parts: list[Part] = []
        answered = 0
        answers = [pickle.loads(body) for body in self._bodies]
        if self._exception is None:
            answers.append(self._result)
        for values, failures, _ in answers:
            begin = 0
            for row, failure in failures.items():
                parts.append(values[begin:row])
                parts.append(mapper.follow(mapper.adopt, self._row(answered + row), failure))
                begin = row + 1
            parts.append(values[begin:] if begin else values)
            answered += len(values)
        error = self._exception
        if error is None:
            return parts
        count = len(self._columns[0])
        if isinstance(error, SerializationError):
            # Its arguments did not load, or its values: each row finds out for itself.
            parts += [mapper.follow(mapper.run, self._row(row)) for row in range(answered, count)]
            return parts
        from procbackground._broken import WorkerDiedError

        if not isinstance(error, (WorkerDiedError, TaskTimeoutError, MemoryError)):
            return [*parts, self]  # the manager broke: every row has this error
        guilty = max(self._ended_at_row, answered)
        if guilty > answered:
            parts.append(mapper.follow(mapper.give, self._cut(answered, guilty)))  # done, but not yet told
        parts.append(mapper.follow(mapper.adopt, self._row(guilty), error))
        if guilty + 1 < count:
            parts.append(mapper.follow(mapper.give, self._cut(guilty + 1, count)))
        return parts

    def _row(self, row: int) -> tuple[Any, ...]:
        return tuple(column[row] for column in self._columns)

    def _cut(self, begin: int, end: int) -> Columns:
        return tuple(column[begin:end] for column in self._columns)


class Mapper:
    """One call of `map`: gives chunks, and yields values in the order of the rows."""

    def __init__(
        self,
        door: FrontDoor,
        owner: Owner,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        workers: int,
        timeout_s: float | None,
        chunksize: int | None,
        buffersize: int | None,
    ) -> None:
        lock = threading.RLock()
        self.lock: AbstractContextManager[bool] = lock
        self.sizes_itself: bool = chunksize is None
        self._door = door
        self._owner = owner
        self._fn = fn
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._iterables = tuple(map(iter, iterables))
        self._left = 0  # rows that a map which sizes its chunks has taken and not given
        self._size = chunksize or FIRST_ROWS
        self._workers = workers
        self._out = 0  # chunks that are not done, of a map that sizes them
        self._given: deque[Part] = deque()  # in order of the rows, and not consumed
        self._changed = threading.Condition(lock)
        self._buffersize = buffersize
        self._is_over = False
        self._is_exhausted = False
        with self.lock:
            if self.sizes_itself:
                # As Executor.map does: the input is taken at once.
                taken = self._take(None)
                self._left = len(taken[0])
                self._iterables = tuple(map(iter, taken))
                self._give_more(lambda give, columns: give(columns))
            else:
                limit = range(buffersize) if buffersize is not None else itertools.repeat(0)
                for _ in limit:
                    if not self._give_next():
                        break

    # -- giving --------------------------------------------------------------------------------------------

    def give(self, columns: Columns) -> Part:
        """Give the manager some rows, as one chunk."""
        if self._is_over:
            return []
        chunk = Chunk(self._owner, self, columns)
        try:
            self._door.give_chunk(chunk, self._fn, columns)
        except SerializationError:
            # Some row cannot be pickled; it alone is to fail. A chunk of one is as good as a task.
            chunk._parts = [self.run(row) for row in zip(*columns, strict=True)]
            TaskHandle._settle(chunk, FINISHED, ([], {}, 0.0), None)
        return chunk

    def follow(self, give: Callable[..., Part], *what: Any) -> Part:
        """Give what follows from rows that were accepted, though the manager closes meanwhile.

        What it refuses all the same (its close was cut short, or it has failed) is a part that says so.
        """
        try:
            with self._owner.accepting_more():
                return give(*what)
        except ProcbackgroundError as error:
            refused = Chunk(self._owner, self, ())
            refused._parts = [refused]
            is_closed = isinstance(error, ManagerClosedError)
            TaskHandle._settle(refused, CANCELLED_AND_NOTIFIED if is_closed else FINISHED, None, error)
            self._left = 0
            return refused

    def run(self, row: tuple[Any, ...]) -> Part:
        return [] if self._is_over else self._door.run_row(self._fn, row)

    def adopt(self, row: tuple[Any, ...], failure: bytes | BaseException) -> Part:
        return [] if self._is_over else self._door.adopt_row(self._fn, row, failure)

    def _give_next(self) -> bool:
        columns = self._take(self._size)
        if not columns[0]:
            self._is_exhausted = True
            return False
        if self._size > 1:
            self._given.append(self.give(columns))
        else:
            self._given.append(self.run(tuple(column[0] for column in columns)))
        return True

    def _take(self, count: int | None) -> Columns:
        if len(self._iterables) == 1:
            return (list(itertools.islice(self._iterables[0], count)),)
        rows = list(itertools.islice(zip(*self._iterables, strict=False), count))
        return tuple(map(list, zip(*rows, strict=True))) if rows else ([],)

    def _give_more(self, give: Callable[..., Part]) -> None:
        """Keep some chunks out for each worker, the last ones small enough to end together."""
        while self._left and self._out < OUT_PER_WORKER * self._workers and not self._is_over:
            fair = -(-self._left // (2 * self._workers))
            columns = self._take(min(self._size, max(fair, self._size // LEAST_SHARE, 1)))
            self._left -= len(columns[0])
            self._out += 1
            self._given.append(give(self.give, columns))
            self._changed.notify_all()

    def note_end(self, chunk: Chunk) -> None:
        """A chunk is done: learn from it, give the next, and start what its failed rows need."""
        with self.lock:
            if self.sizes_itself and chunk._parts is None and chunk._exception is None and not chunk.cancelled():
                count = len(chunk._columns[0])
                if count >= self._size:
                    took_s = max(1e-6, chunk._result[2])
                    self._size = max(1, min(MAX_ROWS, GROWTH * self._size, int(count * CHUNK_S / took_s)))
            if self.sizes_itself and self._out:
                self._out -= 1
                self._give_more(self.follow)
        chunk.parts()

    # -- taking --------------------------------------------------------------------------------------------

    def results(self) -> Results:
        """Return the values in order; a row's error is raised when it is its turn."""
        return Results(self._values(), lambda: self._cancel([]))

    def _values(self) -> Generator[list[Any], None, None]:
        parts: list[Part] = []  # to be yielded next, in reverse
        failed: Chunk | None = None  # of `parts`, as a whole
        try:
            while True:
                with self.lock:
                    while not self._given and self._left and self.sizes_itself:
                        self._changed.wait(self._remaining_s())
                    if not self._given:
                        return
                    parts.append(self._given.popleft())
                    if not self.sizes_itself and not self._is_exhausted:
                        self._give_next()
                while parts:
                    part = parts.pop()
                    if isinstance(part, list):
                        yield part
                    elif part is failed:
                        part.result(0)  # raises
                    elif isinstance(part, Chunk):
                        self._wait_for(part)
                        inner = part.parts()
                        if inner and inner[-1] is part:
                            failed = part
                        parts += reversed(inner)
                    else:
                        try:
                            value = [part.result(self._remaining_s())]
                        finally:
                            part.cancel()
                            del part  # it holds its result
                        yield value
                        continue
                    del part
        finally:
            self._cancel(parts)

    def _wait_for(self, chunk: Chunk) -> None:
        try:
            if not chunk.done():
                chunk.exception(self._remaining_s())
        except CancelledError:
            pass
        finally:
            if not chunk.done():
                chunk.cancel()

    def _remaining_s(self) -> float | None:
        return None if self._end_s is None else max(0.0, self._end_s - time.monotonic())

    def _cancel(self, parts: list[Part]) -> None:
        with self.lock:
            self._is_over = True
            given, self._given = self._given, deque()
            self._left = 0
        for part in [*parts, *given]:
            _cancel_part(part)


class Results(Iterator[Any]):
    """What `map` returns: the values in order, to be closed as a generator can be.

    `iter` gives an iterator over the values that have come, in which nothing is written in Python: a generator would
    double what a value costs here. All such iterators take from the same values, whoever uses them in whatever thread.
    """

    def __init__(self, source: Generator[list[Any], None, None], cancel: Callable[[], None]) -> None:
        self._source = source
        self._cancel = cancel
        self._lock = threading.RLock()
        self._values: list[Any] = []  # that have come, and were not taken
        self._taker: Iterator[Any] = iter(())  # of them

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self._takers())

    def __next__(self) -> Any:
        for value in self:
            return value
        raise StopIteration

    def close(self) -> None:
        """Cancel what has not ended; no value comes any more."""
        self._source.close()
        self._cancel()  # a generator that was not asked for anything has nothing to tidy up
        deque(self._taker, maxlen=0)

    def _takers(self) -> Iterator[Iterator[Any]]:
        while True:
            with self._lock:
                if not self._values:
                    values = next(self._source, None)
                    if values is None:
                        return
                    self._values, self._taker = values, _taken_from(values)
                taker = self._taker
            yield taker


def _taken_from(values: list[Any]) -> Iterator[Any]:
    """Return an iterator that keeps nothing of what it has given."""
    values.reverse()
    return map(list.pop, itertools.repeat(values, len(values)))


def _cancel_part(part: Part) -> None:
    if isinstance(part, Chunk) and part._parts is not None:
        for inner in part._parts:
            if inner is not part:
                _cancel_part(inner)
    elif not isinstance(part, list):
        part.cancel()
