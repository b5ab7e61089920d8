"""Failures never retrieved: reported once in the log, as asyncio reports exceptions that were never retrieved.

A failed handle gets a guard, which goes with the first look at the failure. A guard that is collected, or is left when
the manager has closed, is reported; of failures that are alike one is, and the others are counted. Tasks that succeed
have no guard, so they cost nothing.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from math import inf

from procbackground._log import logger
from procbackground._printable import printable

# Of one manager, failures that differ get so many records of their own in this time; all others are counted. Where no
# worker can be started every task fails with the same long text.
SHOWN = 10
SHOWN_AGAIN_S = 60.0


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
        self._lock = threading.Lock()  # guards the rest: several threads for user code may report
        self._shown: set[tuple[str, str]] = set()  # names of tasks and texts of their errors, since:
        self._shown_since_s = -inf
        self._counted = 0

    def guard(self, name: str, error: BaseException) -> Guard:
        """Return a guard for a handle that is about to fail."""
        guard = Guard(self, name, error)
        self._guards.add(guard)
        return guard

    def collected(self, name: str, error: BaseException) -> None:
        """A handle went away unseen. Takes no lock."""
        self._collected.append((name, error))
        self._do_soon(self._report_collected)

    def report_all(self) -> None:
        """The manager has closed: report what is left."""
        self._report_collected()
        for guard in list(self._guards):
            failure = guard.take()
            if failure is not None:
                self._report(*failure)
        with self._lock:
            counted, self._counted = self._counted, 0
        _report_count(counted)

    def _report_collected(self) -> None:
        while self._collected:
            self._report(*self._collected.popleft())

    def _report(self, name: str, error: BaseException) -> None:
        """Log a failure, or count it."""
        counted, is_shown = self._decide((name, _text_of(error)), time.monotonic())
        _report_count(counted)
        if is_shown:
            exc_info = (type(error), error, error.__traceback__)
            logger.warning("task %s failed, and its exception was never retrieved", printable(name), exc_info=exc_info)

    def _decide(self, likeness: tuple[str, str], now_s: float) -> tuple[int, bool]:
        """Return of how many counted failures to tell now, and whether to show this one; else it is counted."""
        with self._lock:
            counted = 0
            if now_s > self._shown_since_s + SHOWN_AGAIN_S:
                counted, self._counted = self._counted, 0
                self._shown.clear()
                self._shown_since_s = now_s
            is_shown = likeness not in self._shown and len(self._shown) < SHOWN
            if is_shown:
                self._shown.add(likeness)
            else:
                self._counted += 1
            return counted, is_shown


def _report_count(count: int) -> None:
    if count == 1:
        logger.warning("1 more task failed, and its exception was never retrieved")
    elif count:
        logger.warning("%d more tasks failed, and their exceptions were never retrieved", count)


def _text_of(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # the user's own code
        return type(error).__name__
