"""The context of a running task, returned by `current()`; outside a task, a context whose calls do nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LONGEST_S = 1e15  # practically for ever, and no int beyond it is added to a float
_PIECE_S = 1e6


class Context:
    """The running task, as seen from inside it. Get it by `procbackground.current()`.

    Outside a task `attempt` is 1, `name` is "", `stopping` is False, `slots` is empty, `saved` is None, `wait` just
    sleeps and the other calls do nothing, so that functions stay callable in plain code.

    Attributes:
        name: of the task, as in events and logs.
        attempt: number of this attempt, from 1 on; for a loop, within the iteration.
    """

    __slots__ = ("attempt", "name")

    def __init__(self, name: str = "", attempt: int = 1) -> None:
        self.name: str = name
        self.attempt: int = attempt

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for: by `cancel()`, `close()`, a timeout or a deadline."""
        return False

    @property
    def slots(self) -> dict[str, tuple[int, ...]]:
        """The numbers of the slots that the task has, such as `{"gpu": (2,)}`, from 0 on; empty if it needs none.

        No other running task of its manager has them. With a slot "gpu", CUDA_VISIBLE_DEVICES was set by them before
        this process imported anything; see `Manager`.
        """
        return {}

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report how far the task is. Reaches `handle.progress` and `on_task_progress`, and counts as a heartbeat."""

    def heartbeat(self) -> None:
        """Report that the task is alive: `stalled_threshold` counts from here. Costs well under a microsecond."""

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds`, or until a stop is asked for; return `stopping`."""
        wait_in_pieces(_sleep, seconds)
        return False

    def save(self, state: Any) -> None:
        """Save `state`, any picklable object, for a further attempt of this task, which finds it as `saved`.

        The parent keeps the newest state while the task is retried, whatever ended the attempt: an exception, a
        timeout, a limit of memory, a signal. With a journal it is also there in the next run of the program, until
        the task has succeeded. A loop finds the state in its later iterations and after its process was replaced.
        A state counts once it has reached the parent as a whole, so an attempt that dies while it saves leaves the one
        before. It costs the task one pickling and one write to a pipe, so save every few seconds, not in every step.
        Does nothing in a process that the task started.
        Raises: `SerializationError`, naming the part that cannot be pickled.
        """

    @property
    def saved(self) -> Any:
        """The state that was saved last, by an earlier attempt or by this one; None if there is none.

        A new copy each time. A state that cannot be loaded any more, as after a change of its class, is reported by a
        warning in the log, and is None: the task starts afresh.
        """
        return None


def wait_in_pieces(wait: Callable[[float], bool], seconds: float) -> None:
    """Call `wait` until it returns true, for `seconds` in all: system calls refuse more than some centuries."""
    if not hasattr(seconds, "__float__"):
        raise TypeError(f"wait takes a number of seconds, such as wait(0.5), not {seconds!r}")
    left_s = float(min(seconds, _LONGEST_S))
    until_s = time.monotonic() + left_s
    while left_s > 0 and not wait(min(left_s, _PIECE_S)):
        left_s = until_s - time.monotonic()


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


OUTSIDE = Context()
_find_current: Callable[[], Context] | None = None


def current() -> Context:
    """Return the context of the running task; outside a task one whose calls do nothing."""
    return OUTSIDE if _find_current is None else _find_current()


def finder() -> Callable[[], Context] | None:
    """Return the function that finds the running task's context, if one was set."""
    return _find_current


def set_finder(find: Callable[[], Context] | None) -> None:
    """Set the function that finds the running task's context; a worker calls this when it starts."""
    global _find_current
    _find_current = find
