"""Sends what the task reports by `current().progress(...)`: always to the shared page, now and then by the pipe."""

from __future__ import annotations

import itertools
import os
import time

from procbackground._wire import frames as wire
from procbackground._wire import progress as p
from procbackground._wire.page import REPORT_BYTES, ROW, SIGN_NS, WORDS_PER_LINE
from procbackground._worker.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INTERVAL_NS = int(p.INTERVAL_S * 1e9)


_pack_into = p.HEAD.pack_into
_HEAD_SIZE, _TEXT_LIMIT, _EXACT = p.HEAD.size, p.TEXT_LIMIT, p.EXACT
_DONE_IS_INT, _HAS_TOTAL, _HAS_TEXT = p.DONE_IS_INT, p.HAS_TOTAL, p.HAS_TEXT
_HAS_INT_TOTAL = p.HAS_TOTAL | p.TOTAL_IS_INT


def checked_number(value: Any) -> float:
    """Return what a task reports as a float. Raises: `TypeError` if it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"progress takes numbers, such as progress(3, 10), not {value!r}") from None


class Reporter:
    """The progress reports of one worker."""

    def __init__(self, channel: Channel, words: memoryview) -> None:
        self._channel = channel
        self._words = words
        self._page: Any = words.obj
        self._places = (0, 0)
        self._counter = self._row = self._sign = 0  # words of the page
        # One call, so that no two threads get the same number. With `_number + 1` the last of many threads that report
        # set it back, and what the task reported next was dropped as an old one.
        self._next_number = itertools.count(1).__next__
        self._number = 0
        self._sent = 0  # the last one that went by the pipe
        self._sent_ns = 0
        self._pid = -1

    def open(self, base: int) -> None:
        """Use the part of the page that belongs to the line at `base`."""
        begin = p.BEGIN + base // WORDS_PER_LINE * REPORT_BYTES
        self._places = (begin + p.place_of(0), begin + p.place_of(1))
        self._counter = begin // 8
        self._row = base + ROW
        self._sign = base + SIGN_NS
        self._pid = os.getpid()

    def report(self, sequence: int, done: Any, total: Any, message: Any) -> None:
        """Take a report of the request `sequence`. Also a sign of life."""
        if os.getpid() != self._pid:
            return  # a process that the task forked: two writers would mix their reports
        words = self._words
        if type(done) is int and -_EXACT <= done <= _EXACT:
            flags = _DONE_IS_INT
        else:
            flags = 0
            done = checked_number(done)
        if total is None:
            total = 0
        elif type(total) is int and -_EXACT <= total <= _EXACT:
            flags |= _HAS_INT_TOTAL
        else:
            flags |= _HAS_TOTAL
            total = checked_number(total)
        number = self._next_number()
        place = self._places[number & 1]
        if message is None:
            _pack_into(self._page, place, number, sequence, words[self._row], done, total, flags, 0)
        else:
            text = str(message).encode("utf-8", "replace")[:_TEXT_LIMIT]
            length = len(text)
            _pack_into(self._page, place, number, sequence, words[self._row], done, total, flags | _HAS_TEXT, length)
            place += _HEAD_SIZE
            self._page[place : place + length] = text
        self._number = words[self._counter] = number
        # Read the clock after the report is in the page: if it is not sent, the look that follows the last one sees it.
        now_ns = words[self._sign] = time.monotonic_ns()
        if now_ns - self._sent_ns >= _INTERVAL_NS:
            self._sent, self._sent_ns = number, now_ns
            self._channel.send(wire.PROGRESS, sequence, self._bytes_of(number))

    def pending(self, sequence: int) -> bytes:
        """Return the frame with the last report of the request `sequence`, if it was not sent by the pipe.

        It goes before the answer: the next request may report progress before the parent looks at the page.
        """
        number = self._number
        if number == self._sent:
            return b""
        self._sent, self._sent_ns = number, time.monotonic_ns()
        return wire.frame(wire.PROGRESS, sequence, self._bytes_of(number))

    def _bytes_of(self, number: int) -> bytes:
        begin = self._places[number & 1]
        length = p.HEAD.unpack_from(self._page, begin)[-1]
        return bytes(self._page[begin : begin + p.HEAD.size + length])
