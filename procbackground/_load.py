"""Imports that wait until a call needs them, such that no signal handler leaves them half made or finds them so."""

from __future__ import annotations

import gc
import os
import sys
import threading
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
    """Have `act` called where no signal handler can interrupt it: not in the main thread. Raises: what it raises."""
    if get_ident() != threading.main_thread().ident:
        return act()
    done = allocate_lock()
    done.acquire()
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(act())
        except BaseException as error:
            outcome.append(error)
        done.release()

    awaited = done, outcome
    try:
        _awaited.append(awaited)
        try:
            start_new_thread(run, ())
        except RuntimeError:
            return act()  # the system has no thread to give, or the interpreter exits
        done.acquire()
    finally:
        if awaited in _awaited:
            _awaited.remove(awaited)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]  # type: ignore[no-any-return]


_awaited: list[tuple[LockType, list[Any]]] = []  # by the main thread


def _end_waits() -> None:
    """In a fork, that a signal handler has made: the threads that are waited for do not exist."""
    for done, outcome in _awaited:
        if done.locked():
            outcome.append(RuntimeError("this process was forked while another thread did this for it"))
            done.release()


os.register_at_fork(after_in_child=_end_waits)
