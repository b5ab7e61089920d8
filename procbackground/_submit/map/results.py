"""What `Manager.map` returns: the values in order, taken from pieces that the mapper brings."""

from __future__ import annotations

import itertools
import operator
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

# Values are popped one by one, so that nothing of what was given is kept. Of many a piece at a time is, which costs a
# third of that.
LEAST_IN_PIECES = 1024
PIECE_ROWS = 256


class Results(Iterator[Any]):
    """The values in order, to be closed as a generator can be.

    `iter` gives an iterator over the values that have come, in which nothing is written in Python: a generator would
    double what a value costs here. All such iterators take from the same values, in any thread.

    Args:
        source: yields lists of values.
        cancel: ends what has not ended; may be called more than once.
        keeper: an object that must live as long as this one.
        drop: called when this object goes, at any point; it takes no lock.
    """

    def __init__(
        self,
        source: Generator[list[Any], None, None],
        cancel: Callable[[], None],
        keeper: object = None,
        drop: Callable[[], None] | None = None,
    ) -> None:
        self._source = source
        self._cancel = cancel
        self._keeper = keeper
        self._drop = drop  # a generator that was never begun does nothing when it goes
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

    def __del__(self) -> None:
        if self._drop is not None:
            self._drop()

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
                try:
                    taker = self._next_taker()
                except BaseException:
                    # It may be Ctrl-C between two steps that move values. Values could be lost silently, so the
                    # iterator ends here, as a generator does after an exception.
                    self._is_closed = True
                    self._values, self._popped, self._taker = [], [], iter(())
                    self._cancel()
                    raise
                if taker is None:
                    return
            yield taker

    def _next_taker(self) -> Iterator[Any] | None:
        """Return an iterator over the values that are next, or None where there are no more."""
        # Of many values the last are popped, too: while a piece is being taken, there are others.
        if not self._popped and not (self._values and operator.length_hint(self._taker)):
            values = self._values
            if not values:
                came = self._next_values()
                if came is None:
                    return None
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
        return self._taker

    def _next_values(self) -> list[Any] | None:
        if self._is_closed:
            return None
        try:
            return next(self._source, None)
        except ValueError:
            if self._is_closed:
                return None  # the thread that closes is in it
            raise
