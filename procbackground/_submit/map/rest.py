"""The parts that a map's consumer takes in order, and the rows that are not in a chunk yet."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple, TypeAlias

from procbackground._submit.map.chunk import Chunk, Columns
from procbackground._sync import Latch
from procbackground.handle import TaskHandle

# The consumer's view: values, jobs of their own, chunks, rows that are yet to be given, and rows that never will be, in
# the order of the rows.
Part: TypeAlias = "list[Any] | TaskHandle[Any] | Chunk | Rest | Failed"


class Failed(NamedTuple):
    """The next `rows` rows came to `error` without having run; 0 of them where it ends the map."""

    error: BaseException
    rows: int


class Rest:
    """Rows that are not given yet, of the input or of a chunk, and the parts of those that are."""

    __slots__ = ("begin", "columns", "given", "left", "news")

    def __init__(self, columns: Columns, begin: int) -> None:
        self.columns: Columns = columns
        self.begin: int = begin  # number of the first row that is left
        self.left: int = len(columns[0])
        self.given: deque[Part] = deque()  # in order of the rows, and not consumed
        self.news: Latch | None = None  # of a consumer that waits for parts, or for the end

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

    def add(self, part: Part) -> None:
        """Add the part that some rows went into."""
        self.given.append(part)
        self.notify()

    def end(self, error: BaseException | None) -> None:
        """End all rows that are left with `error`; with None their results are not wanted any more."""
        if error is not None:
            self.given.append(Failed(error, self.left))
        self.left = 0
        self.columns = ()
        self.notify()

    def notify(self) -> None:
        """Wake the consumer, if it waits."""
        if self.news is not None:
            self.news.set()
