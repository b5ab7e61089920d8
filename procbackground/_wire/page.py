"""The shared page: a line of words for each worker, through which parent and child share state without messages.

Each word has a single writer, who stores it whole (eight aligned bytes) or stores only its lowest byte; so no lock is
needed. A line is two cache lines, one for each writer, so that writers do not slow each other down.
"""

from __future__ import annotations

import mmap
import sys

WORDS_PER_LINE = 16
LINES = 16384  # a line a worker; the file is sparse, so unused lines cost nothing
REPORT_BYTES = 1024  # a line's place for progress reports, behind all lines; see `_wire.progress`
LINES_SIZE = LINES * WORDS_PER_LINE * 8
STDERR_BEGIN = LINES_SIZE + LINES * REPORT_BYTES
STDERR_BYTES = 1024  # a line's place for what it wrote last to `sys.stderr`, behind those; see `_wire.stderr`
PAGE_SIZE = STDERR_BEGIN + LINES * STDERR_BYTES

# Written by the child.
STARTED = 0  # number of the request begun last; written before its arguments are loaded
ITERATIONS = 1  # a loop's finished iterations
ROW = 2  # current row of a chunk; NO_ROW while it loads its arguments or pickles values
SIGN_NS = 3  # monotonic time of the last heartbeat or progress
PAUSED = 4  # why the time of the attempt does not count: IN_PAUSE or LOADING, else 0
BEGAN_NS = 5  # monotonic time at which a loop's iteration, a chunk's row `LOOKED_ROW`, or a call after LOADING began
LOOKED_ROW = 6  # row before which a chunk last read the clock; written after `BEGAN_NS`
PID = 7  # of the worker; the parent clears it when the worker has ended

# Written by the parent.
REVOKED = 8  # the worker skips requests up to this number unless they have begun
STOP = 9  # 1 once a stop was requested
# Lowest byte: counts the parent's requests to a chunk to read the clock before its next row. A fork that the task has
# made changes it, too, so that the fork's copy of the chunk comes to its end; for the worker that is one reading more.
LOOKS = 10
MARK = 11  # by which what the worker starts is recognised (`_platform.marks`); 0 once the worker has ended
RECORDED = 12  # the journal has the answers to all requests up to this number

# Written by the child, in the other's cache line because its own is full: once for many requests, so this costs little.
PACE = 13  # how long a request took of late, see `pack_pace`

NO_ROW = 2**64 - 1
_HALF_WORD = 2**32 - 1

# Values of PAUSED.
IN_PAUSE = 1  # between two iterations of a loop
LOADING = 2  # a function that this worker has not loaded before, and what it imports


def map_page(fd: int) -> memoryview:
    """Return the words of the page behind `fd`; the view keeps the mapping alive."""
    return memoryview(mmap.mmap(fd, PAGE_SIZE)).cast("Q")


def pack_pace(mean_s: float, last: int) -> int:
    """Return the word for requests up to number `last` that took `mean_s` each, without the time between them."""
    return min(int(mean_s * 1e9), _HALF_WORD) << 32 | last & _HALF_WORD


def unpack_pace(word: int, last: int) -> float | None:
    """Return the mean if it is of requests up to number `last`, else None."""
    return (word >> 32) / 1e9 if word & _HALF_WORD == last & _HALF_WORD else None


def lowest_byte(word: int) -> int:
    """Return the position of the lowest byte of `word` in the bytes of the page."""
    return 8 * word + (7 if sys.byteorder == "big" else 0)
