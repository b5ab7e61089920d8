"""What the programs share."""

from __future__ import annotations

import os
import resource
import threading

from procbackground import Manager
from tests.support.facts import Living, child_pids, wait_until
from tests.support.recorder import Recorder

__all__ = ["Hoard", "Living", "Manager", "Recorder", "child_pids", "finish", "wait_until"]


class Hoard:
    """Takes all descriptors but `left`."""

    def __init__(self, left: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        self._fds: list[int] = []
        try:
            while True:
                self._fds.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        self.release(left)

    def release(self, count: int | None = None) -> None:
        for _ in range(len(self._fds) if count is None else count):
            os.close(self._fds.pop())


def finish(manager: Manager, before: Living) -> None:
    """Close, and see that nothing is left."""
    report = manager.close(timeout=20)
    assert report.leftovers == (), report
    try:
        wait_until(lambda: not Living.now().more_than(before), "nothing is left", timeout=10)
    except AssertionError:
        raise AssertionError(f"left: {Living.now().more_than(before)}") from None
    assert threading.active_count() == 1, threading.enumerate()
    print("served again, nothing left")
