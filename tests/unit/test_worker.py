"""The worker's request loop, in this process, on real pipes."""

from __future__ import annotations

import os

import pytest

from procbackground._wire.frames import ProtocolError
from procbackground._wire.page import WORDS_PER_LINE
from procbackground._worker.boot import Boot
from procbackground._worker.main import Worker
from procbackground._worker.relay import Levels


def test_garbage_in_the_task_pipe_ends_the_request_loop():
    words = memoryview(bytearray(8 * WORDS_PER_LINE)).cast("Q")
    read_fd, write_fd = os.pipe()
    try:
        os.write(write_fd, b"this is no request\n")
        with pytest.raises(ProtocolError, match="this is no request"):
            Worker(words, Boot(None, Levels())).serve(read_fd)
    finally:
        os.close(read_fd)
        os.close(write_fd)
