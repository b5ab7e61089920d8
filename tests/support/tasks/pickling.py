"""Objects that do not pickle, or do not load, everywhere; and tasks that take or return them."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from tests.support.tasks.failing import Flaky


class KillsOnLoad:
    """Ends the process that loads it."""

    def __reduce__(self) -> Any:
        return end, (3,)


def end(code: int) -> None:
    os._exit(code)  # coverage replaces that by a closure, which cannot be pickled


class KillsOnceWhenPickled:
    """Ends the process that pickles it, unless the file is there already; else it is pickled as a number."""

    def __init__(self, number: int, path: str) -> None:
        self.number = number
        self.path = path

    def __reduce__(self) -> Any:
        if not os.path.exists(self.path):
            with open(self.path, "x"):
                os._exit(3)
        return int, (self.number,)


def kill_once_when_pickled(number: int, path: str) -> Any:
    if number > 3:
        time.sleep(0.0001)  # so that the first are told in a partial answer
    return KillsOnceWhenPickled(number, path) if number == 2 else number


class Payload:
    """Something that a weak reference can point to."""


class Refuses:
    """Cannot be pickled at all."""

    def __reduce__(self) -> Any:
        raise TypeError("this object refuses to be pickled")


class Counted:
    """Counts how often it is pickled, and by which threads."""

    pickled_by: list[int]

    def __init__(self) -> None:
        self.pickled_by = []

    def __reduce__(self) -> Any:
        self.pickled_by.append(threading.get_ident())
        return Counted, ()


def _load_anywhere_but_in(pid: int) -> Any:
    if os.getpid() == pid:
        raise ValueError("this object does not load here")
    return LoadsOnlyElsewhere(pid)


class LoadsOnlyElsewhere:
    """Loads in every process but `pid`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return _load_anywhere_but_in, (self.pid,)


def _load_only_in(pid: int) -> Any:
    if os.getpid() != pid:
        raise ValueError("this object does not load here")
    return LoadsOnlyIn(pid)


class LoadsOnlyIn:
    """Loads in the process `pid` only."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return _load_only_in, (self.pid,)


def return_unloadable(pid: int) -> Any:
    return LoadsOnlyElsewhere(pid)


def return_unloadable_if_told(number: int, pid: int | None) -> Any:
    time.sleep(0.0003)
    return number if pid is None else LoadsOnlyElsewhere(pid)


class Label:
    """An argument that a test can look after, and change when it was sent."""

    def __init__(self, number: int) -> None:
        self.number = number


def read_label(label: Label) -> int:
    if label.number < 4:
        time.sleep(0.02)
    if label.number == 60:
        raise Flaky("number 60")
    return label.number


may_load = threading.Event()
is_loading = threading.Event()


def _load_when_allowed(parent: int) -> str:
    if os.getpid() == parent:
        is_loading.set()
        may_load.wait(20)
    return "loaded"


class LoadsSlowly:
    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __reduce__(self) -> Any:
        return _load_when_allowed, (self.parent,)


def return_slow_loader(parent: int) -> Any:
    return LoadsSlowly(parent)
