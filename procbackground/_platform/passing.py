"""Receives descriptors through a socket, such that programs which other threads start meanwhile do not inherit them."""

from __future__ import annotations

import os
import socket
from array import array

_CLOSED_BY_EXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # macOS has none
_FD_BYTES = array("i").itemsize


def receive_fds(side: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Return the next message of up to `size` bytes, and up to `most` descriptors that came with it.

    `socket.recv_fds` ignores `flags` in Python 3.11. Raises: `OSError`.
    """
    data, ancillary, _, _ = side.recvmsg(size, socket.CMSG_LEN(most * _FD_BYTES), flags | _CLOSED_BY_EXEC)
    fds = array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % _FD_BYTES])
    if not _CLOSED_BY_EXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return data, fds.tolist()
