"""One manager for a file: a lock that ends with its process, however that ends. And whether a file is on a network."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
from weakref import WeakValueDictionary

from procbackground._platform.files import OwnedFile
from procbackground.errors import JournalError

SUFFIX = "-lock"

# File systems on which locks and shared memory are not reliable between hosts; SQLite says not to use its WAL there.
_NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs",
        "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "smb3", "smbfs",
    }
)  # fmt: skip

# Locks of one process do not keep each other out, so the process has a list of its own, by pid and path. A file leaves
# it once it is closed, also where an exception keeps `release` from its end.
_held: WeakValueDictionary[tuple[int, str], OwnedFile] = WeakValueDictionary()
# Closing any descriptor of a file ends all locks that the process has on it, so that happens under this lock.
_list_lock = threading.RLock()  # the garbage collector may release one in the meantime


class FileLock:
    """Held from the moment it is made. Raises: `JournalError` where another manager has it."""

    _file: OwnedFile | None = None

    def __init__(self, path: str) -> None:
        self._path = path + SUFFIX
        self._entry = (os.getpid(), path)
        with _list_lock:
            if self._entry in _held:
                raise _taken(path, f"this process ({os.getpid()})", "close that first")
            self._file = _held[self._entry] = _locked(self._path, path)

    def __del__(self) -> None:
        self.release()  # of a manager that was dropped without a task

    def release(self) -> None:
        """Give the lock back, and remove its file. Does nothing in a fork of the process that has it."""
        if self._file is None or self._entry[0] != os.getpid():
            return
        with _list_lock:
            if self._file is not None:
                try:
                    if _is_at(self._file, self._path):  # else it was removed, and another process may have made its own
                        os.unlink(self._path)  # while it is locked: a file that another process has locked must stay
                except OSError:
                    pass
                self._file = None

    def renew(self) -> None:
        """Take the lock once more if its file was removed, as others would not be kept off any longer.

        Raises: `JournalError` where another manager has taken it meanwhile, `OSError`.
        """
        with _list_lock:
            if self._file is not None and not _is_at(self._file, self._path):
                path = self._entry[1]
                self._file = _held[self._entry] = _locked(self._path, path)


def is_held(path: str) -> bool:
    """Whether a manager, of this process or another, has the file at `path` now."""
    with _list_lock:
        if (os.getpid(), path) in _held:
            return True
        try:
            file = OwnedFile(path + SUFFIX, "r")  # a user who may only read it can ask, too
            return _holder(file.fileno()) != 0
        except OSError:
            return False


def _locked(lock_path: str, path: str) -> OwnedFile:
    """Return the file at `lock_path`, locked. Raises: `JournalError`, `OSError`."""
    while True:
        file = OwnedFile(lock_path, "a+")
        try:
            # Not `flock`, which a fork of this process would keep.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, lock_path):
                return file  # else its owner has removed it meanwhile
        except BaseException as error:
            holder = _holder(file.fileno()) if isinstance(error, OSError) else 0
            file.close()  # not when the traceback is dropped: that would end a lock which is taken meanwhile
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EAGAIN):
                raise _taken(path, f"process {holder}" if holder else "another process") from None
            raise


def _is_at(file: OwnedFile, path: str) -> bool:
    """Whether `file` is the one at `path` now. Raises: `OSError`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(fd: int) -> int:
    """Return the pid of the process that has the lock; 0 for none, or where it cannot be known."""
    # struct flock: type, whence, start, length, pid; of Linux with 64 bits.
    if not sys.platform.startswith("linux"):
        return 0
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return 0 if kind == fcntl.F_UNLCK else pid


def _taken(path: str, by: str, what_to_do: str = "wait until that has ended") -> JournalError:
    return JournalError(
        f"the journal {path!r} is in use by a manager of {by}: {what_to_do}, or use another file",
        path=path,
        number=errno.EBUSY,
    )


def network_of(path: str) -> str | None:
    """Return the type of the network file system that `path` is on, or None for a local or unknown one."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return None
    best = ("", "")
    for fields in mounts:
        try:
            point = fields[4].replace("\\040", " ").replace("\\011", "\t")
            kind = fields[fields.index("-") + 1]
        except (ValueError, IndexError):
            continue
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1] if best[1] in _NETWORK else None


def _renew_in_fork() -> None:
    global _list_lock
    _list_lock = threading.RLock()  # another thread may have had it


os.register_at_fork(after_in_child=_renew_in_fork)
