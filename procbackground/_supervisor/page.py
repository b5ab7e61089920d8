"""The parent's view of the shared page: a worker's words by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from procbackground._platform import marks
from procbackground._state import commands as c
from procbackground._state.fleet import Worker
from procbackground._wire import progress, stderr
from procbackground._wire.page import (
    BEGAN_NS,
    IN_PAUSE,
    LOADING,
    LOOKED_ROW,
    MARK,
    NO_ROW,
    PACE,
    PAUSED,
    REPORT_BYTES,
    ROW,
    SIGN_NS,
    STARTED,
    WORDS_PER_LINE,
    map_page,
    unpack_pace,
)
from procbackground.handle import TaskHandle


class Page:
    """The words of all workers; see `_wire.page` for who writes which."""

    note_row: Callable[[TaskHandle[Any], int, Worker], None]  # called with the row of a chunk that runs

    def __init__(self, fd: int) -> None:
        self.fd: int = fd
        self._words: memoryview = map_page(fd)
        self._lines = 0  # that workers have had
        self.family: int = marks.new_family()  # of the marks of all workers

    def read(self, worker: Worker, word: int) -> int:
        return self._words[worker.line * WORDS_PER_LINE + word]

    def write(self, worker: Worker, word: int, value: int) -> None:
        self._words[worker.line * WORDS_PER_LINE + word] = value

    def marks(self) -> set[int]:
        """Return the marks of the workers that have not ended."""
        return {*self._words[MARK : self._lines * WORDS_PER_LINE : WORDS_PER_LINE].tolist()}

    def clear(self, worker: Worker) -> None:
        """Make the worker's line ready for its process."""
        base = worker.line * WORDS_PER_LINE
        self._lines = max(self._lines, worker.line + 1)
        for word in range(base, base + WORDS_PER_LINE):
            self._words[word] = 0
        self._words[base + MARK] = marks.mark_of(self.family, worker.number)

    def clocks_of(self, worker: Worker) -> c.Clocks:
        """Return when the worker began what it does, and when it last gave a sign of life; now while a loop pauses."""
        began_s = worker.pipeline.head_since_s
        is_exact = True
        pause = self.read(worker, PAUSED)  # read first, as it is written last
        if pause == LOADING:
            return c.Clocks(began_s, max(began_s, self.read(worker, SIGN_NS) / 1e9), is_loading=True)
        current = worker.current
        if worker.loop is not None:
            iteration_s = self.read(worker, BEGAN_NS) / 1e9
            began_s = time.monotonic() if pause == IN_PAUSE else iteration_s or began_s
        elif current is not None and current.recipe.is_chunk:
            row, looked_row = self.read(worker, ROW), self.read(worker, LOOKED_ROW)
            looked_s = self.read(worker, BEGAN_NS) / 1e9  # read last, as it is written first
            if current.handle._row_handles is not None and row != NO_ROW:
                self.note_row(current.handle, row, worker)
            is_exact = row == looked_row and looked_s >= began_s
            began_s = max(began_s, looked_s)
        else:
            began_s = max(began_s, self.read(worker, BEGAN_NS) / 1e9)  # where it had to load the function
        return c.Clocks(began_s, max(began_s, self.read(worker, SIGN_NS) / 1e9), is_exact)

    def pace_of(self, worker: Worker, last: int) -> float | None:
        """Return how long each of the requests up to number `last` took the worker, or None: it has not said so yet."""
        return unpack_pace(self._words[worker.line * WORDS_PER_LINE + PACE], last)

    def read_report_number(self, worker: Worker) -> int:
        """Return the number of the worker's latest progress report."""
        return self._words[(progress.BEGIN + worker.line * REPORT_BYTES) // 8]

    def read_report(self, worker: Worker, number: int) -> progress.Report:
        """Return the progress report in the place of `number`."""
        begin = progress.BEGIN + worker.line * REPORT_BYTES + progress.place_of(number)
        page: Any = self._words.obj
        return progress.unpack(page[begin : begin + progress.PLACE_SIZE])

    def stderr_of(self, worker: Worker) -> bytes:
        """Return what the worker wrote last to `sys.stderr`, during the request, or row of a chunk, that it is at."""
        writer = (worker.pid, self.read(worker, STARTED), self.read(worker, ROW))
        return stderr.read(self._words.obj, worker.line, writer)

    def close(self) -> None:
        self._words = memoryview(b"")
