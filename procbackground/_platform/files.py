"""Descriptors that belong to an object, and mappings of files that hold no descriptor."""

from __future__ import annotations

import fcntl
import functools
import io
import mmap
import os
import sys
from collections.abc import Callable

from procbackground import _platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FIXED = 0x10  # MAP_FIXED, on Linux, macOS and the BSDs
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


class OwnedFile(io.FileIO):
    """Owns a descriptor, and closes it when it is dropped, without the warning that other files give.

    `next(map(OwnedFile, map(os.dup, (fd,))))` makes a descriptor and its owner in one call of C code: what a signal
    handler raises comes before or after, so that no descriptor is left open. Nor does one run while it is dropped.
    """

    __del__ = io.FileIO.close


def open_memory_file(name: str) -> OwnedFile:
    """Return a file in memory without a path; see `make_memory_file`."""
    if _platform.IS_LINUX:
        try:
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            return next(map(OwnedFile, map(os.memfd_create, (name,), (flags,)), ("r+",)))
        except (AttributeError, OSError):
            pass  # the system refuses it
    return OwnedFile(_platform.make_memory_file(name), "r+")


def seal(fd: int) -> None:
    """Refuse all further changes of a file in memory, by any process, where the system can do that."""
    if _platform.IS_LINUX:
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        except OSError:
            pass  # a temporary file, in place of one in memory


def map_copy(fd: int, size: int) -> mmap.mmap:
    """Map a file copy-on-write. Afterwards its descriptor can be closed. Raises: `OSError`."""
    return _map(fd, size, _READ_WRITE)


def map_read_only(fd: int, size: int) -> memoryview:
    """Map a file such that nothing can write to it. Afterwards its descriptor can be closed. Raises: `OSError`."""
    # Private: the kernel refuses shared mappings of sealed files before Linux 6.7. The pages are shared all the same.
    return memoryview(_map(fd, size, mmap.PROT_READ)).toreadonly()


def _map(fd: int, size: int, protection: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, mmap.MAP_PRIVATE, protection, trackfd=False)
    # Older Pythons keep a copy of the descriptor with each mapping of a file. So map memory without a file, and have
    # the kernel put the file in its place.
    mapping = mmap.mmap(-1, size, mmap.MAP_PRIVATE, _READ_WRITE)
    if not _replace(mapping, fd, size, protection):
        return mmap.mmap(fd, size, mmap.MAP_PRIVATE, protection)
    return mapping


def _replace(mapping: mmap.mmap, fd: int, size: int, protection: int) -> bool:
    try:
        address_of, system_mmap = _c_functions()
        address = address_of(mapping)
    except Exception:  # a Python without ctypes, or one that hides the C library
        return False
    return bool(system_mmap(address, size, protection, mmap.MAP_PRIVATE | _FIXED, fd, 0) == address)


@functools.cache
def _c_functions() -> tuple[Callable[[mmap.mmap], int], Callable[..., Any]]:
    import ctypes  # 4 ms, which most processes do not need

    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    return lambda mapping: ctypes.addressof(ctypes.c_char.from_buffer(mapping)), function
