"""Connections and sockets in arguments and results: their descriptors cross beside the pickle, in its parcel.

The pickle names each by its place among the descriptors of the parcel. The reducers of `multiprocessing` would not do:
they serve each descriptor once, from a thread here, so that a retry finds nothing, and a task that is cancelled before
it begins leaves its descriptors open.

The reducers are registered with `copyreg`, because plain pickle copies the number of a connection's descriptor, which
means some other file in the process that loads it. Outside a `Collector` both types are refused.
"""

from __future__ import annotations

import copyreg
import os
import socket
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, rebuild_connection  # type: ignore[attr-defined]
from multiprocessing.reduction import _rebuild_socket  # type: ignore[attr-defined]

from procbackground._platform.files import OwnedFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The kernel sends at most 253 at once. Several messages would not do: a full socket would cut a parcel in two.
MOST_DESCRIPTORS = 250


class _Active(threading.local):
    """What the pickling and the loading in this thread use."""

    collected: list[OwnedFile] | None = None
    received: Sequence[OwnedFile] | None = None


_active = _Active()


class Collector:
    """A context in which connections and sockets can be pickled; `files` are duplicates of their descriptors."""

    def __init__(self) -> None:
        self.files: list[OwnedFile] = []

    def __enter__(self) -> Collector:
        self._outer = _active.collected
        _active.collected = self.files
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *rest: object) -> None:
        _active.collected = self._outer
        if exc_type is not None:
            self.files.clear()


def collected_so_far() -> int:
    """Return a mark for `forget_since`."""
    return 0 if _active.collected is None else len(_active.collected)


def forget_since(mark: int) -> None:
    """Drop the descriptors that a failed pickling has collected."""
    if _active.collected is not None:
        del _active.collected[mark:]


def load_with(files: Sequence[OwnedFile], load: Callable[[], Any]) -> Any:
    """Return `load()`, whose pickle names descriptors by their places in `files`."""
    outer, _active.received = _active.received, files
    try:
        return load()
    finally:
        _active.received = outer


def call_sent(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function that holds descriptors: it was sent as an argument."""
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
    files = _active.collected
    if files is None:
        raise TypeError(
            f"cannot pickle {type(owner).__name__!r} object: it can only cross in an argument or a result of a task"
        )
    files.extend(map(OwnedFile, map(os.dup, (owner.fileno(),))))
    return _Sent(len(files) - 1)


def _reduce_connection(connection: Connection) -> tuple[Any, ...]:
    return rebuild_connection, (_send(connection), connection.readable, connection.writable)


def _reduce_socket(sock: socket.socket) -> tuple[Any, ...]:
    return _rebuild_socket, (_send(sock), sock.family, sock.type, sock.proto)


copyreg.pickle(Connection, _reduce_connection)
copyreg.pickle(socket.socket, _reduce_socket)
