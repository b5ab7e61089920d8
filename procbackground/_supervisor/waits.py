"""The handles of a manager that are not done, and how the standard library's waits for them end in a fork."""

from __future__ import annotations

import _thread
import gc
import sys
from concurrent.futures import as_completed, wait
from concurrent.futures._base import FINISHED
from typing import TYPE_CHECKING, Any

from procbackground._sync import SafeCondition
from procbackground.handle import TaskHandle

if TYPE_CHECKING:
    from types import FrameType

    from procbackground._supervisor.loop import Loop

_WAITS = frozenset(function.__code__ for function in (wait, as_completed))


def unsettled_handles(loop: Loop) -> list[TaskHandle[Any]]:
    """Return all of this manager's handles that are not done.

    The scheduler does not have those that were on their way from one list to another when it failed, such as a batch
    of answers. The garbage collector has: a look at all objects takes a second at the worst, and happens once.
    """
    handles = {id(job.handle): job.handle for job in loop.scheduler.all_jobs()}
    for found in gc.get_objects():
        # By type: asking a proxy for its class would run the user's code.
        if issubclass(type(found), TaskHandle) and found._owner is loop.owner:
            handles[id(found)] = found
    return [handle for handle in handles.values() if not handle.done()]


def end_waits_in_fork(loop: Loop) -> None:
    """End the waits of `concurrent.futures` of the thread that forked, and forget those of others.

    All waits of ours end by themselves: see `_sync.acquire_within`.
    """
    if _is_in_wait():
        # A wait that is just beginning cannot be seen; it ends, too, if the handle has been settled.
        waited = unsettled_handles(loop)
        for handle in waited:
            _forget_waits(handle)
    else:
        handles = [job.handle for job in (*loop.scheduler.all_jobs(), *loop.inbox.jobs())]
        waited = [handle for handle in handles if _forget_waits(handle)]

    def settle_all() -> None:
        for handle in waited:
            handle._settle(FINISHED, None, loop.acceptance.fork_error())

    # The functions of `concurrent.futures` end once the handles are settled. Another thread does that: this one
    # may have the locks that it needs, but not while it waits.
    if waited:
        _thread.start_new_thread(settle_all, ())


def _is_in_wait() -> bool:
    """Whether a wait of `concurrent.futures` is what this thread was interrupted in."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code in _WAITS:
            return True
        frame = frame.f_back
    return False


def _forget_waits(handle: TaskHandle[Any]) -> bool:
    """Forget the threads that the fork does not have; return whether this one may wait, until the handle is settled."""
    attributes = handle.__dict__
    attributes.pop("_sleepers", None)  # their locks have been released
    condition = attributes.get("_condition")
    if condition is None or not condition._is_owned():  # a thread that does not exist here may hold its lock
        attributes.pop("_claim", None)
        attributes.pop("_condition", None)
    if attributes.get("_waiters"):
        attributes["_claim"] = attributes.setdefault("_condition", SafeCondition())
    return "_claim" in attributes
