"""Exceptions of every kind, also such as do not survive a pipe, and tasks that raise them."""

from __future__ import annotations

import os
import threading
from typing import Any

from tests.support.tasks.failing import Flaky, fail


class TwoArguments(Exception):
    """An everyday class that plain pickle dumps and cannot load."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code, self.reason = code, reason


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class HoldsALock(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Unreducible(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("no reduction today")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text today")


def _exception_from(pid: int) -> BaseException:
    if os.getpid() == pid:
        raise ValueError("this exception does not load here")
    return LoadsElsewhereError(pid)


class LoadsElsewhereError(Exception):
    """Pickles and loads, but not in process `pid`."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"not for {pid}")
        self.pid = pid

    def __reduce__(self) -> Any:
        return _exception_from, (self.pid,)


def raise_two_arguments() -> None:
    raise TwoArguments(7, "out of paper")


def raise_keyword_only() -> None:
    raise KeywordOnly(code=9)


def raise_holding_a_lock() -> None:
    raise HoldsALock("locked away")


def raise_unreducible() -> None:
    raise Unreducible("irreducible")


def raise_mute() -> None:
    raise Mute("mute")


def raise_loads_elsewhere(pid: int) -> None:
    raise LoadsElsewhereError(pid)


def raise_chained() -> None:
    try:
        fail("the first fault")
    except Flaky as error:
        raise KeyError("the second fault") from error


def raise_group() -> None:
    raise ExceptionGroup("both", [Flaky("one"), ValueError("two")])


def raise_with_note() -> None:
    error = Flaky("noted")
    error.add_note("seen at midnight")
    raise error


def raise_local_class() -> None:
    class LocalError(Exception):
        pass

    raise LocalError("from inside")
