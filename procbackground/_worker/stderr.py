"""Copies what is written to `sys.stderr` to the shared page, so that the error of a death shows the last lines.

Only `write` of the stream is replaced: its descriptor, and so colours and the order of lines, are as they were. What
does not come through it is not copied: the output of C code and of processes that a task starts.
"""

from __future__ import annotations

import os
import sys

from procbackground._wire import stderr
from procbackground._wire.page import ROW, STARTED, WORDS_PER_LINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class StderrCopy:
    """The copy of one worker."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._base = 0
        self._pid = -1
        self._writer = (0, 0, 0)  # of the text: pid, request and row of a chunk
        self._text = b""
        self._stream: Any = None

    def install(self) -> None:
        """Copy what is written to `sys.stderr` from now on; in a zygote, to what its forks write once they are open."""
        stream: Any = sys.stderr
        if stream is None or stream is self._stream:
            return
        write = stream.write

        def copy_and_write(text: str) -> Any:
            self._copy(text)  # first: a full pipe or disk must not keep it from the error
            return write(text)

        try:
            stream.write = copy_and_write
        except AttributeError:
            return  # a stream of the user's whose attributes are fixed
        self._stream = stream

    def open(self, base: int, pid: int) -> None:
        """Copy to the line of the page at `base`, as long as this is process `pid`: not its forks."""
        self._base, self._pid = base, pid

    def _copy(self, text: str) -> None:
        if type(text) is not str or os.getpid() != self._pid:
            return
        writer = (self._pid, self._words[self._base + STARTED], self._words[self._base + ROW])
        kept = self._text if writer == self._writer else b""
        self._writer = writer
        self._text = (kept + text[-stderr.TEXT_BYTES :].encode("utf-8", "backslashreplace"))[-stderr.TEXT_BYTES :]
        stderr.write(self._words.obj, self._base // WORDS_PER_LINE, writer, self._text)
