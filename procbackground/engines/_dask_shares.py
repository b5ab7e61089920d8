"""Shared values on a dask cluster: data of dask, which moves from node to node, and lies in shared memory where it is.

A node gets a value with the first request that refers to it, and has it once, for all its processes. dask forgets it
with the manager's last reference. Where the only node that has it is lost, the manager sends it again.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from procbackground._wire.shares import SharedFile

# For a node to come that takes it. Then others get their turn: whoever cancels, or closes, must not wait for nodes.
SEND_S = 1.0


class ShareToSend:
    """A shared value in the manager; it arrives as a `ShareOnNode`."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = parts

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return ShareOnNode, (list(map(pickle.PickleBuffer, self._parts)),)  # out of band, so not copied


class ShareOnNode:
    """A shared value on a node, in shared memory there."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.file = SharedFile(bytes(parts[0]), [memoryview(part) for part in parts[1:]])

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return ShareOnNode, (list(map(pickle.PickleBuffer, self.file.parts())),)  # on its way to another node

    def __sizeof__(self) -> int:
        return self.file.size  # as dask counts it


class SharesOfManager:
    """The shared values of one manager: what they are, and where dask has them. In the thread that gives work."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._parts: dict[int, Sequence[memoryview]] = {}
        self._futures: dict[int, Any] = {}

    def add(self, value: tuple[int, Sequence[memoryview]]) -> None:
        """Take a value; nodes get it with the requests that need it."""
        number, parts = value
        self._parts[number] = parts

    def remove(self, number: int) -> None:
        """Have all nodes forget a value."""
        self._parts.pop(number, None)
        future = self._futures.pop(number, None)
        if future is not None:
            future.release()

    def futures_of(self, numbers: Sequence[int]) -> dict[int, Any]:
        """Return futures of these values, and send those that dask does not have, or has lost.

        Raises: `TimeoutError` where no node takes them now.
        """
        for number in numbers:
            future = self._futures.get(number)
            if future is None or future.status in ("cancelled", "lost", "error"):
                sent = ShareToSend(self._parts[number])
                self._futures[number] = self._client.scatter(sent, hash=False, timeout=SEND_S)
        return {number: self._futures[number] for number in numbers}

    def clear(self) -> None:
        """The manager closes."""
        self._parts.clear()
        self._futures.clear()
