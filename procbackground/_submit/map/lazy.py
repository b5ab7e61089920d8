"""A map whose input is pulled as its results are taken: `map(..., buffersize=)`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Any

from procbackground._submit.map.mapper import Mapper, columns_of
from procbackground._submit.map.rest import Part
from procbackground._submit.map.watch import UNWATCHED, RowWatch
from procbackground._submit.puller import make_puller
from procbackground._submit.recipes import Submitter

_END: Any = None  # comes after the last row


class LazyMapper(Mapper):
    """A map that has at most `buffersize` chunks out ahead of the results taken.

    A chunk is given once it is full. While the consumer has nothing else to wait for, it gives the rows that are there,
    so that they do not wait for an input that blocks.
    """

    def __init__(
        self,
        submitter: Submitter,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout_s: float | None,
        size: int,
        buffersize: int,
        returns_exceptions: bool = False,
        watch: RowWatch = UNWATCHED,
    ) -> None:
        rows = itertools.chain(zip(*map(iter, iterables), strict=False), (_END,))
        self._buffersize = buffersize
        self._rows: list[tuple[Any, ...]] = []  # pulled, and not in a chunk yet
        self._giving = threading.Lock()  # held while a chunk is given, which may take long, so that they stay in order
        self.puller = make_puller(submitter.port, rows, False, self._pulled, self._has_room)
        del rows  # without this reference the puller closes the input
        super().__init__(submitter, fn, (), timeout_s, size, returns_exceptions, watch)

    def _give_first(self) -> None:
        self.puller.start()

    # -- the puller ----------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return len(self._given) < self._buffersize

    def _pulled(self, row: tuple[Any, ...]) -> None:
        if self._size == 1:
            if row is not _END:
                self._add(self._run(row))
        else:
            with self._giving:
                if row is not _END:
                    self._rows.append(row)
                if len(self._rows) == self._size or (self._rows and row is _END):
                    self._give_pulled()
        if self.puller.news.sleepers:
            self.puller.news.ring()

    def _give_pulled(self) -> None:
        rows, self._rows = self._rows, []
        self._add(self._give(self._watch.with_handles(columns_of(rows))))

    def _add(self, part: Part) -> None:
        with self.lock:
            self._given.append(part)
        if self._is_over:
            self.cancel()  # which may have missed this one

    # -- the consumer --------------------------------------------------------------------------------------

    def _next_part(self) -> Part | None:
        puller = self.puller
        while True:
            has_ended = puller.has_ended and not self._rows  # before the look at what was given
            part = super()._next_part()
            if part is not None or self._is_over:
                if puller.room.sleepers:
                    puller.room.ring()
                return part
            if has_ended:
                puller.raise_error()
                return None
            if self._rows and self._giving.acquire(False):
                try:
                    if self._rows:
                        self._give_pulled()
                finally:
                    self._giving.release()
            elif not puller.news.wait(self._has_news, self._end_s):
                raise TimeoutError

    def _has_news(self) -> bool:
        return bool(self._given or self._rows) or self.puller.has_ended or self._is_over

    def cancel(self) -> None:
        self.puller.stop()
        super().cancel()
