"""The shared values of one manager: which it has made, and which its workers let go of once nothing here needs them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from procbackground._supervisor.inbox import Inbox
from procbackground._supervisor.machine import free_memory_bytes
from procbackground._wire.copies import may_open_one_more
from procbackground._wire.pickling import dump_to_share
from procbackground._wire.shares import SharedFile

CHECKED_BYTES = 1 << 20  # smaller values hardly ever lack room, and finding out takes 0.1 ms


def lay_down(value: Any) -> SharedFile:
    """Lay a value down in shared memory. Raises: `SerializationError`; `OSError` where there is no room for it."""
    pickled, buffers = dump_to_share(value)
    size = len(pickled) + sum(buffer.nbytes for buffer in buffers)
    # The kernel would not refuse the memory: it would kill a process for want of it.
    if size > CHECKED_BYTES and size > (free := free_memory_bytes()):
        raise OSError(errno.ENOMEM, f"a value of {size} bytes cannot be shared: {free} bytes of memory are free")
    count = len(SharedFile.living)
    if not may_open_one_more(count):
        advice = "each takes a descriptor; share several as one, as in share([first, second])"
        raise OSError(errno.EMFILE, f"a value cannot be shared: {count} are shared already, and {advice}")
    try:
        return SharedFile(pickled, buffers)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"a value of {size} bytes cannot be shared: {reason}") from error


class Shares:
    """Knows them by weak references: a shared value lives as long as the user, or a task, refers to it."""

    def __init__(self, inbox: Inbox, release: Callable[[int], None]) -> None:
        self._inbox = inbox
        self._release = release  # has workers let go of the value of this number
        self._made: WeakSet[SharedFile] = WeakSet()
        self._sent: dict[int, object] = {}  # of those that some worker has, what `Inbox.when_dropped` gave

    def make(self, value: Any) -> SharedFile:
        """Lay a value down in shared memory. In the caller's thread. Raises: `SerializationError`, `OSError`."""
        share = lay_down(value)
        self._made.add(share)
        return share

    def watch(self, share: SharedFile) -> None:
        """A worker gets it: have it let go once nothing in this process refers to it. In the supervisor thread."""
        number = share.number
        if number not in self._sent:
            self._sent[number] = self._inbox.when_dropped(share, lambda: self._let_go(number))

    def _let_go(self, number: int) -> None:
        if self._sent.pop(number, None) is not None:
            self._release(number)

    def watch_no_more(self) -> None:
        """The workers are leaving, or are another process's: what is dropped from now on is nothing to them."""
        self._sent.clear()

    def free_all(self) -> None:
        """The manager has closed: free what it has made, whoever still refers to it."""
        self.watch_no_more()
        for share in list(self._made):
            share.free()
