"""The shared page: a line of words for each worker, by which parent and child tell each other without a message.

Each word has a single writer and is stored whole (eight aligned bytes), or its lowest byte is; so there is nothing to
lock. A line is two cache lines, one for each writer, so that they and the workers do not slow each other.
"""

from __future__ import annotations

import mmap
import sys

WORDS_PER_LINE = 16
LINES = 16384  # a line a worker; the file is sparse, so unused lines cost nothing
PAGE_SIZE = LINES * WORDS_PER_LINE * 8

# Written by the child.
STARTED = 0  # number of the request begun last; written before its arguments are loaded
ITERATIONS = 1  # a loop's finished iterations
ROW = 2  # that a chunk is at; NO_ROW while it loads its arguments or pickles values
SIGN_NS = 3  # monotonic time of the last heartbeat or progress
PAUSED = 4  # 1 while a loop pauses between iterations
BEGAN_NS = 5  # monotonic time at which a loop's iteration, or a chunk's row `LOOKED_ROW`, began
LOOKED_ROW = 6  # before which a chunk last looked at the clock; written after `BEGAN_NS`
PID = 7  # of the worker, while it lives; cleared by the parent when it has ended

# Written by the parent.
REVOKED = 8  # requests up to this number that have not begun are to be skipped
STOP = 9  # 1: a stop was asked for
LOOKS = 10  # lowest byte: counts the looks at the clock that a chunk was asked for, each due before its next row

NO_ROW = 2**64 - 1


def map_page(fd: int) -> memoryview:
    """Return the words of the page behind `fd`; the view keeps the mapping alive."""
    return memoryview(mmap.mmap(fd, PAGE_SIZE)).cast("Q")


def lowest_byte(word: int) -> int:
    """Return where in the bytes of the page the lowest byte of `word` is."""
    return 8 * word + (7 if sys.byteorder == "big" else 0)
