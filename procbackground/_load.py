"""Imports that wait until a call needs them, such that no signal handler leaves them half made or finds them so."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from _thread import LockType, allocate_lock, get_ident, start_new_thread
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")


def load(name: str) -> Any:
    """Return the module `name`; if it is imported now, then where no signal handler can interrupt that.

    For the imports that wait until a caller needs them. A handler runs in the main thread only. One that raises in the
    middle of an import leaves modules half made, and one that calls us would find them so. So another thread does
    it, and the main thread waits for that.
    Raises: what the import raises.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        return module
    return aside(lambda: _import(name))


_has_paused_collector = False


def _import(name: str) -> Any:
    """Import with the garbage collector paused: it finds nothing, and takes a tenth of a manager's first import."""
    global _has_paused_collector
    if _has_paused_collector or not gc.isenabled():
        return import_module(name)
    _has_paused_collector = True
    gc.disable()
    try:
        return import_module(name)
    finally:
        _resume_collector()


def _resume_collector() -> None:
    global _has_paused_collector
    if _has_paused_collector:
        _has_paused_collector = False
        gc.enable()


os.register_at_fork(after_in_child=_resume_collector)  # it has no thread that would do so


def aside(act: Callable[[], T]) -> T:
    """Have `act` called where no signal handler can interrupt it: not in the main thread.

    A fork waits until `act` has ended. Raises: what it raises; `RuntimeError` in a fork where that took too long.
    """
    if get_ident() != threading.main_thread().ident:
        return act()
    done = allocate_lock()
    done.acquire()
    outcome: list[Any] = []
    begun: list[bool] = []

    def run() -> None:
        at_work = allocate_lock()
        at_work.acquire()
        _working[get_ident()] = at_work
        begun.append(True)
        try:
            outcome.append(act())
        except BaseException as error:
            outcome.append(error)
        if done.locked():  # else a fork has ended the wait before this thread began
            done.release()
        del _working[get_ident()]
        at_work.release()

    awaited = done, outcome, begun
    try:
        _awaited.append(awaited)
        try:
            start_new_thread(run, ())
        except RuntimeError:
            return act()  # the system has no thread to give, or the interpreter exits
        done.acquire()
        if not outcome:
            return act()  # this is a fork, and the thread has not begun
    finally:
        if awaited in _awaited:
            _awaited.remove(awaited)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]  # type: ignore[no-any-return]


_awaited: list[tuple[LockType, list[Any], list[bool]]] = []  # by the main thread
_working: dict[int, LockType] = {}  # by thread, a lock that it holds until it has done its work
LONGEST_S = 2.0  # that a fork waits for them


def _let_finish() -> None:
    """Before a fork: the locks of an import that is under way in another thread would stay held there for ever."""
    until_s = time.monotonic() + LONGEST_S
    for ident, at_work in list(_working.items()):
        if ident != get_ident() and at_work.acquire(True, max(0.0, until_s - time.monotonic())):
            at_work.release()


def _end_waits() -> None:
    """In a fork, that a signal handler has made: the threads that are waited for do not exist."""
    _working.clear()
    for done, outcome, begun in _awaited:
        if done.locked():
            if begun and not outcome:
                outcome.append(RuntimeError("this process was forked while another thread did this for it"))
            done.release()


os.register_at_fork(before=_let_finish, after_in_child=_end_waits)
