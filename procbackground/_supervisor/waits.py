"""The handles of a manager that are not done, and the end of the waits for them in a fork of its process."""

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

_WAITS = frozenset(function.__code__ for function in (TaskHandle._wait, wait, as_completed))


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
    """End the waits for handles of the thread that forked, in a signal handler say, and forget those of others."""
    if _is_in_wait():
        # A wait that is just beginning cannot be seen; it ends, too, if the handle has been settled.
        handles = unsettled_handles(loop)
        waited = [handle for handle in handles if _forget_waits(handle) or not handle.__dict__.get("_sleepers")]
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
    """Whether a wait for handles is what this thread was interrupted in. Ends those by `handle.result`.

    The lock of such a wait is in nobody's list where another thread was about to release it, with the handle done.
    """
    is_so = False
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code in _WAITS:
            is_so = True
        if frame.f_code is TaskHandle._wait.__code__:
            _release(frame.f_locals.get("lock"))
        frame = frame.f_back
    return is_so


def _forget_waits(handle: TaskHandle[Any]) -> bool:
    """End waits by `handle.result`; return whether there may be others, which end once the handle is settled."""
    attributes = handle.__dict__
    for lock in attributes.get("_sleepers", ()):
        _release(lock)
    condition = attributes.get("_condition")
    if condition is None or not condition._is_owned():  # a thread that does not exist here may hold its lock
        attributes.pop("_claim", None)
        attributes.pop("_condition", None)
    if attributes.get("_waiters"):
        attributes["_claim"] = attributes.setdefault("_condition", SafeCondition())
    return "_claim" in attributes


def _release(lock: Any) -> None:
    """End a wait for this lock, unless it does not wait yet, or any more."""
    try:
        lock.release()
    except (AttributeError, RuntimeError):
        pass  # there is none yet, or it was released: here, or in the parent by a thread that had not removed it
