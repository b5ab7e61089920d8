"""Some rows of a map that travel as one request, and what follows from its answer. No thread, no lock, no clock.

A chunk fails row by row. A row that raised becomes a job of its own, with that failure as its first attempt. When
the chunk's process dies, or a row runs over its time, the rows that were answered count, the failed row becomes a job,
and the rest goes into new chunks. So a row has the same policy and the same end as a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from procbackground._sync import Sleeper
from procbackground._wire.loading import loads
from procbackground._wire.pickling import is_of_users_code
from procbackground.errors import SerializationError, TaskTimeoutError, repr_of
from procbackground.handle import Owner, TaskHandle

if TYPE_CHECKING:
    from procbackground._submit.map.rest import Part

# The arguments of some rows, a list for each parameter. A range is cut into ranges, whose numbers are made where they
# are used: a quarter less for large chunks of numbers, though nothing for small ones.
Columns: TypeAlias = "tuple[list[Any] | range, ...]"

# The content of one message about some rows: their values, the failures by row, and the seconds that they took.
Answer: TypeAlias = "tuple[list[Any], dict[int, bytes], float]"


class Values(NamedTuple):
    """The next rows came to these values."""

    values: list[Any]


class FailedRow(NamedTuple):
    """The next row failed once: its policy decides whether it is tried again, as a job of its own."""

    row: int
    failure: bytes | BaseException


class UntriedRow(NamedTuple):
    """The next row becomes a task of its own."""

    row: int


class UndoneRows(NamedTuple):
    """The next rows go into new chunks."""

    begin: int
    end: int


class Lost(NamedTuple):
    """The next rows, all that are left, end as their chunk did."""

    rows: int


Step: TypeAlias = Values | FailedRow | UntriedRow | UndoneRows | Lost


def load_answers(
    bodies: list[bytes], last: Answer | None, error: BaseException | None
) -> tuple[list[Answer], BaseException | None]:
    """Return the answers of a chunk that is done, and its error; that of loading them, where it has no other."""
    answers: list[Answer] = []
    try:
        answers.extend(loads(body) for body in bodies)  # until one cannot be loaded
    except BaseException as refusal:
        if not is_of_users_code(refusal):
            raise
        if error is None:  # else the rows of that answer count as not answered
            error = SerializationError(f"a result could not be loaded in the parent: {repr_of(refusal)}")
    if error is None:
        assert last is not None
        answers.append(last)
    return answers, error


def plan(count: int, answers: list[Answer], error: BaseException | None, ended_at_row: int) -> list[Step]:
    """Return what follows for each of the `count` rows of a chunk, in their order.

    Args:
        error: that the chunk as a whole ended with.
        ended_at_row: that the worker had come to when it ended; of use if it died or was stopped.
    """
    steps: list[Step] = []
    answered = 0
    for values, failures, _ in answers:
        begin = 0
        for row, failure in sorted(failures.items()):
            steps += (Values(values[begin:row]), FailedRow(answered + row, failure))
            begin = row + 1
        steps.append(Values(values[begin:] if begin else values))
        answered += len(values)
    if error is None:
        if answered < count:  # the worker left some rows for other chunks
            steps.append(UndoneRows(answered, count))
        return steps
    if not _is_of_one_row(error):
        return [*steps, Lost(count - answered)]
    failed_row = max(ended_at_row, answered)
    # Where the arguments or the values could not be loaded, each row finds out for itself; so does each where the
    # process ended while it loaded arguments or pickled values, which may have been those of any row.
    if isinstance(error, SerializationError) or failed_row >= count:
        return [*steps, *map(UntriedRow, range(answered, count))]
    if failed_row > answered:
        steps.append(UndoneRows(answered, failed_row))  # done, but not answered
    steps.append(FailedRow(failed_row, error))
    if failed_row + 1 < count:
        steps.append(UndoneRows(failed_row + 1, count))
    return steps


def _is_of_one_row(error: BaseException) -> bool:
    """Whether `error` ended one chunk only; else the manager takes no more work, and every row has this error."""
    from procbackground.errors import WorkerDiedError

    return isinstance(error, (SerializationError, WorkerDiedError, TaskTimeoutError, MemoryError))


class Listener(Protocol):
    """What a chunk needs of its map."""

    is_watched: bool  # acts on each chunk when it is done, not when the consumer comes to it

    def note_end(self, chunk: Chunk) -> None:
        """A chunk is done; some of its rows may have to be sent again."""
        ...


class RowHandle(TaskHandle[Any]):
    """The handle of one row, where observers want to know of rows. The map announces it and settles it."""

    __slots__ = ("_is_begun",)

    _is_announced = True

    def __init__(self, owner: Owner, make: Callable[..., Any], row: tuple[Any, ...]) -> None:
        super().__init__(owner, make, row)
        self._is_begun = False


class Chunk(TaskHandle[Any]):
    """The handle of a request for some rows of a map. It collects answers; the mapper acts on them."""

    __slots__ = (
        "_bodies", "_goes_on", "_listener", "_row_handles", "_saved", "columns", "first_row", "parts", "rows_begun",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        listener: Listener,
        columns: Columns,
        first_row: int,
        row_handles: Sequence[TaskHandle[Any]] | None = None,
    ) -> None:
        super().__init__(owner, None, ())
        self._row_handles = row_handles
        self.rows_begun: int = 0  # rows whose `on_task_started` was sent
        self._listener = listener
        self._bodies: list[bytes] = []
        self._saved: dict[int, bytes] = {}  # the state that each row saved last, pickled
        self._goes_on = True  # more may come of it than values; `_settle` knows better
        self.columns: Columns = columns
        self.first_row: int = first_row  # its number in the map
        self.parts: list[Part] | None = None  # what the rows came to, once the mapper has acted on the answers

    def _take_part(self, body: bytes) -> None:
        self._bodies.append(body)

    def _take_checkpoint(self, row: int, state: bytes) -> None:
        self._saved[row] = state

    def _settle(
        self,
        state: str,
        result: Any,
        exception: BaseException | None,
        sleepers: list[Sleeper] | None = None,
    ) -> bool:
        # After a success nothing is done until the consumer comes, unless rows must be sent again or wait for
        # this chunk's place.
        goes_on = self._goes_on = (
            exception is not None
            or self._listener.is_watched
            or bool(self._bodies)
            or (result is not None and (bool(result[1]) or len(result[0]) < len(self.columns[0])))
        )
        super()._settle(state, result, exception, sleepers)
        if goes_on:
            self._owner.hold()  # what follows from it belongs to the map, which was accepted: a close waits for it
        return goes_on

    def _invoke_callbacks(self) -> None:
        try:
            self._listener.note_end(self)
        finally:
            self._owner.let_go()

    def _shown(self) -> TaskHandle[Any]:
        handles = self._row_handles
        return handles[max(0, self.rows_begun - 1)] if handles else self

    def whole(self) -> list[Any] | None:
        """Return the values where all rows came to one; None where the mapper has to look. The chunk is done.

        It saves the consumer a tenth of what a chunk of 64 costs the parent.
        """
        return None if self._goes_on or self._result is None else self._result[0]

    def plain_rows(self) -> int:
        """Return how many rows have succeeded, where the mapper does not look at the answer; else 0. It is done."""
        return 0 if self._goes_on or self._result is None else len(self._result[0])

    def answers(self) -> tuple[list[Answer], BaseException | None]:
        """Return the answers, and the error that the chunk ended with. It is done, and was not cancelled."""
        return load_answers(self._bodies, self._result, self._exception)

    def handle_of(self, row: int) -> TaskHandle[Any] | None:
        """Return the handle of one row, if it has one."""
        return None if self._row_handles is None else self._row_handles[row]

    def row(self, row: int) -> tuple[Any, ...]:
        """Return the arguments of one row."""
        return tuple(column[row] for column in self.columns)

    def rows(self, begin: int, end: int) -> Columns:
        """Return the arguments of some rows, and their handles if they have any, for new chunks."""
        columns = self.columns if self._row_handles is None else (*self.columns, self._row_handles)
        return tuple(column[begin:end] for column in columns)  # type: ignore[misc]  # of lists and ranges

    def saved(self, row: int) -> bytes | None:
        """Return the state that one row saved last, pickled."""
        return self._saved.get(row)

    def forget_rows(self) -> None:
        """Drop arguments and answers, which are not needed any more."""
        self.columns = ()
        self._bodies = []
        self._row_handles = None
        self._saved = {}
