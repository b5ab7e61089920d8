"""Events of a map's rows that travel in chunks, and their handles, which observers find in the events.

A row that becomes a job of its own keeps its handle; from there on the supervisor sends its events. When exactly a row
of a chunk began is known only where it took long; of the others it is estimated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from functools import partial
from typing import TYPE_CHECKING, Any

from procbackground._submit.map import chunk as c
from procbackground._submit.map.chunk import Chunk, Columns, RowHandle
from procbackground._submit.recipes import Submitter
from procbackground.errors import ManagerClosedError
from procbackground.handle import TaskHandle

if TYPE_CHECKING:
    from procbackground.observers.bars import Bar


class RowWatch:
    """Tells observers of the rows of one map that travel in chunks, if it `tells`, and counts rows for a bar."""

    def __init__(self, submitter: Submitter | None, fn: Any, tells: bool, bar: Bar | None) -> None:
        self.tells = tells
        self._bar = bar
        self._followed = self._counted = 0  # rows that are tasks of their own: all, and those that the bar has
        if submitter is not None:
            self._port = submitter.port
            self._carrier = submitter.carrier
            self._make_task = partial(submitter.make_task, fn)

    def close(self, *, is_complete: bool = False) -> None:
        """The map is over; `is_complete` if all its values were taken."""
        if self._bar is not None:
            self._bar.close(self._followed - self._counted if is_complete else 0)

    def follow(self, handle: TaskHandle[Any]) -> None:
        """Count a row that is a task of its own once it is done."""
        if self._bar is not None:
            self._followed += 1
            handle.add_done_callback(self._count)

    def _count(self, handle: Any) -> None:
        assert self._bar is not None
        self._counted += 1  # by one thread, unless one is blocked; it serves only the last drawing
        self._bar.advance(1, failed=int(handle.cancelled() or handle.exception() is not None))

    def with_handles(self, columns: Columns) -> Columns:
        """Return the columns of new rows, and one more with their handles if it tells of them.

        Raises: `ManagerClosedError`, `InitializerError`.
        """
        if not self.tells:
            return columns
        port, make_task = self._port, self._make_task
        handles: list[TaskHandle[Any]] = [RowHandle(port, make_task, row) for row in zip(*columns, strict=True)]
        if self._carrier is not None:
            self._carrier.board(handles)
        port.announce(handles)
        return (*columns, handles)

    def tell_rows(self, chunk: Chunk, steps: Sequence[c.Step], error: BaseException | None) -> None:
        """Tell what has come of the rows of a chunk that is done, and settle the handles of those that have ended."""
        done = sum(len(step.values) for step in steps if isinstance(step, c.Values))
        if self._bar is not None:
            self._bar.advance(done)
        handles = chunk._row_handles
        if not handles:
            return
        attempts = chunk.attempts
        pid = attempts[-1].pid if attempts else None
        times = _Times(attempts[-1].started, attempts[-1].ended, done) if attempts else _Times(0.0, None, done)
        row = 0
        for step in steps:
            match step:
                case c.Values(values):
                    for value in values:
                        self._succeed(chunk, row, value, pid, *times.next())
                        row += 1
                case c.FailedRow(row, _):
                    self._start(chunk, row, pid, times.at_s)
                    row += 1
                case c.UntriedRow(_):
                    row += 1
                case c.UndoneRows(_, end):
                    row = end
                case c.Lost():
                    self.end_rows(handles[row:], error)

    def end_rows(self, handles: Iterable[TaskHandle[Any] | None] | None, error: BaseException | None) -> None:
        """Fail rows that are in no job with `error`; cancel them without one, or where the manager closes."""
        for handle in handles or ():
            if not self.tells or handle is None or handle.done() or handle._job is not None:
                continue
            if error is None or isinstance(error, ManagerClosedError):
                has_callbacks = handle._settle(CANCELLED_AND_NOTIFIED, None, None)
                self._port.tell("on_task_cancelled", handle)
            else:
                has_callbacks = handle._settle(FINISHED, None, error)
                self._port.tell("on_task_failed", handle, error=error)
            if has_callbacks:
                handle._invoke_callbacks()

    def _start(self, chunk: Chunk, row: int, pid: int | None, at_s: float) -> None:
        handle = chunk.handle_of(row)
        if handle is not None and not handle._is_begun and pid is not None:
            handle._is_begun = True
            self._port.tell("on_task_started", handle, at_s, pid=pid)

    def _succeed(self, chunk: Chunk, row: int, value: Any, pid: int | None, began_s: float, ended_s: float) -> None:
        handle: Any = chunk._row_handles[row]  # type: ignore[index]
        if handle.done():
            return  # cancelled by an exception that interrupted the call of `map`
        self._start(chunk, row, pid, began_s)
        if pid is not None:
            handle._success = (began_s, ended_s, pid, None, None)
        if handle._settle(FINISHED, value, None):
            handle._invoke_callbacks()
        self._port.tell("on_task_succeeded", handle, ended_s, result=value)


UNWATCHED = RowWatch(None, None, False, None)


class _Times:
    """Estimated times of the rows of a chunk, as if all had taken the same."""

    def __init__(self, began_s: float, ended_s: float | None, count: int) -> None:
        self.at_s = began_s
        self._step_s = 0.0 if ended_s is None else (ended_s - began_s) / max(1, count)

    def next(self) -> tuple[float, float]:
        began_s = self.at_s
        self.at_s += self._step_s
        return began_s, self.at_s
