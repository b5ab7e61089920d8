"""The shared page: a line of words for each worker, by which parent and child tell each other without a message.

Each word has a single writer and is stored whole (eight aligned bytes), so there is nothing to lock. A line is
64 bytes, a cache line, so that workers do not slow each other.
"""

from __future__ import annotations

import mmap

WORDS_PER_LINE = 8
LINES = 16384  # a line a worker; the file is sparse, so unused lines cost nothing
PAGE_SIZE = LINES * WORDS_PER_LINE * 8

# Written by the child.
STARTED = 0  # number of the request begun last; written before its arguments are loaded
ITERATIONS = 1  # a loop's finished iterations
SIGN_NS = 2  # monotonic time of the last heartbeat or progress
PAUSED = 3  # 1 while a loop pauses between iterations
BEGAN_NS = 7  # monotonic time at which a loop's iteration or a chunk's row began, each of which has the whole timeout
PID = 6  # of the worker, while it lives; cleared by the parent when it has ended

# Written by the parent.
REVOKED = 4  # requests up to this number that have not begun are to be skipped
STOP = 5  # 1: a stop was asked for


def map_page(fd: int) -> memoryview:
    """Return the words of the page behind `fd`; the view keeps the mapping alive."""
    return memoryview(mmap.mmap(fd, PAGE_SIZE)).cast("Q")
