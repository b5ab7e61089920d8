"""The child's end of the result pipe: whole frames, from any thread of the child."""

from __future__ import annotations

import os
import threading

from procbackground._wire import frames as wire
from procbackground._wire.parcel import Parcel, receive_parcel, send_parcel


class Channel:
    """Writes frames. After an interrupted write the process ends: the parent could not read what follows."""

    def __init__(self) -> None:
        self._fd = self._side_fd = self._pid = -1
        self._lock = threading.Lock()
        self._is_torn = False

    def open(self, fd: int, side_fd: int, pid: int) -> None:
        """Write to `fd`, and send descriptors through the socket `side_fd`, from this process, `pid`."""
        self._fd, self._side_fd, self._pid = fd, side_fd, pid

    def send(self, kind: int, sequence: int, body: bytes = b"", prefix: bytes = b"") -> None:
        """Write one frame. `prefix` is a frame that is written just before it, in the same call."""
        data = prefix + wire.frame(kind, sequence, body)
        with self._lock:
            if self._is_torn:
                os._exit(1)
            self._is_torn = True
            wire.write_all(self._fd, data)
            self._is_torn = False

    def send_parcel(self, sequence: int, parcel: Parcel, prefix: bytes = b"") -> None:
        """Send a value in a parcel: first its descriptor, then the frame."""
        send_parcel(self._side_fd, parcel)
        self.send(wire.PARCEL_VALUE, sequence, parcel.label, prefix)

    def receive_parcel(self, label: bytes) -> Parcel:
        """Receive the parcel that belongs to the current request."""
        return receive_parcel(self._side_fd, label)

    @property
    def is_own(self) -> bool:
        """Whether this is the worker, not a process that the task forked: two writers would mix their frames."""
        return os.getpid() == self._pid
