"""The work of `Manager.map`: rows of arguments that travel in chunks, and fail each for itself.

A chunk is one request. A map that sizes its chunks takes as many rows as made a few milliseconds of work before; where
that was too many, the worker leaves those that it has not begun, and they go into smaller chunks. When a row raises, it
goes on as a job of its own, with that failure as its first attempt. When the chunk's process dies or a row runs over
its time, the rows that were answered stand, the guilty row goes on alone, and the rest goes into new chunks. So a row
has the same policy and the same end as a task.
"""

from __future__ import annotations

import heapq
import itertools
import operator
import pickle
import threading
import time
from _thread import LockType
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from typing import Any, Protocol, TypeAlias

from procbackground.errors import ManagerClosedError, ProcbackgroundError, SerializationError, TaskTimeoutError
from procbackground.handle import Owner, TaskHandle

# What a chunk should take: long enough that its cost on the way is small, short enough to share work evenly. On the way
# are four threads of two processes: 0.3 to 0.5 ms where all cores compute. With 2 ms, and 0.25 ms at the end, a map of
# tiny numbers took a tenth longer.
CHUNK_S = 0.003
FIRST_ROWS = 1
GROWTH = 32  # at most so many times the rows of the chunk before
MAX_ROWS = 32768
OUT_PER_WORKER = 3  # chunks of a map that sizes its chunks itself; more would keep their first size
# Values are popped one by one, so that nothing of what was given is kept. Of many a piece at a time is, which costs a
# third of that.
LEAST_IN_PIECES = 1024
PIECE_ROWS = 256
LEAST_SHARE = 3  # at the end of the input, chunks shrink down to this part of their size to end together

# The consumer's view: values, jobs of their own, chunks, and rows that are yet to be given, in the order of the rows.
Part: TypeAlias = "list[Any] | TaskHandle[Any] | Chunk | Rest"

# The arguments of some rows, a list for each parameter. A range is cut into ranges, whose numbers are made where they
# are used: a quarter less for large chunks of numbers, though nothing for small ones.
Columns: TypeAlias = "tuple[list[Any] | range, ...]"


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

    def recall_rows(self, fn: Callable[..., Any]) -> int:
        """Return how many rows of `fn` made a chunk at last, 0 where that is not known."""
        ...

    def remember_rows(self, fn: Callable[..., Any], rows: int) -> None:
        """Keep for the next map of `fn` how many rows make a chunk, if that will be the same function."""
        ...


class Chunk(TaskHandle[Any]):
    """Some rows of a map on their way, and what became of each."""

    __slots__ = ("_bodies", "_columns", "_first_row", "_goes_on", "_mapper", "_parts")

    def __init__(self, owner: Owner, mapper: Mapper, columns: Columns, first_row: int) -> None:
        super().__init__(owner, None, ())
        self._mapper = mapper
        self._columns: Columns = columns
        self._first_row = first_row  # its number in the map
        self._bodies: list[bytes] = []
        self._goes_on = True  # more may come of it than values; `_settle` knows better
        self._parts: list[Part] | None = None

    @property
    def may_end_early(self) -> bool:
        """Whether the worker may leave rows for other chunks."""
        return self._mapper.adapts

    def _take_part(self, body: bytes) -> None:
        self._bodies.append(body)

    def _settle(
        self,
        state: str,
        result: Any,
        exception: BaseException | None,
        sleepers: list[LockType] | None = None,
    ) -> bool:
        # Success needs nobody's attention before the consumer comes, unless rows of it go on, or others wait for
        # its place.
        goes_on = self._goes_on = (
            exception is not None or self._mapper.adapts or bool(self._bodies) or bool(result and result[1])
        )
        super()._settle(state, result, exception, sleepers)
        if goes_on:
            self._owner.hold()  # what follows from it belongs to the map, which was accepted: no close is to miss it
        return goes_on

    def _invoke_callbacks(self) -> None:
        try:
            self._mapper.note_end(self)
        finally:
            self._owner.let_go()

    def whole(self) -> list[Any] | None:
        """Return the values where all rows came to one; None where `parts` is to be asked. The chunk is done.

        It saves the consumer a tenth of what a chunk of 64 costs the parent.
        """
        return None if self._goes_on or self._result is None else self._result[0]

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
        error = self._exception
        answers: list[tuple[list[Any], dict[int, bytes], float]] = []
        try:
            answers.extend(pickle.loads(body) for body in self._bodies)  # until one refuses
        except Exception as refusal:
            if error is None:  # else what was done counts as not yet told
                error = SerializationError(f"a result could not be loaded in the parent: {refusal!r}")
        if error is None:
            answers.append(self._result)
        for values, failures, _ in answers:
            begin = 0
            for row, failure in sorted(failures.items()):
                parts.append(values[begin:row])
                parts.append(mapper.follow(mapper.adopt, self._row(answered + row), failure))
                begin = row + 1
            parts.append(values[begin:] if begin else values)
            answered += len(values)
        count = len(self._columns[0])
        if error is None:
            mapper.note_answers(count, answered, self._result[2])
            if answered < count:
                parts.append(self._go_on(answered, count))
            return parts
        if isinstance(error, SerializationError):
            # Its arguments did not load, or its values: each row finds out for itself.
            parts += [mapper.follow(mapper.run, self._row(row)) for row in range(answered, count)]
            return parts
        from procbackground.errors import WorkerDiedError

        if not isinstance(error, (WorkerDiedError, TaskTimeoutError, MemoryError)):
            return [*parts, self]  # the manager broke: every row has this error
        guilty = max(self._ended_at_row, answered)
        if guilty >= count:  # NO_ROW: it was loading arguments or pickling values, perhaps of any
            parts += [mapper.follow(mapper.run, self._row(row)) for row in range(answered, count)]
            return parts
        if guilty > answered:
            parts.append(self._go_on(answered, guilty))  # done, but not yet told
        parts.append(mapper.follow(mapper.adopt, self._row(guilty), error))
        if guilty + 1 < count:
            parts.append(self._go_on(guilty + 1, count))
        return parts

    def _row(self, row: int) -> tuple[Any, ...]:
        return tuple(column[row] for column in self._columns)

    def _go_on(self, begin: int, end: int) -> Part:
        return self._mapper.go_on(tuple(column[begin:end] for column in self._columns), self._first_row + begin)


class Rest:
    """Rows that are not given yet, of the input or of a chunk, and the parts of those that are."""

    __slots__ = ("begin", "changed", "columns", "given", "left")

    def __init__(self, columns: Columns, begin: int, changed: threading.Condition) -> None:
        self.changed: threading.Condition = changed  # to be notified when rows are given
        self.columns: Columns = columns
        self.begin: int = begin  # number of the first row that is left
        self.left: int = len(columns[0])
        self.given: deque[Part] = deque()  # in order of the rows, and not consumed

    def __lt__(self, other: Rest) -> bool:
        return self.begin < other.begin

    def take(self, count: int) -> Columns:
        """Return the next rows, at least one; there are some."""
        first = len(self.columns[0]) - self.left
        taken = tuple(column[first : first + count] for column in self.columns)
        self.begin += len(taken[0])
        self.left -= len(taken[0])
        if not self.left:
            self.columns = ()
        return taken

    def wait_for_more(self, timeout_s: float | None) -> Part | None:
        """Return the next part that was given, or None when there is no more.

        Raises: `TimeoutError`.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: self.given or not self.left, timeout_s):
                raise TimeoutError
            return self.given.popleft() if self.given else None


class Mapper:
    """One call of `map`: gives chunks of a size, and yields values in the order of the rows."""

    adapts: bool = False  # the size of chunks to what the rows take

    def __init__(
        self,
        door: FrontDoor,
        owner: Owner,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout_s: float | None,
        size: int,
        buffersize: int | None = None,
    ) -> None:
        self.lock: threading.RLock = threading.RLock()
        self.size: int = size  # rows of the next chunk
        self._door = door
        self._owner = owner
        self._fn = fn
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._iterables = tuple(map(iter, iterables))
        self._given: deque[Part] = deque()  # in order of the rows, and not taken
        self._taken: list[Part] = []  # to be yielded next, in reverse
        self._awaited: list[Part] = []  # the one that a consumer waits for
        self._is_over = False
        self._is_exhausted = False
        with self.lock:
            self._give_first(buffersize)

    def _give_first(self, buffersize: int | None) -> None:
        limit = range(buffersize) if buffersize is not None else itertools.repeat(0)
        for _ in limit:
            if not self._give_next():
                break

    # -- giving --------------------------------------------------------------------------------------------

    def give(self, columns: Columns, begin: int = 0) -> Part:
        """Give the manager some rows, as one chunk; the first is the row `begin` of the map."""
        if self._is_over:
            return []
        chunk = Chunk(self._owner, self, columns, begin)
        try:
            self._door.give_chunk(chunk, self._fn, columns)
        except SerializationError:
            # Some row cannot be pickled; it alone is to fail. A chunk of one is as good as a task.
            chunk._parts = [self.run(row) for row in zip(*columns, strict=True)]
            TaskHandle._settle(chunk, FINISHED, ([], {}, 0.0), None)
        else:
            self._note_given()
        return chunk

    def follow(self, give: Callable[..., Part], *what: Any) -> Part:
        """Give what follows from rows that were accepted, though the manager closes meanwhile.

        What it refuses all the same (its close was cut short, or it has failed) is a part that says so; as is a row
        whose arguments do not pickle any more.
        """
        try:
            with self._owner.accepting_more():
                return give(*what)
        except ProcbackgroundError as error:
            refused = Chunk(self._owner, self, (), 0)
            refused._parts = [refused]
            is_closed = isinstance(error, ManagerClosedError)
            TaskHandle._settle(refused, CANCELLED_AND_NOTIFIED if is_closed else FINISHED, None, error)
            if not isinstance(error, SerializationError):
                self._give_up(refused)
            return refused

    def run(self, row: tuple[Any, ...]) -> Part:
        return [] if self._is_over else self._door.run_row(self._fn, row)

    def adopt(self, row: tuple[Any, ...], failure: bytes | BaseException) -> Part:
        return [] if self._is_over else self._door.adopt_row(self._fn, row, failure)

    def go_on(self, columns: Columns, begin: int) -> Part:
        """Go on with rows that a chunk has not done."""
        return self.follow(self.give, columns, begin)

    def note_answers(self, given: int, done: int, took_s: float) -> None:
        """Take in that a chunk of `given` rows had `done` of them done in `took_s`."""

    def note_end(self, chunk: Chunk) -> None:
        """A chunk is done: start what its rows need that are not."""
        chunk.parts()

    def _note_given(self) -> None:
        """A chunk is with the manager, which will say when it is done."""

    def _give_up(self, *parts: Part) -> None:
        """Give nothing more: the rows that are left come to `parts`."""

    def _give_next(self) -> bool:
        columns = self._take(self.size)
        if not columns[0]:
            self._is_exhausted = True
            return False
        if self.size > 1:
            self._given.append(self.give(columns))
        else:
            self._given.append(self.run(tuple(column[0] for column in columns)))
        return True

    def _take(self, count: int | None) -> Columns:
        """Take rows of the input, or all."""
        if len(self._iterables) == 1:
            return (list(itertools.islice(self._iterables[0], count)),)
        rows = list(itertools.islice(zip(*self._iterables, strict=False), count))
        return tuple(map(list, zip(*rows, strict=True))) if rows else ([],)

    # -- taking --------------------------------------------------------------------------------------------

    def results(self) -> Results:
        """Return the values in order; a row's error is raised when it is its turn."""
        return Results(self._values(), self._cancel)

    def _values(self) -> Generator[list[Any], None, None]:
        parts = self._taken
        failed: Chunk | None = None  # of `parts`, as a whole
        try:
            while True:
                with self.lock:
                    if not self._given:
                        return
                    parts.append(self._given.popleft())
                    if not self._is_exhausted:
                        self._give_next()
                while parts:
                    part = parts.pop()
                    if isinstance(part, list):
                        yield part
                    elif failed is not None and part is failed:
                        failed.result(0)  # raises
                    elif isinstance(part, Chunk):
                        if not part.done():
                            self._wait_for(part)
                        values = part.whole()
                        if values is not None:
                            del part  # it holds the arguments
                            yield values
                            continue
                        inner = part.parts()
                        if inner and inner[-1] is part:
                            failed = part
                        parts += reversed(inner)
                    elif isinstance(part, Rest):
                        self._awaited = [part]
                        more = part.wait_for_more(self._remaining_s())
                        self._awaited = []
                        if more is not None:
                            parts += (part, more)
                    else:
                        self._wait_for(part)
                        value = [part.result()]
                        del part  # it holds its result
                        yield value
                        continue
                    del part
        except GeneratorExit:
            # It may be the collector that ends us, in any thread, at any point, with any lock held.
            self._owner.do_soon(self._cancel)
            raise
        except BaseException:
            self._cancel()
            raise

    def _wait_for(self, part: TaskHandle[Any]) -> None:
        self._awaited = [part]
        if self._is_over:
            part.cancel()  # whoever cancels looks at `_awaited` after that
        try:
            part.exception(self._remaining_s())
        except CancelledError:
            pass
        finally:
            self._awaited = []
            if not part.done():
                part.cancel()

    def _remaining_s(self) -> float | None:
        return None if self._end_s is None else max(0.0, self._end_s - time.monotonic())

    def _cancel(self) -> None:
        with self.lock:
            self._is_over = True
            parts = [*self._awaited, *self._taken, *self._given]
            self._taken.clear()
            self._given.clear()
            self._give_up()
        while parts:
            part = parts.pop()
            if isinstance(part, Rest):
                parts += part.given
            elif isinstance(part, Chunk) and part._parts is not None:
                parts += (inner for inner in part._parts if inner is not part)
            elif not isinstance(part, list):
                part.cancel()


class AdaptingMapper(Mapper):
    """Sizes its chunks by what the rows before have taken, and gives a few at a time, earlier rows first."""

    adapts = True

    def __init__(
        self,
        door: FrontDoor,
        owner: Owner,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout_s: float | None,
        workers: int,
    ) -> None:
        self._workers = workers
        self._rests: list[Rest] = []  # that have rows left; a heap
        self._left = 0  # their rows
        self._out = 0  # chunks given that are not done
        self._has_learned = False
        self._range = iterables[0] if len(iterables) == 1 and type(iterables[0]) is range else None
        super().__init__(door, owner, fn, iterables, timeout_s, door.recall_rows(fn) or FIRST_ROWS)

    def _give_first(self, buffersize: int | None) -> None:
        self._changed = threading.Condition(self.lock)
        self._is_exhausted = True
        # All is taken at once, as Executor.map does.
        columns = self._take(None) if self._range is None else (self._range,)
        if columns[0]:
            self._given.append(self.go_on(columns, 0))
            try:
                self._give_more(lambda give, *what: give(*what))
            except BaseException:
                self._cancel()  # or what was given would draw the rest after it
                raise

    def go_on(self, columns: Columns, begin: int) -> Part:
        rest = Rest(columns, begin, self._changed)
        heapq.heappush(self._rests, rest)
        self._left += rest.left
        return rest

    def _give_more(self, give: Callable[..., Part]) -> None:
        """Keep some chunks out for each worker, the last ones small enough to end together."""
        while self._left and self._out < OUT_PER_WORKER * self._workers and not self._is_over:
            rest = self._rests[0]
            fair = -(-self._left // (2 * self._workers))
            # What a map before has learned may be wrong for these rows: at first every worker gets some.
            least = self.size // LEAST_SHARE if self._has_learned else 0
            begin = rest.begin
            columns = rest.take(min(self.size, max(fair, least, 1)))
            if not rest.left:
                heapq.heappop(self._rests)  # else it stays first: it has grown, but not beyond the next
            self._left -= len(columns[0])
            rest.given.append(give(self.give, columns, begin))
            self._changed.notify_all()

    def _note_given(self) -> None:
        self._out += 1

    def _give_up(self, *parts: Part) -> None:
        for rest in self._rests:
            rest.given += parts
            rest.left = 0
        self._rests.clear()
        self._left = 0
        self._changed.notify_all()

    def note_answers(self, given: int, done: int, took_s: float) -> None:
        if done >= self.size or done < given:
            self.size = max(1, min(MAX_ROWS, GROWTH * self.size, int(done * CHUNK_S / max(1e-6, took_s))))
            self._has_learned = True
            self._door.remember_rows(self._fn, self.size)

    def note_end(self, chunk: Chunk) -> None:
        with self.lock:
            self._out -= 1
            try:
                chunk.parts()
            finally:
                self._give_more(self.follow)


class Results(Iterator[Any]):
    """What `map` returns: the values in order, to be closed as a generator can be.

    `iter` gives an iterator over the values that have come, in which nothing is written in Python: a generator would
    double what a value costs here. All such iterators take from the same values, whoever uses them in whatever thread.
    """

    def __init__(self, source: Generator[list[Any], None, None], cancel: Callable[[], None]) -> None:
        self._source = source
        self._cancel = cancel
        self._lock = threading.RLock()
        self._is_closed = False
        self._values: list[Any] = []  # that have come and are not in `_taker`; in reverse
        self._popped: list[Any] = []  # what `_taker` takes from and shortens; in reverse
        self._taker: Iterator[Any] = iter(())  # over the values that are next

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self._takers())

    def __next__(self) -> Any:
        for value in self:
            return value
        raise StopIteration

    def close(self) -> None:
        """Cancel what has not ended; no value comes any more. A thread that waits for one gets `CancelledError`."""
        self._is_closed = True
        self._cancel()
        try:
            self._source.close()
        except ValueError:
            pass  # that thread is in it, and finds all cancelled
        self._values.clear()
        deque(self._taker, maxlen=0)

    def _takers(self) -> Iterator[Iterator[Any]]:
        while True:
            with self._lock:
                # Of many values the last are popped, too: while a piece is being taken, there are others.
                if not self._popped and not (self._values and operator.length_hint(self._taker)):
                    values = self._values
                    if not values:
                        came = self._next_values()
                        if came is None:
                            return
                        came.reverse()
                        values = came
                    if len(values) < LEAST_IN_PIECES:
                        self._popped, self._values = values, []
                        self._taker = map(list.pop, itertools.repeat(values, len(values)))
                    else:
                        piece = values[-PIECE_ROWS:]
                        piece.reverse()
                        del values[-PIECE_ROWS:]
                        self._values = values
                        self._taker = iter(piece)
                taker = self._taker
            yield taker

    def _next_values(self) -> list[Any] | None:
        try:
            return next(self._source, None)
        except ValueError:
            if self._is_closed:
                return None  # the thread that closes is in it
            raise
