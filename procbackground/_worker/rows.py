"""Calls a function for each row of a map's chunk: `execute` has it done where a request has many rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from procbackground._wire import frames as wire
from procbackground._wire.failures import dump_failure
from procbackground._wire.page import BEGAN_NS, LOOKED_ROW, LOOKS, NO_ROW, ROW, lowest_byte
from procbackground._worker.answers import dump_partial, dump_rows
from procbackground._worker.stop import StopTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from procbackground._wire.parcel import Parcel
    from procbackground._worker.execute import Executor

PARTIAL_NS = 3_000_000  # between two partial answers of a chunk: each costs a frame and time of the parent
# A chunk that takes longer than this ends early, if it may: it was expected to take a third of it, and another worker
# could run the rest. Not much shorter, because on a busy machine a chunk waits for the processor.
LONG_NS = 10_000_000
BLOCK_ROWS = 256  # between two readings of the clock: as many as the lowest byte of a word can count
SLOW_ROW_NS = 50_000  # rows that take longer get a reading of the clock each


def call_each(
    executor: Executor, fn: Callable[..., Any], columns: tuple[Sequence[Any], ...], may_end_early: bool
) -> bytes | Parcel:
    """Call `fn` for each row of a chunk and return the answer; a row that raises does not affect the others.

    Finished rows are sent every few milliseconds, so that a death loses few of them. A chunk that takes long and
    `may_end_early` leaves the rows that it has not begun.

    The clock is read before each slow row, but only once for a block of quick rows. If a quick row takes long after
    all, the parent requests a reading before the next one. Reading the clock for each row would double the cost
    of a row that does nothing; so would storing and reading whole words instead of bytes.
    It is one loop in one function, because a call of ours for each row would be most of what a row costs.
    """
    values: list[Any] = []
    failures: dict[int, bytes] = {}
    words, base = executor.words, executor.base
    row_word, began_word, looked_word = base + ROW, base + BEGAN_NS, base + LOOKED_ROW
    page: Any = words.obj
    low_byte, asked_byte = lowest_byte(row_word), lowest_byte(base + LOOKS)
    asked = page[asked_byte]
    has_one = len(columns) == 1
    count = len(columns[0])
    first = row = looked_row = 0  # row of values[0], next row, row at the last reading
    clock_ns = time.monotonic_ns
    began_ns = sent_ns = looked_ns = clock_ns()
    while row < count:
        if executor.is_fork:
            raise SystemExit(0)  # the rows that are left are the worker's
        now_ns = clock_ns()
        is_quick = now_ns - looked_ns < SLOW_ROW_NS * (row - looked_row)
        if values and now_ns - sent_ns > PARTIAL_NS:
            words[row_word] = NO_ROW  # in case pickling one of the values kills the process
            partial = dump_partial(values, failures)
            if executor.was_stopped:
                raise StopTask  # it came while a value was pickled
            if partial is not None:
                executor.channel.send(wire.PARTIAL, executor.sequence, partial)
                values, failures, first = [], {}, row
            sent_ns = now_ns = clock_ns()
        looked_row, looked_ns = row, now_ns
        words[began_word] = now_ns
        words[looked_word] = row
        words[row_word] = row
        if may_end_early and row and now_ns - began_ns > LONG_NS:
            break
        low = row % BLOCK_ROWS
        end = row - low + BLOCK_ROWS if is_quick else row + 1
        rows = columns[0][row:end] if has_one else zip(*(column[row:end] for column in columns), strict=True)
        append = values.append
        try:
            # From here on, a death or a timeout is charged to the marked row.
            for page[low_byte], arguments in enumerate(rows, low):
                append(fn(arguments) if has_one else fn(*arguments))
                if page[asked_byte] != asked:
                    asked = page[asked_byte]
                    break
        except StopTask:
            raise
        except BaseException as error:
            if executor.is_fork:
                raise
            if executor.was_stopped:
                raise StopTask from error
            at = row - low + page[low_byte] - first
            del values[at:]  # this row's value is there if a signal handler raised after it was appended
            failures[at] = dump_failure(error)
            append(None)
        row = first + len(values)
    words[row_word] = NO_ROW
    return dump_rows(values, failures, (clock_ns() - began_ns) / 1e9)
