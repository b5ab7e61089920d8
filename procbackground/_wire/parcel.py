"""Parcels: payloads that do not fit into a frame: large ones, and those with descriptors or shared values.

A pipe moves 64 KiB a system call and copies each byte twice; what is large in a parcel is written once to a file in
memory and mapped. Pickle's protocol 5 provides the buffers of arrays without a copy, so they are written to the file
directly. The receiver maps the file privately: the buffers are writable, but writes do not change the file, so that a
retry gets the original arguments. The file has no name and is freed with its last descriptor, also after SIGKILL.

The frame carries the parcel's label: where each part is, which shared values it needs, and a small pickle itself.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate

from procbackground._platform.files import OwnedFile, map_copy
from procbackground._platform.passing import receive_fds
from procbackground._wire.copies import Copies, may_open_one_more, padded
from procbackground._wire.descriptors import MOST_DESCRIPTORS, load_with
from procbackground._wire.loading import loads
from procbackground._wire.shares import OpenShare, ReceivedShares, SharedFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PARCEL_BYTES = 1 << 20  # below, four more system calls and the page faults cost more than the copies
INLINE_BYTES = 1 << 16  # a pickle up to this is part of the label: the worker reads as much at once
_OF_PARCEL = b"p"  # marks the descriptors of a parcel
_OF_SHARE = b"s"  # ... and that of a shared value
_COUNTS = struct.Struct("<IIII")  # of the mapped files, of other files, of the parts, and of the shared values
_PART = struct.Struct("<IQQ")  # file, position, size
_STORED_COUNT = struct.Struct("<I")  # of the parts of a parcel that is kept as bytes; their sizes follow, and the parts


class Parcel:
    """A pickle and its buffers in files in memory, and descriptors that cross with it; to be sent.

    Its descriptors are closed with this object.
    """

    __slots__ = ("copies", "files", "label", "shares", "size")

    def __init__(self) -> None:
        self.copies: list[Copies] = []  # of the buffers; other parcels may refer to them, too
        self.files: list[OwnedFile] = []  # theirs, then what crosses with them
        self.label: bytes = b""  # what the receiver must know, for the frame
        self.shares: tuple[SharedFile, ...] = ()
        self.size: int = 0  # bytes that it has added to those of other parcels

    def open_here(self) -> ReceivedParcel:
        """Return what a receiver would have, in the process that has made it. Raises: `OSError`."""
        return _open(self.label, list(self.files), self.shares)

    def __len__(self) -> int:
        return self.size

    def stored(self) -> bytes | None:
        """Return a copy of its content that `unstore` takes, with its shared values; None where descriptors cross."""
        return self.open_here().stored(is_without_shares=True)


class ReceivedParcel:
    """A parcel on the other side. What is large in it needs no descriptor any more."""

    __slots__ = ("_files", "_parts", "_shares")

    def __init__(
        self, parts: list[memoryview], files: list[OwnedFile], shares: Sequence[OpenShare] | Sequence[SharedFile]
    ) -> None:
        self._parts = parts  # the pickle, and its buffers
        self._files = files
        self._shares = shares

    def load(self) -> Any:
        """Return the value. Its buffers share the pages of their files until they are written to."""
        parts = self._parts
        if not self._files and not self._shares:
            return loads(parts[0], parts[1:])
        return load_with(self._files, self._shares, lambda: loads(parts[0], parts[1:]))

    @property
    def size(self) -> int:
        """Bytes of its parts."""
        return sum(part.nbytes for part in self._parts)

    def stored(self, is_without_shares: bool = False) -> bytes | None:
        """Return a copy that `load_stored` takes; None where descriptors cross with it, which cannot be kept.

        Shared values count among these, unless the copy is taken `is_without_shares`.
        """
        if self._files or (self._shares and not is_without_shares):
            return None
        sizes = [part.nbytes for part in self._parts]
        pieces: list[bytes | memoryview] = [_STORED_COUNT.pack(len(sizes)), struct.pack(f"<{len(sizes)}Q", *sizes)]
        for part, size in zip(self._parts, sizes, strict=True):
            pieces += (part, bytes(padded(size) - size))
        return b"".join(pieces)


def load_stored(data: bytes) -> Any:
    """Return the value of a parcel that was kept as bytes."""
    parts = _stored_parts(data)
    return loads(parts[0], parts[1:])


def receive_stored(data: bytes) -> ReceivedParcel:
    """Return a parcel that came as bytes, from another machine."""
    return ReceivedParcel(_stored_parts(data), [], ())


def unstore(data: bytes, shares: Sequence[SharedFile]) -> Parcel:
    """Return a parcel that was kept as bytes, to be sent again with its shared values. Raises: `OSError`."""
    parts = _stored_parts(data)
    return pack(bytes(parts[0]), parts[1:], shares=shares)


def _stored_parts(data: bytes) -> list[memoryview]:
    (count,) = _STORED_COUNT.unpack_from(data)
    begin = _STORED_COUNT.size + 8 * count
    sizes = struct.unpack_from(f"<{count}Q", data, _STORED_COUNT.size)
    # In a bytearray, so that arrays can be written to, as those of a value that has just come.
    content = memoryview(bytearray(data[begin:]))
    ends = accumulate(map(padded, sizes))
    return [content[end - padded(size) :][:size] for size, end in zip(sizes, ends, strict=True)]


def may_pack() -> bool:
    """Whether one more parcel may have a file in memory."""
    return may_open_one_more(len(Copies.living))


def pack(
    pickled: bytes,
    buffers: Sequence[memoryview],
    passed: Sequence[OwnedFile] = (),
    shares: Sequence[SharedFile] = (),
) -> Parcel:
    """Write a pickle and its out-of-band buffers to a file in memory; `passed` and `shares` cross with it.

    A small pickle needs no file, and neither does a buffer that another parcel has a copy of. Raises: `OSError`.
    An exception at any point, such as a signal handler's, leaves no descriptor open.
    """
    is_inline = len(pickled) <= INLINE_BYTES
    written = list(buffers) if is_inline else [memoryview(pickled), *buffers]
    parcel = Parcel()
    parcel.shares = tuple(shares)
    new: Copies | None = None
    places: list[tuple[Copies, int, int]] = []
    for part in written:
        found = Copies.find(part)
        if found is None:
            new = new or Copies()
            found = new, new.write(part)
            parcel.size += part.nbytes
        places.append((*found, part.nbytes))
    parcel.copies = list(dict.fromkeys(copies for copies, _, _ in places))
    parcel.files = [*(copies.file for copies in parcel.copies), *passed]
    numbers = [share.number for share in shares]
    sizes = [copies.size for copies in parcel.copies]
    parcel.label = b"".join(
        (
            _COUNTS.pack(len(sizes), len(passed), len(places), len(numbers)),
            struct.pack(f"<{len(sizes)}Q", *sizes),
            *(_PART.pack(parcel.copies.index(copies), begin, size) for copies, begin, size in places),
            struct.pack(f"<{len(numbers)}Q", *numbers),
            pickled if is_inline else b"",
        )
    )
    parcel.size += len(parcel.label)
    return parcel


def _open(label: bytes, files: list[OwnedFile], shares: ReceivedShares | Sequence[SharedFile]) -> ReceivedParcel:
    """Map the files of the parcel with this label. Raises: `OSError`, `EOFError`."""
    mapped_count, passed_count, part_count, share_count = _COUNTS.unpack_from(label)
    if len(files) != mapped_count + passed_count:
        raise EOFError("the other side has ended, or no descriptor is left")
    position = _COUNTS.size
    sizes = struct.unpack_from(f"<{mapped_count}Q", label, position)
    position += 8 * mapped_count
    parts_end = position + _PART.size * part_count
    numbers = struct.unpack_from(f"<{share_count}Q", label, parts_end)
    needed = shares.get(numbers) if isinstance(shares, ReceivedShares) else shares
    # Now, not when it is loaded: results that wait need no descriptors then.
    views = [memoryview(map_copy(file.fileno(), size)) for file, size in zip(files, sizes, strict=False)]
    pickled = memoryview(label)[parts_end + 8 * share_count :]
    parts = [pickled] if pickled.nbytes else []
    for file_index, begin, size in _PART.iter_unpack(memoryview(label)[position:parts_end]):
        parts.append(views[file_index][begin : begin + size])
    return ReceivedParcel(parts, files[mapped_count:], needed)


def raw_buffers(buffers: list[pickle.PickleBuffer]) -> list[memoryview] | None:
    """Return the buffers as plain bytes, or None if one is not contiguous and must be pickled in band."""
    try:
        return [buffer.raw() for buffer in buffers]
    except BufferError:
        return None


def send_parcel(side_fd: int, parcel: Parcel) -> None:
    """Send the descriptors, if there are any; the frame with the label must follow. Raises: `OSError`."""
    if parcel.files:
        with _socket(side_fd) as side:
            socket.send_fds(side, [_OF_PARCEL], [file.fileno() for file in parcel.files])


def send_share(side_fd: int, share: SharedFile) -> None:
    """Send the descriptor of a shared value, before the parcel that needs it first. Raises: `OSError`."""
    with _socket(side_fd) as side:
        socket.send_fds(side, [_OF_SHARE], [share.fileno()])


def receive_parcel(side_fd: int, label: bytes, shares: ReceivedShares | None = None) -> ReceivedParcel:
    """Receive the parcel that was sent before the frame with this label. Raises: `OSError`, `EOFError`.

    Args:
        shares: that this process has. New ones come before the parcel, and are added.
    """
    shares = ReceivedShares() if shares is None else shares
    try:
        return _open(label, _receive_files(side_fd, label, shares), shares)
    except (struct.error, LookupError, ValueError, OverflowError) as error:
        raise EOFError(f"not the label of a parcel ({error})") from error


def drop_parcel(side_fd: int, label: bytes, shares: ReceivedShares) -> None:
    """Receive a parcel that is not needed; `label` may go on after its end. Raises: `OSError`."""
    _receive_files(side_fd, label, shares)


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


def _receive_files(side_fd: int, label: bytes, shares: ReceivedShares) -> list[OwnedFile]:
    """Receive the files of the parcel with this label, and the shared values that were sent for it."""
    mapped_count, passed_count, part_count, share_count = _COUNTS.unpack_from(label)
    if mapped_count + passed_count:
        return [OwnedFile(fd) for fd in _receive_fds(side_fd, _OF_PARCEL, shares)]
    numbers = struct.unpack_from(f"<{share_count}Q", label, _COUNTS.size + _PART.size * part_count)
    if not shares.has(numbers):
        with _socket(side_fd) as side:
            while not shares.has(numbers):
                try:
                    # What was sent is there: it came before the label.
                    data, fds = _receive_message(side, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                _take_other(data, fds, shares)
                if not data:
                    break
    return []


def _receive_fds(side_fd: int, mark: bytes, shares: ReceivedShares | None = None) -> list[int]:
    """Receive what was sent with `mark`. Other parcels before it belong to frames that were never sent."""
    with _socket(side_fd) as side:
        while True:
            data, fds = _receive_message(side)
            if not data or data == mark:
                return fds
            _take_other(data, fds, shares)


def _receive_message(side: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """Return the mark of the next message, and its descriptors."""
    return receive_fds(side, 1, MOST_DESCRIPTORS + 1, flags)


def _take_other(data: bytes, fds: Sequence[int], shares: ReceivedShares | None) -> None:
    """Add a shared value, and close all descriptors that came."""
    try:
        if data == _OF_SHARE and shares is not None:
            for fd in fds:
                shares.add(fd)
    finally:
        for fd in fds:
            os.close(fd)


@contextlib.contextmanager
def _socket(fd: int) -> Iterator[socket.socket]:
    """Provide a socket object for a descriptor, for a moment: most workers never need one."""
    wrapped = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        yield wrapped
    finally:
        wrapped.detach()
