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
from weakref import WeakSet

from procbackground._load import load
from procbackground._platform.files import OwnedFile, map_copy, open_memory_file
from procbackground._wire.descriptors import MOST_DESCRIPTORS, load_with
from procbackground._wire.loading import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

PARCEL_BYTES = 1 << 20  # below, four more system calls and the page faults cost more than the copies
FEW = 16  # parcels that are always allowed: hardly any process ever has more
SHARE = 4  # parcels may use one in this many of the descriptors that this process may have
_OF_PARCEL = b"p"  # marks the descriptors of a parcel
_ALIGNMENT = 64  # of buffers in the file: a cache line, and the widest vector registers
_COUNTS = struct.Struct("<II")  # of the parts, and of the files
_STORED_COUNT = struct.Struct("<I")  # of the parts of a parcel that is kept as bytes; their sizes follow, and the file


class Parcel:
    """A pickle and its buffers in a file in memory, and descriptors that cross with it; to be sent.

    Its descriptors are closed with this object.
    """

    __slots__ = ("__weakref__", "files", "label", "size")

    living: ClassVar[WeakSet[Parcel]] = WeakSet()

    def __init__(self) -> None:
        self.files: list[OwnedFile] = []  # the file in memory, then what crosses with it
        self.label: bytes = b""  # the sizes of the parts, and the number of files, as bytes for the frame
        self.size: int = 0  # bytes of its content
        Parcel.living.add(self)

    def __len__(self) -> int:
        return self.size

    def stored(self) -> bytes | None:
        """Return a copy of its content that `load_stored` takes; None where descriptors cross with it."""
        if len(self.files) > 1:
            return None
        part_count, _ = _COUNTS.unpack_from(self.label)
        sizes = struct.unpack_from(f"<{part_count}Q", self.label, _COUNTS.size)
        with mmap.mmap(self.files[0].fileno(), sum(map(_padded, sizes)), mmap.MAP_PRIVATE, mmap.PROT_READ) as mapping:
            return _stored(sizes, bytes(mapping))


class ReceivedParcel:
    """A parcel on the other side. What is large in it needs no descriptor any more."""

    __slots__ = ("_files", "_mapping", "_sizes")

    def __init__(self, mapping: mmap.mmap, sizes: tuple[int, ...], files: list[OwnedFile]) -> None:
        self._mapping = mapping
        self._sizes = sizes
        self._files = files

    def load(self) -> Any:
        """Return the value. Its buffers share the pages of the file until they are written to."""
        view = memoryview(self._mapping)
        if not self._files:
            return _load_parts(self._sizes, view)
        return load_with(self._files, lambda: _load_parts(self._sizes, view))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._mapping)

    def stored(self) -> bytes | None:
        """Return a copy that `load_stored` takes; None where descriptors cross with it, which cannot be kept."""
        return None if self._files else _stored(self._sizes, bytes(self._mapping))


def load_stored(data: bytes) -> Any:
    """Return the value of a parcel that was kept as bytes."""
    (count,) = _STORED_COUNT.unpack_from(data)
    begin = _STORED_COUNT.size + 8 * count
    # In a bytearray, so that arrays can be written to, as those of a value that has just come.
    content = memoryview(bytearray(data[begin:]))
    return _load_parts(struct.unpack_from(f"<{count}Q", data, _STORED_COUNT.size), content)


def _stored(sizes: Sequence[int], content: bytes) -> bytes:
    return _STORED_COUNT.pack(len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes) + content


def _load_parts(sizes: Sequence[int], view: memoryview) -> Any:
    parts = []
    position = 0
    for size in sizes:
        parts.append(view[position : position + size])
        position += _padded(size)
    return loads(parts[0], parts[1:])


def may_pack() -> bool:
    """Whether one more parcel may hold a descriptor: waiting parcels must leave some to workers and to the user."""
    count = len(Parcel.living)
    if count < FEW:
        return True
    load("resource")  # here: most processes never need it
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit == resource.RLIM_INFINITY or limit // SHARE > count


def pack(pickled: bytes, buffers: Sequence[memoryview], passed: Sequence[OwnedFile] = ()) -> Parcel:
    """Write a pickle and its out-of-band buffers to a new file in memory; `passed` crosses with it. Raises: `OSError`.

    An exception at any point, such as a signal handler's, leaves no descriptor open.
    """
    parts = [memoryview(pickled), *buffers]
    sizes = [part.nbytes for part in parts]
    parcel = Parcel()
    parcel.files += (open_memory_file("procbackground-parcel"), *passed)
    parcel.label = _COUNTS.pack(len(sizes), len(parcel.files)) + struct.pack(f"<{len(sizes)}Q", *sizes)
    parcel.size = sum(sizes)
    fd = parcel.files[0].fileno()
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
    """Send the descriptors; the frame with the label must follow. Raises: `OSError`."""
    with _socket(side_fd) as side:
        socket.send_fds(side, [_OF_PARCEL], [file.fileno() for file in parcel.files])


def receive_parcel(side_fd: int, label: bytes) -> ReceivedParcel:
    """Receive the parcel that was sent before the frame with this label. Raises: `OSError`, `EOFError`."""
    part_count, file_count = _COUNTS.unpack_from(label)
    sizes = struct.unpack_from(f"<{part_count}Q", label, _COUNTS.size)
    files = _receive_files(side_fd, _OF_PARCEL)
    if len(files) != file_count:
        raise EOFError("the other side has ended, or no descriptor is left")
    # Now, not when it is loaded: results that wait need no descriptors then.
    file = files.pop(0)
    mapping = map_copy(file.fileno(), sum(map(_padded, sizes)))
    return ReceivedParcel(mapping, sizes, files)


def drop_parcel(side_fd: int) -> None:
    """Receive a parcel that is not needed. Raises: `OSError`."""
    _receive_files(side_fd, _OF_PARCEL)


def send_pipes(side_fd: int, sequence: int, fds: Sequence[int]) -> None:
    """Send the pipes of an attempt's output; the frame must follow. Raises: `OSError`."""
    with _socket(side_fd) as side:
        socket.send_fds(side, [_of_output(sequence)], fds)


def receive_pipes(side_fd: int, sequence: int, count: int) -> list[int]:
    """Receive the pipes that were sent for a request. Raises: `OSError`, `EOFError`."""
    fds = _receive_fds(side_fd, _of_output(sequence))
    for fd in fds:
        os.set_blocking(fd, False)
    if len(fds) != count:
        for fd in fds:
            os.close(fd)
        raise EOFError("the other side has ended, or no descriptor is left")
    return fds


def _of_output(sequence: int) -> bytes:
    return bytes((0x80 | sequence & 0x7F,))  # never `_OF_PARCEL`


def _receive_files(side_fd: int, mark: bytes) -> list[OwnedFile]:
    return [OwnedFile(fd) for fd in _receive_fds(side_fd, mark)]


def _receive_fds(side_fd: int, mark: bytes) -> list[int]:
    """Receive what was sent with `mark`. Anything before it belongs to a frame that was never sent."""
    with _socket(side_fd) as side:
        while True:
            data, fds, _, _ = socket.recv_fds(side, 1, MOST_DESCRIPTORS + 1)
            if not data or data == mark:
                break
            for fd in fds:
                os.close(fd)
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(fds)


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
