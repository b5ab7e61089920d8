"""Descriptors that come through a socket are closed in programs that are started from the first moment on."""

import os
import socket

import pytest

from procbackground._platform import passing


@pytest.mark.parametrize("is_closed_by_kernel", [True, False])
def test_received_descriptors_are_not_inherited(monkeypatch, is_closed_by_kernel):
    if not is_closed_by_kernel:
        monkeypatch.setattr(passing, "_CLOSED_BY_EXEC", 0)  # as on macOS
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for fd in (ours.fileno(), theirs.fileno()):
            os.set_inheritable(fd, True)
        socket.send_fds(theirs, [b"two"], [ours.fileno(), theirs.fileno()])
        message, fds = passing.receive_fds(ours, 16, 4)
        try:
            assert message == b"two"
            assert [os.get_inheritable(fd) for fd in fds] == [False, False]
        finally:
            for fd in fds:
                os.close(fd)


def test_flags_reach_the_system_call():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(BlockingIOError):
        passing.receive_fds(ours, 16, 4, socket.MSG_DONTWAIT)


def test_a_message_without_descriptors_has_none():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"one")
        assert passing.receive_fds(ours, 16, 4) == (b"one", [])
