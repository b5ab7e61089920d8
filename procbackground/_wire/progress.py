"""Progress reports: their encoding, and the places of the shared page that hold the latest one of each worker.

Every report is written to the page, which costs the task half a microsecond; only one each `INTERVAL_S` is also sent by
the pipe. So the parent finds the last one in any case: also where the task then computes for long without a call, holds
the interpreter lock in C code, or dies.

A worker has two places and a counter. Reports are numbered. The child writes number n to place n % 2, then stores n in
the counter: the place that the counter points to is always complete, also after a death in the midst of writing.
"""

from __future__ import annotations

import struct

from procbackground._named import NamedTuple
from procbackground._wire.page import LINES_SIZE

INTERVAL_S = 0.05  # between two reports by the pipe
# How long after a report came by the pipe the parent looks at the page: at least `INTERVAL_S`, within which the child
# sends no other.
LOOK_AFTER_S = INTERVAL_S

BEGIN = LINES_SIZE  # in the page: behind all lines of words
EXACT = 2**53  # a float has all integers up to here
FIRST_PLACE = 16  # behind the counter
PLACE_SIZE = 504

HEAD = struct.Struct("<QQQddBH")  # number, request, row of a chunk, done, total, flags, bytes of the message
TEXT_LIMIT = PLACE_SIZE - HEAD.size  # bytes of the message; the rest is cut off

# Flags.
DONE_IS_INT = 1
TOTAL_IS_INT = 2
HAS_TOTAL = 4
HAS_TEXT = 8


class Report(NamedTuple):
    """What a task reported."""

    number: int
    sequence: int
    row: int
    done: float
    total: float | None
    message: str | None


def place_of(number: int) -> int:
    """Return where in a worker's part of the page the report `number` is."""
    return FIRST_PLACE + PLACE_SIZE * (number & 1)


def unpack(data: bytes | memoryview) -> Report:
    """Return the report at the beginning of `data`. Raises: `struct.error` if there is none."""
    number, sequence, row, done, total, flags, length = HEAD.unpack_from(data)
    text = bytes(data[HEAD.size : HEAD.size + min(length, TEXT_LIMIT)])
    return Report(
        number,
        sequence,
        row,
        _number(done, flags & DONE_IS_INT),
        _number(total, flags & TOTAL_IS_INT) if flags & HAS_TOTAL else None,
        text.decode("utf-8", "ignore") if flags & HAS_TEXT else None,
    )


def _number(value: float, is_int: int) -> float:
    # A report that is replaced while it is read may be anything, and is read again.
    return int(value) if is_int and abs(value) <= EXACT else value
