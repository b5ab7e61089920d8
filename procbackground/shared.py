"""`Shared`: a value that lies in memory once, for all workers of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from procbackground._wire.descriptors import send_shared
from procbackground.errors import ManagerClosedError

if TYPE_CHECKING:
    from procbackground._wire.shares import SharedFile

T = TypeVar("T")


class Shared(Generic[T]):
    """A value that `Manager.share` has laid down in shared memory, once for all processes of this machine.

    Give it to tasks in place of the value: as an argument, within lists and other objects, in a `partial`, in a closure
    or in the object of a bound method. The function receives the value itself, never a `Shared`. Each worker unpickles
    it once and keeps it for later tasks. Arrays and other buffers are mapped read-only: a write raises `ValueError`.
    Other parts of the value are objects of the worker: what a task changes in them, later tasks of that worker see.

    The memory is freed when the last reference in this process is gone (those of queued tasks, and of handles, which
    know their arguments, count), or when the manager that shared it has closed. It can be given to the tasks of any
    manager of this process, and cannot be pickled otherwise.
    """

    __slots__ = ("__weakref__", "_file")

    def __init__(self, file: SharedFile) -> None:
        self._file = file

    @property
    def value(self) -> T:
        """The value, as tasks receive it: its buffers are mapped read-only. Always the same object.

        Raises: `ManagerClosedError` once it was freed, and in a fork of the process that shared it.
        """
        try:
            value: T = self._file.value
        except OSError as error:
            if self._file.is_free:
                raise ManagerClosedError(str(error.strerror)) from None
            raise
        return value

    @property
    def nbytes(self) -> int:
        """Bytes of shared memory that it takes."""
        return self._file.size

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return send_shared(self._file)

    def __repr__(self) -> str:
        return f"<Shared {self._file.number}: {self._file.size} bytes{', freed' if self._file.is_free else ''}>"
