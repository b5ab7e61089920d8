"""Large payloads, apart from the frames: a file in memory that travels as a descriptor.

A pipe moves 64 KiB a system call and copies each byte twice; a parcel is written once and mapped. Pickle's protocol 5
gives the buffers of arrays without copying them, so that they go straight from the array to the file. The receiver
maps the file privately: what it gets is writable, and its writes stay its own, so that a retry finds the arguments
as they were. The file has no name, and is gone with its last holder, also after SIGKILL.
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

PARCEL_BYTES = 1 << 20  # below, four more system calls and the page faults cost more than the copies
FEW = 16  # that may be, whatever the limit is: nearly no process ever has more
SHARE = 4  # of the descriptors that this process may have, one in so many is for what waits
_ALIGNMENT = 64  # of buffers in the file: a cache line, and what vector instructions like
_COUNT = struct.Struct("<I")


class Parcel:
    """A pickle and its buffers in a file in memory; the file is let go with this object."""

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
            pass  # closed by somebody who had no business to

    def load(self) -> Any:
        """Return the value; its buffers are pages of the file until they are written to."""
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
    """Whether one more is to hold a descriptor: those that wait are not to leave workers, and the user, without any."""
    if Parcel.living < FEW:
        return True
    import resource  # here, as most processes never come to it

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
    """Return the buffers as plain bytes, or None if one is not contiguous: that one has to go in band."""
    try:
        return [buffer.raw() for buffer in buffers]
    except BufferError:
        return None


def send_parcel(side_fd: int, parcel: Parcel) -> None:
    """Send the descriptor; the frame with its label comes after it. Raises: `OSError`."""
    with _socket(side_fd) as side:
        socket.send_fds(side, [b"p"], [parcel.fd])


def receive_parcel(side_fd: int, label: bytes) -> Parcel:
    """Take the descriptor that was sent before the frame with this label. Raises: `OSError`, `EOFError`."""
    with _socket(side_fd) as side:
        data, fds, _, _ = socket.recv_fds(side, 1, 1)
    if not data or not fds:
        raise EOFError("the other side is gone, or no descriptor is left")
    os.set_inheritable(fds[0], False)
    return Parcel(fds[0], label)


@contextlib.contextmanager
def _socket(fd: int) -> Iterator[socket.socket]:
    """Lend a socket object for a descriptor. Most workers never need one, and it would be made in each."""
    lent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        yield lent
    finally:
        lent.detach()


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
