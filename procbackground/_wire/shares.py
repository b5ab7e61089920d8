"""Shared values: laid down once in a file in memory, and mapped read-only by every worker that uses them.

The parent sends a worker the file's descriptor before the first request that needs it, and a frame RELEASE once nothing
in the parent refers to the value any more. The file describes itself, and has no name: it is gone with its last
descriptor and mapping, also after SIGKILL of everybody.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
from collections.abc import Sequence
from functools import cache
from weakref import WeakSet

from procbackground._platform.files import OwnedFile, map_read_only, open_memory_file, seal
from procbackground._wire.copies import padded, write_padded
from procbackground._wire.loading import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

KEPT_VALUES = 64  # that a worker keeps unpickled; others stay mapped, and are unpickled again
NUMBER = struct.Struct("<Q")  # of a shared value, in the body of a RELEASE and in the label of a parcel
_HEAD = struct.Struct("<QQ")  # number, count of parts; their sizes follow, then the parts: a pickle and its buffers
FREED = "the shared value was freed: the manager that shared it has closed, or this is a fork of its process"

_numbers = itertools.count(1)  # never used twice by one process


class OpenShare:
    """A shared value as it is mapped in one process; unpickled on first use.

    Several threads of the parent may be first at once: `_values` has what each of them loaded, and all use its first.
    """

    __slots__ = ("_values", "_view", "number")

    def __init__(self, fd: int) -> None:
        """Map the file `fd`, which can be closed then. Raises: `OSError`."""
        self._view = map_read_only(fd, os.fstat(fd).st_size)
        self._values: list[Any] = []
        self.number: int = _HEAD.unpack_from(self._view)[0]

    @property
    def value(self) -> Any:
        """Return the value, always the same object. Raises whatever its loading raises."""
        values = self._values
        if not values:
            parts = self.parts()
            values.append(loads(parts[0], parts[1:]))
        return values[0]

    def forget_value(self) -> None:
        """Drop the unpickled value; another is made where it is needed."""
        self._values = []

    def digest(self) -> bytes:
        """Return a digest of the content: equal for equal values that were shared by equal programs."""
        from hashlib import blake2b  # here: a worker has no use for it

        found = blake2b(digest_size=32)
        for part in self.parts():
            found.update(NUMBER.pack(part.nbytes))
            found.update(part)
        return found.digest()

    def parts(self) -> list[memoryview]:
        """Return the pickle and its buffers."""
        _, count = _HEAD.unpack_from(self._view)
        sizes = struct.unpack_from(f"<{count}Q", self._view, _HEAD.size)
        position = padded(_HEAD.size + 8 * count)
        parts = []
        for size in sizes:
            parts.append(self._view[position : position + size])
            position += padded(size)
        return parts


class SharedFile:
    """A shared value in the process that shares it. Its descriptor is closed with this object, or by `free`."""

    __slots__ = ("__weakref__", "_digest", "_file", "_open", "number", "size")

    living: ClassVar[WeakSet[SharedFile]] = WeakSet()

    def __init__(self, pickled: bytes, buffers: Sequence[memoryview]) -> None:
        """Write a pickle and its out-of-band buffers to a new file in memory. Raises: `OSError`."""
        self.number: int = next(_numbers)
        self._open: list[OpenShare] = []  # as `OpenShare._values`
        self._digest: bytes | None = None
        parts = [memoryview(pickled), *buffers]
        sizes = [part.nbytes for part in parts]
        head = _HEAD.pack(self.number, len(parts)) + struct.pack(f"<{len(parts)}Q", *sizes)
        self.size: int = padded(len(head)) + sum(map(padded, sizes))
        self._file: OwnedFile | None = open_memory_file("procbackground-share")
        _free_in_forks()
        SharedFile.living.add(self)  # first: a fork in a signal handler would write to the same file
        for part in (memoryview(head), *parts):
            write_padded(self.fileno(), part)
        seal(self.fileno())

    def fileno(self) -> int:
        """Return the descriptor. Raises: `OSError` if the value was freed."""
        file = self._file
        if file is None:
            raise OSError(errno.ESTALE, FREED)
        return file.fileno()

    @property
    def is_free(self) -> bool:
        """Whether nothing of it is left here."""
        return self._file is None

    @property
    def value(self) -> Any:
        """The value, mapped read-only. Raises: `OSError` if it was freed; whatever its loading raises."""
        return self._opened().value

    def parts(self) -> list[memoryview]:
        """Return the pickle and its buffers, mapped read-only. Raises: `OSError` if the value was freed."""
        return self._opened().parts()

    def digest(self) -> bytes:
        """Return a digest of the content."""
        if self._digest is None:
            self._digest = self._opened().digest()
        return self._digest

    def _opened(self) -> OpenShare:
        fd, opened = self.fileno(), self._open
        if not opened:
            opened.append(OpenShare(fd))
        return opened[0]

    def free(self) -> None:
        """Let go of the memory; what others have mapped stays until they let go of it, too."""
        self._file, self._open = None, []
        SharedFile.living.discard(self)


class ShareLostError(EOFError):
    """A shared value that was sent has not arrived."""


class ReceivedShares:
    """The shared values that a worker has, in the order of their latest use."""

    def __init__(self) -> None:
        self._known: dict[int, OpenShare] = {}
        self._released: set[int] = set()  # before they came

    def add(self, fd: int) -> None:
        """Take in a shared value that was sent. Raises: `OSError`."""
        share = OpenShare(fd)
        if share.number in self._released:
            self._released.discard(share.number)
        else:
            self._known[share.number] = share

    def has(self, numbers: Sequence[int]) -> bool:
        """Whether all of these have arrived."""
        return all(number in self._known for number in numbers)

    def get(self, numbers: Sequence[int]) -> list[OpenShare]:
        """Return the shared values of these numbers. Raises: `ShareLostError`."""
        found = []
        for number in numbers:
            share = self._known.pop(number, None)
            if share is None:
                raise ShareLostError("a shared value has not arrived: no descriptor or memory was left in the worker")
            self._known[number] = share
            found.append(share)
        if len(self._known) > KEPT_VALUES:
            for share in list(self._known.values())[: -max(KEPT_VALUES, len(numbers))]:
                share.forget_value()
        return found

    def release(self, number: int) -> None:
        """Nothing will need this value any more. What a task has kept of it stays mapped."""
        if self._known.pop(number, None) is None:
            self._released.add(number)


@cache
def _free_in_forks() -> None:
    """Have forks close the descriptors, which would keep the memory when the parent lets go of it.

    Not before there are any: each fork of a zygote, which never has one, would copy 25 pages for it.
    """
    os.register_at_fork(after_in_child=_free_all_in_fork)


def _free_all_in_fork() -> None:
    for share in list(SharedFile.living):
        if share._file is not None:
            share._file.close()  # also if the thread that forked is just writing to it
        share.free()
