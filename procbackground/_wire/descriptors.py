"""Connections, sockets and shared values in arguments and results: descriptors cross beside the pickle, in its parcel.

The pickle names each by its place among the descriptors, or among the shared values, of the parcel. The reducers of
`multiprocessing` would not do: they serve each descriptor once, from a thread here, so that a retry finds nothing, and
a task that is cancelled before it begins leaves its descriptors open.

The reducers are registered with `copyreg`, because plain pickle copies the number of a connection's descriptor, which
means some other file in the process that loads it. Outside of `collect` both types are refused.
"""

from __future__ import annotations

import copyreg
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from multiprocessing.reduction import _rebuild_socket  # type: ignore[attr-defined]
from pickle import PicklingError

from procbackground._platform.files import OwnedFile
from procbackground._wire.shares import FREED, OpenShare, SharedFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from typing import Any, TypeAlias, TypeVar

    T = TypeVar("T")
    Values: TypeAlias = "Sequence[OpenShare] | Sequence[SharedFile]"

# The kernel sends at most 253 at once. Several messages would not do: a full socket would cut a parcel in two.
MOST_DESCRIPTORS = 250


class _Active(threading.local):
    """What the loading in this thread uses."""

    received: Sequence[OwnedFile] | None = None
    shared: Values | None = None


class Collector:
    """What is collected from one pickling; see `collect`.

    Attributes: `files`, duplicates of the descriptors of connections and sockets; `shares`, the shared values.
    """

    def __init__(self) -> None:
        self.files: list[OwnedFile] = []
        self.shares: list[SharedFile] = []

    @property
    def has_any(self) -> bool:
        """Whether something was collected."""
        return bool(self.files or self.shares)

    def forget_since(self, mark: tuple[int, int]) -> None:
        """Drop what was collected since then."""
        del self.files[mark[0] :]
        del self.shares[mark[1] :]


_active = _Active()
_collector: ContextVar[Collector | None] = ContextVar("procbackground-collector", default=None)


def collect(dump: Callable[[Collector], T]) -> T:
    """Return `dump(collector)`, within which connections, sockets and shared values can be pickled.

    Whatever interrupts it, the collector does not stay active, since C code restores the context. Later picklings would
    otherwise put shared values into a collector that is never sent.
    """
    return copy_context().run(_collect, dump)


def _collect(dump: Callable[[Collector], T]) -> T:
    collector = Collector()
    _collector.set(collector)
    try:
        return dump(collector)
    except BaseException:
        collector.forget_since((0, 0))  # the traceback may be kept
        raise


def collected_so_far() -> tuple[int, int]:
    """Return a mark for `forget_since`."""
    collector = _collector.get()
    return (0, 0) if collector is None else (len(collector.files), len(collector.shares))


def forget_since(mark: tuple[int, int]) -> None:
    """Drop what a failed pickling has collected."""
    collector = _collector.get()
    if collector is not None:
        collector.forget_since(mark)


def load_with(files: Sequence[OwnedFile], shares: Values, load: Callable[[], Any]) -> Any:
    """Return `load()`, whose pickle names descriptors and shared values by their places in `files` and `shares`."""
    outer = _active.received, _active.shared
    _active.received, _active.shared = files, shares
    try:
        return load()
    finally:
        _active.received, _active.shared = outer


def call_sent(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function that holds descriptors, shared values or large buffers: it was sent as an argument."""
    return fn(*args, **kwargs)


class _Sent:
    """Stands in a pickle for a descriptor of the parcel."""

    def __init__(self, place: int) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return _Received, (self.place,)


class _Received:
    """A descriptor of the parcel that is being loaded, as `multiprocessing` takes it."""

    def __init__(self, place: int) -> None:
        if _active.received is None:
            raise ValueError("a connection or socket was pickled apart from the argument or result that it belongs to")
        self._file = _active.received[place]

    def detach(self) -> int:
        """Return a descriptor that belongs to the caller."""
        return os.dup(self._file.fileno())


def _send(owner: Connection | socket.socket) -> _Sent:
    collector = _collector.get()
    if collector is None:
        raise TypeError(
            f"cannot pickle {type(owner).__name__!r} object: it can only cross in an argument or a result of a task"
        )
    files = collector.files
    files.extend(map(OwnedFile, map(os.dup, (owner.fileno(),))))
    return _Sent(len(files) - 1)


def send_shared(file: SharedFile) -> tuple[Any, ...]:
    """Return what is pickled in place of a shared value. Raises: `TypeError`, `PicklingError`."""
    collector = _collector.get()
    if collector is None:
        raise TypeError("cannot pickle 'Shared' object: it can only cross in the function or the arguments of a task")
    if file.is_free:
        raise PicklingError(FREED)
    shares = collector.shares
    if file not in shares:
        shares.append(file)
    return _take_shared, (shares.index(file),)


def _take_shared(place: int) -> Any:
    if _active.shared is None:
        raise ValueError("a shared value was pickled apart from the arguments that it belongs to")
    return _active.shared[place].value


def _reduce_connection(connection: Connection) -> tuple[Any, ...]:
    from multiprocessing.connection import rebuild_connection  # type: ignore[attr-defined]

    return rebuild_connection, (_send(connection), connection.readable, connection.writable)


def _reduce_socket(sock: socket.socket) -> tuple[Any, ...]:
    return _rebuild_socket, (_send(sock), sock.family, sock.type, sock.proto)


copyreg.pickle(socket.socket, _reduce_socket)

CONNECTIONS = "multiprocessing.connection"
knows_connections = False


def know_connections() -> None:
    """Register the reducer of connections, once there can be any: 7 of 139 ms of imports go into their module."""
    global knows_connections
    kind = getattr(sys.modules.get(CONNECTIONS), "Connection", None)
    if kind is not None:
        copyreg.pickle(kind, _reduce_connection)
        knows_connections = True


know_connections()
