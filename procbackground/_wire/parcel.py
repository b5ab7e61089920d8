"""Parcels: large payloads, sent as the descriptor of a file in memory instead of in a frame.

A pipe moves 64 KiB a system call and copies each byte twice; a parcel is written once and mapped. Pickle's protocol 5
provides the buffers of arrays without a copy, so they are written to the file directly. The receiver maps the file
privately: the buffers are writable, but writes do not change the file, so that a retry gets the original arguments.
The file has no name and is freed with its last descriptor, also after SIGKILL.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import socket
import struct
from collections.abc import Iterator, Sequence

from procbackground import _platform
from procbackground._load import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

PARCEL_BYTES = 1 << 20  # below, four more system calls and the page faults cost more than the copies
FEW = 16  # parcels that are always allowed: hardly any process ever has more
SHARE = 4  # parcels may use one in this many of the descriptors that this process may have
_ALIGNMENT = 64  # of buffers in the file: a cache line, and the widest vector registers
_COUNT = struct.Struct("<I")


class Parcel:
    """A pickle and its buffers in a file in memory; the descriptor is closed with this object."""

    __slots__ = ("fd", "label")

    living: ClassVar[int] = 0

    def __init__(self, fd: int, label: bytes) -> None:
        self.fd: int = fd
        self.label: bytes = label  # the sizes of the parts, as bytes for the frame
        Parcel.living += 1

    def __del__(self) -> None:
        Parcel.living -= 1
        try:
            os.close(self.fd)
        except OSError:
            pass  # other code closed it by mistake

    def load(self) -> Any:
        """Return the value. Its buffers share the pages of the file until they are written to."""
        (count,) = _COUNT.unpack_from(self.label)
        sizes = struct.unpack_from(f"<{count}Q", self.label, _COUNT.size)
        mapping = mmap.mmap(self.fd, sum(map(_padded, sizes)), mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        view = memoryview(mapping)
        parts = []
        position = 0
        for size in sizes:
            parts.append(view[position : position + size])
            position += _padded(size)
        return pickle.loads(parts[0], buffers=parts[1:])


def may_pack() -> bool:
    """Whether one more parcel may hold a descriptor: waiting parcels must leave some to workers and to the user."""
    if Parcel.living < FEW:
        return True
    load("resource")  # here: most processes never need it
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit == resource.RLIM_INFINITY or limit // SHARE > Parcel.living


def pack(pickled: bytes, buffers: Sequence[memoryview]) -> Parcel:
    """Write a pickle and its out-of-band buffers to a new file in memory. Raises: `OSError`."""
    parts = [memoryview(pickled), *buffers]
    sizes = [part.nbytes for part in parts]
    fd = _platform.make_memory_file("procbackground-parcel")
    parcel = Parcel(fd, _COUNT.pack(len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes))
    for part in parts:
        rest = part
        while rest.nbytes:
            rest = rest[os.write(fd, rest) :]
        padding = _padded(part.nbytes) - part.nbytes
        if padding:
            os.write(fd, bytes(padding))
    return parcel


def raw_buffers(buffers: list[pickle.PickleBuffer]) -> list[memoryview] | None:
    """Return the buffers as plain bytes, or None if one is not contiguous and must be pickled in band."""
    try:
        return [buffer.raw() for buffer in buffers]
    except BufferError:
        return None


def send_parcel(side_fd: int, parcel: Parcel) -> None:
    """Send the descriptor; the frame with the label must follow. Raises: `OSError`."""
    with _socket(side_fd) as side:
        socket.send_fds(side, [b"p"], [parcel.fd])


def receive_parcel(side_fd: int, label: bytes) -> Parcel:
    """Receive the descriptor that was sent before the frame with this label. Raises: `OSError`, `EOFError`."""
    with _socket(side_fd) as side:
        data, fds, _, _ = socket.recv_fds(side, 1, 1)
    if not data or not fds:
        raise EOFError("the other side has ended, or no descriptor is left")
    os.set_inheritable(fds[0], False)
    return Parcel(fds[0], label)


@contextlib.contextmanager
def _socket(fd: int) -> Iterator[socket.socket]:
    """Provide a socket object for a descriptor, for a moment: most workers never need one."""
    wrapped = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        yield wrapped
    finally:
        wrapped.detach()


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
