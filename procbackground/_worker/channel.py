"""The child's end of the result pipe: whole frames, from any thread of the child and from its signal handlers."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from procbackground._wire import frames as wire
from procbackground._wire.parcel import Parcel, ReceivedParcel, drop_parcel, receive_parcel, send_parcel, send_pipes
from procbackground._wire.shares import NUMBER, ReceivedShares


class Channel:
    """Writes frames. After an interrupted write the process ends: the parent could not read what follows.

    A frame is first put in a queue. A signal handler that interrupts its thread in the middle of a write leaves its
    frame there, and the write that it interrupted goes on with it; other threads wait for their turn.
    """

    def __init__(self) -> None:
        self._fd = self._side_fd = self._pid = -1
        self._lock = threading.RLock()
        self._unsent: deque[bytes] = deque()
        self._is_writing = False
        self._is_torn = False
        self._afterwards: list[Callable[[], None]] = []
        self._shares = ReceivedShares()

    def open(self, fd: int, side_fd: int, pid: int) -> None:
        """Write to `fd`, and send descriptors through the socket `side_fd`, from this process, `pid`."""
        self._fd, self._side_fd, self._pid = fd, side_fd, pid

    def close_in_fork(self) -> None:
        """Close the result pipe, so that its end is the worker's: the parent may have no other sign of that."""
        fd, self._fd = self._fd, -1
        try:
            os.close(fd)
        except OSError:
            pass  # the task has closed it

    def send(self, kind: int, sequence: int, body: bytes = b"", prefix: bytes = b"") -> None:
        """Write one frame. `prefix` is a frame that is written just before it, in the same call."""
        unsent = self._unsent
        unsent.append(prefix + wire.frame(kind, sequence, body))
        with self._lock:
            if self._is_torn and not self._is_writing:
                os._exit(1)
            # Looked at again after each round: a handler that came before its end has left its frame to it.
            while unsent and not self._is_writing:
                self._is_writing = True
                try:
                    while unsent:
                        data = unsent.popleft()
                        self._is_torn = True
                        wire.write_all(self._fd, data)
                        self._is_torn = False
                finally:
                    self._is_writing = False
            while self._afterwards and not self._is_writing:
                self._afterwards.pop(0)()

    def after_writing(self, act: Callable[[], None]) -> bool:
        """If the caller is a signal handler that interrupted a write, have `act` called after it; return whether so."""
        if not self._is_writing or not self._lock._is_owned():  # type: ignore[attr-defined]  # as `Condition` asks
            return False
        self._afterwards.append(act)
        return True

    def send_parcel(self, sequence: int, parcel: Parcel, prefix: bytes = b"") -> None:
        """Send a value in a parcel: first its descriptor, then the frame."""
        send_parcel(self._side_fd, parcel)
        self.send(wire.PARCEL_VALUE, sequence, parcel.label, prefix)

    def send_pipes(self, sequence: int, readers: list[int]) -> None:
        """Send the reading ends of the pipes that the output of a request goes to."""
        send_pipes(self._side_fd, sequence, readers)
        self.send(wire.OUTPUT, sequence)

    def receive_parcel(self, label: bytes) -> ReceivedParcel:
        """Receive the parcel that belongs to the current request."""
        return receive_parcel(self._side_fd, label, self._shares)

    def drop_parcel(self, kind: int, body: bytes) -> None:
        """Receive the parcel of a request that is not run."""
        drop_parcel(self._side_fd, body[wire.arguments_at(kind, body) :], self._shares)

    def release_share(self, body: bytes) -> None:
        """Let go of a shared value that the parent has let go of."""
        self._shares.release(NUMBER.unpack(body)[0])

    @property
    def is_own(self) -> bool:
        """Whether this is the worker, not a process that the task forked: two writers would mix their frames."""
        return os.getpid() == self._pid
