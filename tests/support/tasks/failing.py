"""Tasks that fail: they raise, exit, are killed, hang, or return what cannot be sent."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import procbackground
from tests.support.gate import Address, stop_at_gate
from tests.support.tasks.hoarding import MIB, hoard
from tests.support.tasks.plain import attempt_and_pid


class Flaky(Exception):
    """What tasks here raise on purpose."""


def fail(text: str = "broken on purpose") -> None:
    raise Flaky(text)


def fail_if_negative(x: int) -> int:
    if x < 0:
        raise Flaky(f"{x} is negative")
    return x


def raise_with(_: Any) -> None:
    raise Flaky("whatever the argument")


def raise_this(error: BaseException) -> None:
    raise error


def exit_hard(code: int) -> None:
    os._exit(code)


def exit_softly(code: int) -> None:
    sys.exit(code)


def die_by(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)  # the signal is on its way


def segfault() -> None:
    ctypes.string_at(0)


def return_a_lock() -> Any:
    return {"inner": [1, threading.Lock()]}


def sleep_long() -> None:
    time.sleep(3600)


def hold_the_interpreter() -> None:
    """Sit in C with the GIL held, where no Python signal handler ever runs."""
    deque(itertools.repeat(None), maxlen=0)


MISHAPS: dict[str, Callable[[], Any]] = {
    "raises": fail,
    "exits": functools.partial(exit_hard, 3),
    "is killed": functools.partial(die_by, signal.SIGKILL),
    "crashes": segfault,
    "hangs": sleep_long,
    "hoards": functools.partial(hoard, 1024 * MIB),
    "returns a lock": return_a_lock,
}


def mishap(how: str) -> Any:
    return MISHAPS[how]()


def mishap_before(last_attempt: int, how: str) -> Any:
    """Have the mishap in every attempt before `last_attempt`; then return attempt and pid."""
    if procbackground.current().attempt < last_attempt:
        return MISHAPS[how]()
    return attempt_and_pid()


def mishap_with(last_attempt: int, _: Any) -> int:
    """Raise in each attempt before `last_attempt`; then return it."""
    return mishap_before(last_attempt, "raises")[0]  # type: ignore[no-any-return]


def die_if_told(item: Any) -> Any:
    if item == "die":
        os._exit(3)
    return item


def tell_slowly_or_die(address: Address, item: Any) -> Any:
    """Take a while over a number, and tell it at the end; return at once for None."""
    if item == "die":
        os._exit(3)
    if item is not None:
        time.sleep(0.02)
        stop_at_gate(address, item)
    return item


def fail_at_19_000(number: int) -> int:
    if number == 19_000:
        raise Flaky("number 19,000")
    return number


def lock_if_none(item: Any) -> Any:
    return threading.Lock() if item is None else item


def die_soon(seconds: float) -> None:
    """Return, and have this process killed `seconds` later."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def refuse_or_raise(number: int) -> Any:
    if number == 4:
        raise Flaky("number 4")
    return threading.Lock() if number == 2 else number
