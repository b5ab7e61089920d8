"""Where status sockets are, and whose."""

from __future__ import annotations

import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

SUFFIX = ".sock"
_NAME = re.compile(r"(?P<pid>\d+)-(?P<number>\d+)(?:-(?P<name>.*))?\.sock")
NAME_LENGTH = 40  # characters of a manager's name in the socket's
LONGEST = 100  # bytes of a socket's address


class Place(NamedTuple):
    """A manager's socket."""

    path: str
    pid: int
    number: int  # of the manager in its process
    name: str


def folder() -> str:
    """Return the folder of this user's sockets; it need not exist."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    if os.path.isabs(runtime) and os.access(runtime, os.W_OK | os.X_OK):
        return os.path.join(runtime, "procbackground")
    return f"/tmp/procbackground-{os.getuid()}"


def make_folder() -> str:
    """Make the folder for this user alone. Raises: `OSError`, also for one that another user has made."""
    path = folder()
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    check_folder(path)
    return path


def check_folder(path: str) -> None:
    """Raise `PermissionError` for a folder that others may write to, or that is theirs."""
    seen = os.lstat(path)
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_mode & 0o077:
        raise PermissionError(1, "the folder of status sockets must be your own, with mode 0700", path)


def socket_name(pid: int, number: int, name: str) -> str:
    """Return the file name of a manager's socket."""
    shown = safe_name(name)
    return f"{pid}-{number}{'-' + shown if shown else ''}{SUFFIX}"


def safe_name(name: str) -> str:
    """Return a manager's name as its socket has it."""
    return re.sub(r"[^\w.:@+-]", "_", name)[:NAME_LENGTH]


def all_places() -> list[Place]:
    """Return the sockets of this user, those of dead processes included, in order of process and manager."""
    path = folder()
    try:
        check_folder(path)
        names = os.listdir(path)
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        match = _NAME.fullmatch(name)
        if match is not None:
            place = os.path.join(path, name)
            found.append(Place(place, int(match["pid"]), int(match["number"]), match["name"] or ""))
    return sorted(found, key=lambda place: (place.pid, place.number))


@contextmanager
def reachable(path: str) -> Iterator[str]:
    """Give an address for a socket's path: the kernel takes some hundred bytes, which folders may exceed."""
    if len(os.fsencode(path)) < LONGEST or sys.platform != "linux":
        yield path
        return
    folder_fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder_fd}/{os.path.basename(path)}"
    finally:
        os.close(folder_fd)


def is_allowed(connection: socket.socket) -> bool:
    """Whether the other end is this user, or root; by the kernel, where it says so."""
    uid = peer_uid(connection)
    return uid is None or uid in (os.geteuid(), 0)


def peer_uid(connection: socket.socket) -> int | None:
    """Return the user at the other end, or None where the system does not say: there the file's mode decides."""
    if sys.platform == "linux":
        return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]  # type: ignore[no-any-return]
    if sys.platform == "darwin":
        # struct xucred: version, uid, groups; SOL_LOCAL is 0 and LOCAL_PEERCRED 1.
        return struct.unpack_from("2I", connection.getsockopt(0, 1, 76))[1]
    return None
