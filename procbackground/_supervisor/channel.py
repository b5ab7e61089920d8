"""One worker's pipes, as the parent holds them: requests out, answers in, and descriptors of parcels both ways.

The supervisor thread is the only one that writes to, reads from and closes them: so a frame is never cut by another,
and a descriptor's number is never used after it was closed.
"""

from __future__ import annotations

import os

from procbackground._wire import frames as wire
from procbackground._wire.frames import FrameReader
from procbackground._wire.parcel import Parcel, ReceivedParcel, receive_parcel, send_parcel, send_share
from procbackground._wire.shares import SharedFile


class Channel:
    """The parent's ends; each descriptor is -1 once it is closed."""

    __slots__ = ("measured", "reader", "result_fd", "shares", "side_fd", "task_fd", "unsent")

    def __init__(self, task_fd: int, result_fd: int, side_fd: int) -> None:
        self.task_fd: int = task_fd
        self.result_fd: int = result_fd
        self.side_fd: int = side_fd  # a socket, for the descriptors of parcels
        self.reader: FrameReader = FrameReader()
        self.unsent: memoryview | None = None  # what the task pipe had no room for
        self.measured: tuple[float, int] | None = None  # cost of the call whose answer comes next
        self.shares: set[int] = set()  # numbers of the shared values that the worker has
        for fd in (task_fd, result_fd, side_fd):
            os.set_blocking(fd, False)

    def write(self, data: bytes) -> bool:
        """Write to the worker; return False when part of it waits for room in the pipe, as `unsent`."""
        if self.task_fd < 0:
            return True  # it was dismissed: its jobs come back when it has ended
        if self.unsent is not None:
            self.unsent = memoryview(bytes(self.unsent) + data)
            return False
        return self._write(memoryview(data)) if len(data) > wire.READ_SIZE else self._write(data)

    def write_rest(self) -> bool:
        """Write what waits; return whether that was all."""
        rest, self.unsent = self.unsent, None
        return rest is None or self.task_fd < 0 or self._write(rest)

    def _write(self, data: bytes | memoryview) -> bool:
        try:
            written = os.write(self.task_fd, data)
        except BlockingIOError:
            written = 0
        except OSError:
            return True  # the worker died: its end is noticed elsewhere, and its jobs go to another
        if written == len(data):
            return True
        self.unsent = memoryview(data)[written:]
        return False

    def read(self) -> bytes | None:
        """Return what the result pipe holds, nothing at its end, or None: it is empty now."""
        try:
            return os.read(self.result_fd, wire.READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def send_parcel(self, parcel: Parcel) -> None:
        """Send the descriptors of a parcel, before the request with its label. Raises: `OSError`."""
        send_parcel(self.side_fd, parcel)

    def send_share(self, share: SharedFile) -> None:
        """Send the descriptor of a shared value, before the parcel that needs it first. Raises: `OSError`."""
        send_share(self.side_fd, share)
        self.shares.add(share.number)

    def receive_parcel(self, label: bytes) -> ReceivedParcel:
        """Take the parcel that belongs to an answer. Raises: `OSError`, `EOFError`."""
        return receive_parcel(self.side_fd, label)

    def close_tasks(self) -> None:
        """Let the worker see that nothing more will come."""
        self.unsent = None
        fd, self.task_fd = self.task_fd, -1  # first: a fork in another thread closes the descriptors it finds here
        _close(fd)

    def close_results(self) -> None:
        fd, self.result_fd = self.result_fd, -1
        _close(fd)

    def close(self) -> None:
        self.close_tasks()
        self.close_results()
        fd, self.side_fd = self.side_fd, -1
        _close(fd)

    def fds(self) -> list[int]:
        """Return the descriptors that are open."""
        return [fd for fd in (self.task_fd, self.result_fd, self.side_fd) if fd >= 0]


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
