"""Failures never retrieved: reported once in the log, as asyncio reports exceptions that were never retrieved.

A failed handle gets a guard, which goes with the first look at the failure. A guard that is collected, or is left when
the manager has closed, is reported. Tasks that succeed have none, so they cost nothing.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable

logger = logging.getLogger("procbackground")

SHOWN = 10  # failures of one manager that get a record of their own at the close; the others are counted


class Guard:
    """Kept by a failed handle until its failure is retrieved."""

    __slots__ = ("__weakref__", "_error", "_failures", "_name")

    def __init__(self, failures: UnseenFailures, name: str, error: BaseException) -> None:
        self._failures: UnseenFailures | None = failures
        self._name = name
        self._error = error

    def dismiss(self) -> None:
        """Somebody has looked."""
        self._failures = None

    def take(self) -> tuple[str, BaseException] | None:
        """Return the failure for a report, unless it was retrieved or reported already."""
        failures, self._failures = self._failures, None
        return None if failures is None else (self._name, self._error)

    def __del__(self) -> None:
        # At any point, in any thread, with any lock held: nothing is logged here.
        failures = self._failures
        if failures is not None:
            self._failures = None
            failures.collected(self._name, self._error)


class UnseenFailures:
    """The failures of one manager that were never retrieved."""

    def __init__(self, do_soon: Callable[[Callable[[], None]], None]) -> None:
        # In a thread for user code: a finalizer must neither log nor format a traceback. It does nothing where there is
        # no such thread (any more), because `report_all` follows.
        self._do_soon = do_soon
        self._guards: weakref.WeakSet[Guard] = weakref.WeakSet()  # changed by the supervisor thread only
        self._collected: deque[tuple[str, BaseException]] = deque()

    def guard(self, name: str, error: BaseException) -> Guard:
        """Return a guard for a handle that is about to fail."""
        guard = Guard(self, name, error)
        self._guards.add(guard)
        return guard

    def collected(self, name: str, error: BaseException) -> None:
        """A handle went away unseen. Takes no lock."""
        self._collected.append((name, error))
        self._do_soon(self._report_collected)

    def _report_collected(self) -> None:
        while self._collected:
            _report(*self._collected.popleft())

    def report_all(self) -> None:
        """The manager has closed: report what is left."""
        self._report_collected()
        found = [failure for guard in list(self._guards) if (failure := guard.take()) is not None]
        for name, error in found[:SHOWN]:
            _report(name, error)
        if len(found) > SHOWN:
            logger.warning("%d more tasks failed, and nobody has looked at their results", len(found) - SHOWN)


def _report(name: str, error: BaseException) -> None:
    exc_info = (type(error), error, error.__traceback__)
    logger.warning("task %s failed, and nobody has looked at its result", name, exc_info=exc_info)
