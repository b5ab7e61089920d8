"""Keeps results in files until the journal has them; see `_wire.spool`.

There are two files, which are filled in turns: one is emptied when the journal has all that is in it.
"""

from __future__ import annotations

import fcntl
import os
import time

from procbackground._wire import spool
from procbackground._wire.page import RECORDED
from procbackground._wire.parcel import Parcel

FILE_BYTES = 1 << 20  # of a file that is filled; then the other one is used, if it can be emptied


class Spool:
    """The files of one worker: `path` and a letter."""

    def __init__(self, path: str, words: memoryview, base: int) -> None:
        self._path = path
        self._words = words
        self._word = base + RECORDED
        self._fds = [-1, -1]
        self._last = [0, 0]  # sequence number of the latest result in each
        self._at = 0
        self._size = 0
        self._is_broken = False  # no more results are kept: the disk is full, say

    def open(self) -> None:
        """Make the first file, and lock it: who finds it locked knows that this worker is still there."""
        try:
            self._fds[0] = self._make("-a")
            fcntl.lockf(self._fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._is_broken = True

    def keep(self, sequence: int, key: bytes, attempt: int, started: float, answer: bytes | Parcel) -> None:
        """Keep the answer to a request."""
        if self._is_broken:
            return
        try:
            form, data = spool.PICKLE if answer else spool.NONE, answer
            if isinstance(data, Parcel):
                stored = data.stored()
                if stored is None:
                    return
                form, data = spool.BUFFERS, stored
            if self._size >= FILE_BYTES and self._words[self._word] >= self._last[1 - self._at]:
                self._change_files()
            record = spool.dump(key, form, attempt, started, time.time(), data)
            written = os.write(self._fds[self._at], record)
            # Nothing after a record that is cut short could be found.
            self._is_broken = written < len(record)
            self._size += written
            self._last[self._at] = sequence
        except OSError:
            self._is_broken = True

    def _change_files(self) -> None:
        other = 1 - self._at
        if self._fds[other] < 0:
            self._fds[other] = self._make("-b")
        os.ftruncate(self._fds[other], 0)
        self._at, self._size = other, 0

    def _make(self, letter: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        return os.open(self._path + letter, flags, 0o600)
