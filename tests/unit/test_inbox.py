"""How a worker reads its task pipe, and when it waits awake; on a real pipe."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from procbackground._worker import inbox as module
from procbackground._worker.inbox import MAX_MISSES, Inbox

AWAKE_S, LATE_S = 0.005, 0.1  # longer than a worker's, so that a busy machine does not matter


@pytest.fixture(autouse=True)
def _longer_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPIN_S", AWAKE_S)
    monkeypatch.setattr(module, "QUICK_S", 60.0)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    for fd in (read_fd, write_fd):
        try:
            os.close(fd)
        except OSError:
            pass  # the test did


def read_late(inbox: Inbox, write_fd: int, *, came_alone: bool = True) -> bytes:
    """Read from a pipe that is written to only when the reader has waited for longer than it would stay awake."""
    timer = threading.Timer(LATE_S, os.write, (write_fd, b"late"))
    timer.start()
    data = inbox.read(came_alone, time.perf_counter())
    timer.join()
    return data


def test_nothing_is_set_up_for_a_single_request(pipe):
    read_fd, write_fd = pipe
    inbox = Inbox(read_fd)
    os.write(write_fd, b"first")
    assert inbox.read(False, 0.0) == b"first"
    assert os.get_blocking(read_fd)


def test_what_is_there_is_read_and_what_comes_late_is_waited_for(pipe):
    read_fd, write_fd = pipe
    inbox = Inbox(read_fd)
    os.write(write_fd, b"there")
    assert inbox.read(True, time.perf_counter()) == b"there"
    for came_alone in (True, False):
        assert read_late(inbox, write_fd, came_alone=came_alone) == b"late"


def test_the_rest_of_a_request_is_waited_for(pipe):
    """A request larger than the pipe comes in parts, and after a part there may be no time of a request to tell."""
    read_fd, write_fd = pipe
    inbox = Inbox(read_fd)
    os.write(write_fd, b"whole")
    assert inbox.read(True, time.perf_counter()) == b"whole"
    timer = threading.Timer(LATE_S, os.write, (write_fd, b"rest"))
    timer.start()
    assert inbox.read(False, 0.0) == b"rest"
    timer.join()


def test_the_end_of_the_pipe_ends_the_wait(pipe):
    read_fd, write_fd = pipe
    inbox = Inbox(read_fd)
    os.close(write_fd)
    assert inbox.read(False, 0.0) == b""
    assert inbox.read(True, time.perf_counter()) == b""


def test_waiting_awake_stops_when_it_does_not_pay(pipe, monkeypatch):
    read_fd, write_fd = pipe
    inbox = Inbox(read_fd)
    monkeypatch.setattr(module, "_usable_cpus", lambda: 2)
    looks = []
    for _ in range(MAX_MISSES + 2):
        count = 0

        class Counting:
            @staticmethod
            def read(fd: int, size: int) -> bytes:
                nonlocal count
                count += 1
                return os.read(fd, size)

            set_blocking = staticmethod(os.set_blocking)

        monkeypatch.setattr(module, "os", Counting)
        assert read_late(inbox, write_fd) == b"late"
        looks.append(count)
    assert max(looks[:MAX_MISSES]) > 2  # it looked again and again before it slept
    assert set(looks[MAX_MISSES:]) == {2}  # once, and when it was woken
