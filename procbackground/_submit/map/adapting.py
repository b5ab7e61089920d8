"""A map that sizes its chunks by what the rows before have taken."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

from procbackground._submit.map.chunk import Chunk, Columns
from procbackground._submit.map.mapper import Mapper
from procbackground._submit.map.rest import Failed, Part, Rest
from procbackground._submit.map.sizing import OUT_PER_WORKER, Sizing
from procbackground._submit.map.watch import UNWATCHED, RowWatch
from procbackground._submit.recipes import Submitter


class AdaptingMapper(Mapper):
    """Gives a few chunks at a time, earlier rows first."""

    adapts = True

    def __init__(
        self,
        submitter: Submitter,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout_s: float | None,
        workers: int,
        returns_exceptions: bool = False,
        watch: RowWatch = UNWATCHED,
    ) -> None:
        self.sizing = Sizing(submitter.recall_rows(fn))
        self._workers = workers
        self._rests: list[Rest] = []  # that have rows left; a heap
        self._out = 0  # chunks given that are not done
        self._range = iterables[0] if len(iterables) == 1 and type(iterables[0]) is range else None
        super().__init__(submitter, fn, iterables, timeout_s, 1, returns_exceptions, watch)

    def _give_first(self) -> None:
        # All is taken at once, as Executor.map does.
        columns = self._take(None) if self._range is None else (self._range,)
        if columns[0]:
            self._given.append(self._go_on(self._watch.with_handles(columns), 0))
            self._give_more(is_accepted=False)

    def _go_on(self, columns: Columns, begin: int) -> Part:
        rest = Rest(columns, begin)
        heapq.heappush(self._rests, rest)
        return rest

    def _give_more(self, *, is_accepted: bool) -> None:
        """Keep some chunks out for each worker, the last ones small enough to end together.

        Args:
            is_accepted: it follows from rows that were accepted.
        """
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
                if is_accepted:
                    part = self._follow(len(columns[0]), self._give, columns, begin)
                else:
                    part = self._give(columns, begin)
            except BaseException as error:
                rest.add(Failed(error, 0))  # or the values of these rows would be missing silently
                self._give_up(None)
                raise
            rest.add(part)

    def _note_given(self) -> None:
        self._out += 1

    def _give_up(self, error: BaseException | None) -> None:
        for rest in self._rests:
            if rest.left and self._watch.tells:
                left: Any = rest.columns[-1][-rest.left :]
                self._watch.end_rows(left, error)
            rest.end(error)
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
                self._give_more(is_accepted=True)
