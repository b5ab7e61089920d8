"""One worker's pipes in the parent, over real pipes: frames stay whole, and nothing is written after the end."""

from __future__ import annotations

import os
import random
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from procbackground._supervisor.channel import Channel


class Ends(NamedTuple):
    """A channel, and the worker's ends of its pipes."""

    channel: Channel
    task_fd: int
    result_fd: int
    side: socket.socket


@pytest.fixture
def ends() -> Iterator[Ends]:
    task_fd, write_fd = os.pipe()
    read_fd, result_fd = os.pipe()
    ours, theirs = socket.socketpair()
    ends = Ends(Channel(write_fd, read_fd, ours.detach()), task_fd, result_fd, theirs)
    yield ends
    ends.channel.close()
    theirs.close()
    for fd in (task_fd, result_fd):
        try:
            os.close(fd)
        except OSError:
            pass  # the test did


def read_all_that_is_there(fd: int) -> bytes:
    data = b""
    while select.select([fd], [], [], 0)[0]:
        data += os.read(fd, 1 << 16)
    return data


def test_what_the_pipe_has_no_room_for_follows_in_order_and_whole(ends):
    chance = random.Random(1)
    frames = [chance.randbytes(chance.choice([10, 5_000, 70_000, 300_000])) for _ in range(40)]
    came = b""
    results = []
    for number, frame in enumerate(frames):
        results.append(ends.channel.write(frame))
        if number % 7 == 6:  # the worker reads now and then
            came += os.read(ends.task_fd, 100_000)
        if number % 5 == 4:
            ends.channel.write_rest()
    assert False in results
    assert ends.channel.unsent is not None
    for _ in range(1000):
        came += read_all_that_is_there(ends.task_fd)
        if ends.channel.write_rest():
            break
    came += read_all_that_is_there(ends.task_fd)
    assert came == b"".join(frames)
    assert ends.channel.unsent is None


def test_after_the_tasks_are_closed_nothing_is_written_into_whoever_has_the_number(ends, tmp_path: Path):
    channel = ends.channel
    while channel.write(bytes(50_000)):
        pass
    number = channel.task_fd
    channel.close_tasks()
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert file == number  # the lowest free one: the file has it now
    try:
        assert channel.write(b"late")
        assert channel.write_rest()
        channel.close_tasks()  # nor is it closed
        assert os.fstat(file).st_size == 0
    finally:
        os.close(file)


def test_the_worker_sees_the_end_once_the_tasks_are_closed(ends):
    assert ends.channel.write(b"last")
    ends.channel.close_tasks()
    assert os.read(ends.task_fd, 100) == b"last"
    assert os.read(ends.task_fd, 100) == b""


def test_writing_to_a_worker_that_has_died_is_no_error(ends):
    os.close(ends.task_fd)
    assert ends.channel.write(b"request")
    assert ends.channel.write_rest()
    assert ends.channel.unsent is None


def test_reading_tells_nothing_yet_from_nothing_more(ends):
    assert ends.channel.read() is None
    os.write(ends.result_fd, b"answer")
    assert ends.channel.read() == b"answer"
    assert ends.channel.read() is None
    os.write(ends.result_fd, b"last")
    os.close(ends.result_fd)
    assert ends.channel.read() == b"last"
    assert ends.channel.read() == b""
    ends.channel.close_results()
    assert ends.channel.read() == b""


def test_closing_closes_each_descriptor_once(ends):
    channel = ends.channel
    before = channel.fds()
    assert len(before) == 3
    channel.close()
    assert channel.fds() == []
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in before]
    channel.close()
    for fd in taken:
        os.close(fd)  # raises for one that was closed
