"""Copies of large buffers in files in memory: parcels with the same content have one in common.

A buffer that is submitted again while its copy is alive is compared with it, which takes a third of the time of a copy
and no memory. Only equal content is shared: so the copy is exactly what the buffer was at each of these calls.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from functools import cache
from weakref import WeakSet, WeakValueDictionary, ref

from procbackground._load import load
from procbackground._platform.files import OwnedFile, map_copy, open_memory_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, TypeAlias

    Mark: TypeAlias = tuple[int, bytes, bytes, bytes]

FEW = 16  # files in memory that are always allowed: hardly any process ever has more
SHARE = 4  # they may use one in this many of the descriptors that this process may have
LARGE_BYTES = 1 << 20  # smaller buffers are not looked for
_SAMPLE_BYTES = 64
_CHUNK_BYTES = 1 << 17  # compared at a time: it fits into a processor's cache
_ALIGNMENT = 64  # of parts in a file: a cache line, and the widest vector registers


class Copies:
    """One file in memory with copies of some buffers; it is closed with the last parcel that refers to it."""

    __slots__ = ("__weakref__", "_places", "file", "mapping", "size")

    living: ClassVar[WeakSet[Copies]] = WeakSet()
    _by_mark: ClassVar[WeakValueDictionary[Mark, Copies]] = WeakValueDictionary()  # the latest with such a buffer
    _by_mapping: ClassVar[WeakValueDictionary[int, Copies]] = WeakValueDictionary()  # by the id of the mapping

    def __init__(self) -> None:
        """Raises: `OSError`."""
        _forget_in_forks()
        self._places: dict[Mark, int] = {}
        self.file: OwnedFile = open_memory_file("procbackground-parcel")
        self.size: int = 0
        self.mapping: object = None  # of the whole file here
        Copies.living.add(self)

    def write(self, part: memoryview) -> int:
        """Write a buffer; return where it begins. Raises: `OSError`."""
        begin = self.size
        write_padded(self.file.fileno(), part)
        # Of an empty buffer, too: an empty file cannot be mapped.
        self.size += padded(part.nbytes) or os.write(self.file.fileno(), bytes(_ALIGNMENT))
        if part.nbytes >= LARGE_BYTES:
            mark = _mark_of(part)
            self._places[mark] = begin
            Copies._by_mark[mark] = self
            if _active.keeper is not None:
                _active.keeper.note(part, mark, self, begin)
        return begin

    def map(self) -> Any:
        """Return a mapping of the file, to which nothing is written any more: `find` knows it. Raises: `OSError`.

        It could be written to, as nothing that is pickled as read-only arrives writable.
        """
        self.mapping = map_copy(self.file.fileno(), self.size)
        Copies._by_mapping[id(self.mapping)] = self
        return self.mapping

    @classmethod
    def find(cls, part: memoryview) -> tuple[Copies, int] | None:
        """Return a living copy of the buffer: its file, and where it begins there; None if there is none."""
        if part.nbytes < LARGE_BYTES:
            return None
        mapped = cls._by_mapping.get(id(part.obj))
        if mapped is not None and mapped.mapping is part.obj and mapped.size == part.nbytes:
            return mapped, 0
        mark = _mark_of(part)
        keeper = _active.keeper
        place = keeper.find(part, mark) if keeper is not None else None
        if place is not None:
            return place
        found = cls._by_mark.get(mark)
        if found is None or not _is_equal(found.file.fileno(), begin := found._places[mark], part):
            return None
        if keeper is not None:
            keeper.note(part, mark, found, begin)
        return found, begin

    @classmethod
    def forget_all(cls) -> None:
        """In a fork: close the descriptors; those who have these copies are in the other process."""
        for copies in list(cls.living):
            copies.file.close()
        cls.living.clear()
        cls._by_mark.clear()
        cls._by_mapping.clear()


@cache
def _forget_in_forks() -> None:
    """Have forks forget all copies. Not before there are any: see `shares`."""
    os.register_at_fork(after_in_child=Copies.forget_all)


class Keeper:
    """The copies of the arrays that many tasks of one call have in common, such as one of joblib's.

    While an array lives it is taken to be as it was, without comparing it. A copy that was used twice is kept, also
    while no task has it, until the array is gone or `clear` is called.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}  # by the id of the array

    def find(self, part: memoryview, mark: Mark) -> tuple[Copies, int] | None:
        """Return the copy of a buffer, and where it begins there; None if there is none."""
        known = self._known.get(id(part.obj))
        if known is None or known.owner() is not part.obj or known.mark != mark:
            return None
        copies = known.copies()
        if copies is None:
            return None
        known.kept = copies
        return copies, known.begin

    def note(self, part: memoryview, mark: Mark, copies: Copies, begin: int) -> None:
        """There is a copy of this buffer."""
        ident = id(part.obj)

        def forget(owner: object) -> None:
            known = self._known.get(ident)
            if known is not None and known.owner is owner:
                del self._known[ident]

        try:
            owner = ref(part.obj, forget)
        except TypeError:
            return  # such as bytes, whose end nothing can be notified of
        self._known[ident] = _Known(owner, mark, copies, begin)

    def clear(self) -> None:
        """The call is over."""
        self._known.clear()


class _Known:
    """An array and its copy. The latter is kept once it was used again."""

    __slots__ = ("begin", "copies", "kept", "mark", "owner")

    def __init__(self, owner: ref[Any], mark: Mark, copies: Copies, begin: int) -> None:
        self.owner = owner
        self.mark = mark
        self.copies = ref(copies)
        self.kept: Copies | None = None
        self.begin = begin


class _Active(threading.local):
    """What the packing in this thread uses."""

    keeper: Keeper | None = None


_active = _Active()


@contextlib.contextmanager
def keeping(keeper: Keeper | None) -> Iterator[None]:
    """Have what this thread packs use the copies of a call, if there is one."""
    outer, _active.keeper = _active.keeper, keeper
    try:
        yield
    finally:
        _active.keeper = outer


def _mark_of(part: memoryview) -> Mark:
    """Return what equal buffers have in common, and hardly any others."""
    size, middle = part.nbytes, part.nbytes // 2
    return size, bytes(part[:_SAMPLE_BYTES]), bytes(part[middle:][:_SAMPLE_BYTES]), bytes(part[-_SAMPLE_BYTES:])


def _is_equal(fd: int, begin: int, part: memoryview) -> bool:
    # Each chunk as bytes: views are compared item by item, fifteen times slower.
    return all(
        os.pread(fd, min(_CHUNK_BYTES, part.nbytes - at), begin + at) == bytes(part[at : at + _CHUNK_BYTES])
        for at in range(0, part.nbytes, _CHUNK_BYTES)
    )


def may_open_one_more(count: int) -> bool:
    """Whether there may be one more file in memory: they must leave descriptors to workers and to the user."""
    if count < FEW:
        return True
    load("resource")  # here: most processes never need it
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit == resource.RLIM_INFINITY or limit // SHARE > count


def write_padded(fd: int, part: memoryview) -> None:
    """Write a part at the end of a file, and zeros to the next multiple of the alignment. Raises: `OSError`."""
    rest = part
    while rest.nbytes:
        rest = rest[os.write(fd, rest) :]
    padding = padded(part.nbytes) - part.nbytes
    if padding:
        os.write(fd, bytes(padding))


def padded(size: int) -> int:
    """Return how many bytes a part of this size takes in a file."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT
