"""Whether a manager takes work, and what to raise where it does not. Read by callers, written by the supervisor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from procbackground._supervisor.breakage import Breakage
from procbackground._sync import IN_FORK
from procbackground.errors import ManagerClosedError, ProcbackgroundError
from procbackground.handle import TaskHandle

# The first words are the standard library's, which callers have learnt to look for.
AFTER_CLOSE = "cannot schedule new futures after shutdown: the manager is closed"
AFTER_EXIT = "cannot schedule new futures after interpreter shutdown"


class Acceptance:
    """Each attribute is one word, set once, so that readers need no lock."""

    def __init__(self, has_initializer: bool) -> None:
        self.has_initializer: bool = has_initializer
        self.is_refusing: bool = False
        self.text: str = AFTER_CLOSE
        self.is_foreign: bool = False  # this is a fork of the manager's process
        self.failure: BaseException | None = None  # a bug that ended the supervisor
        self.breakage: Breakage | None = None  # why no worker can be started
        self.has_full_story: bool = False  # it has all that is known; before, only what happened
        self.cancels_queue: bool = False  # also what follows from work accepted before is refused
        self._insiders: set[int] = set()  # threads in `accepting_more`

    def check(self) -> None:
        """Raise the error for a caller that gives work now, if none is taken."""
        self.check_fork()
        if self.failure is not None:
            raise self.failure_error()
        if self.breakage is not None:
            raise self.breakage.error()
        if self.is_refusing and (not self.is_insider or self.cancels_queue):
            raise self.closed_error()

    def closed_error(self) -> ManagerClosedError:
        """Return a new error for a caller that came too late."""
        return ManagerClosedError(self.text)

    def check_fork(self) -> None:
        """Raise `ManagerClosedError` in a fork of the manager's process."""
        if self.is_foreign:
            raise self.fork_error()

    def fork_error(self) -> ManagerClosedError:
        """Return a new error for a caller in a fork of the manager's process."""
        return ManagerClosedError(IN_FORK)

    @property
    def is_insider(self) -> bool:
        """Whether this thread is in `accepting_more`."""
        return threading.get_ident() in self._insiders

    @contextmanager
    def accepting_more(self) -> Iterator[None]:
        """Within it this thread may give work to a manager that closes: what follows from work accepted before."""
        me = threading.get_ident()
        is_outermost = me not in self._insiders
        try:
            self._insiders.add(me)
            yield
        finally:
            if is_outermost:
                self._insiders.discard(me)

    def failure_error(self, handle: TaskHandle[object] | None = None) -> ProcbackgroundError:
        """Return a new error that describes the bug."""
        error = ProcbackgroundError(
            f"the manager's supervisor failed ({self.failure!r}): this is a bug of procbackground, and its log has "
            f"the traceback; the manager takes no more tasks",
            task=None if handle is None else handle.task,
        )
        error.__cause__ = self.failure
        return error
