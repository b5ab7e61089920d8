"""Short requests go to the cluster together: a task of dask costs it some milliseconds, whatever the task does.

A bundle is one task of dask, with one request or several. Those of a bundle still are attempts of their own: each has
its reports, its limits and its end, and a node that does not get to them soon gives them back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from procbackground._wire import attempts as w

SHORT_S = 0.02  # requests that are expected to take longer go alone: they are worth what dask takes
BUNDLE_S = 0.05  # of work in a bundle; a tenth of it is what dask takes
LEAST_S = 0.0005  # that a request counts for: what its reports and its process cost a node
MOST_TOGETHER = 64  # requests in a bundle
MOST_BYTES = 1 << 18  # of arguments in a bundle
MOST_IN_MESSAGE = 1000  # bundles
MOST_BYTES_OF_MESSAGE = 8 << 20  # of arguments, unless they are those of one bundle


class Bundle:
    """One task of dask, and those of its requests that have not ended. Its number is that of its first request.

    Args:
        unwanted: takes the future once no request is left. Dask forgets the task when the future is released.
    """

    def __init__(self, requests: Sequence[w.Request], unwanted: deque[Any]) -> None:
        self.number: int = requests[0].number
        self.has_shares: bool = bool(requests[0].shares)
        self.left: set[int] = {request.number for request in requests}
        self.has_result: bool = False  # its dask task returns reports that are too large for events
        self._unwanted = unwanted
        self._future: Any = None

    @property
    def future(self) -> Any:
        """The future of dask; None before it is there, and once all requests have ended."""
        return self._future

    def came(self, future: Any) -> None:
        """Take the future. Reports may have come before it, in another thread."""
        self._future = future
        self._let_go_if_over()

    def end(self, number: int) -> None:
        """A request has ended, or was cancelled."""
        self.left.discard(number)
        self._let_go_if_over()

    def _let_go_if_over(self) -> None:
        """Let go of the future once nothing is left.

        `came` sets the future before it looks at what is left, and `end` the other way round: one of them sees both.
        """
        if not self.left and (future := self._future) is not None:
            self._future = None
            self._unwanted.append(future)


def in_bundles(requests: Sequence[w.Request], free: int) -> list[list[w.Request]]:
    """Cut requests into those that go together, but for the first ones: `free` threads wait for work of their own."""
    bundles = [[request] for request in requests[:free]]
    together: list[w.Request] = []
    took_s, size = 0.0, 0
    for request in requests[max(0, free) :]:
        if request.expected_s > SHORT_S:
            bundles.append([request])
            continue
        took_s += max(LEAST_S, request.expected_s)
        size += len(request.payload)
        if together and (took_s > BUNDLE_S or size > MOST_BYTES or len(together) == MOST_TOGETHER):
            bundles.append(together)
            together, took_s, size = [], max(LEAST_S, request.expected_s), len(request.payload)
        together.append(request)
    if together:
        bundles.append(together)
    return bundles


def in_messages(bundles: list[list[w.Request]]) -> Iterator[list[list[w.Request]]]:
    """Cut bundles into lists that are neither long nor large."""
    together: list[list[w.Request]] = []
    size = 0
    for bundle in bundles:
        added = sum(len(request.payload) for request in bundle)
        if together and (size + added > MOST_BYTES_OF_MESSAGE or len(together) == MOST_IN_MESSAGE):
            yield together
            together, size = [], 0
        together.append(bundle)
        size += added
    yield together


def key_of(name: str, bundle: int) -> tuple[str, int]:
    """Return the key of the dask task that is this bundle of the manager `name`."""
    return name, bundle


def bundle_of(key: Any, name: str) -> int | None:
    """Return the number of a bundle, or None for a key that is none of the manager `name`."""
    return key[1] if isinstance(key, tuple) and len(key) == 2 and key[0] == name else None
