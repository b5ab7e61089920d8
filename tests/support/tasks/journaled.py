"""Tasks whose executions are counted outside: each appends a line to a file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from procbackground import current
from tests.support.gate import Address, stop_at_gate
from tests.support.tasks.saving import end_attempt, note


def counted(log: str, number: int) -> int:
    note(log, f"{number}\n")
    return number * number


def counted_when_done(log: str, number: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    note(log, f"{number}\n")
    return number * number


def counted_and_held(log: str, address: Address, label: Any = None) -> Any:
    note(log, f"{label}\n")
    return stop_at_gate(address, label)


def fail_unless(log: str, flag: str, number: int) -> int:
    """Fail while the file `flag` is not there."""
    note(log, f"{number}\n")
    with open(flag, encoding="ascii"):
        return number


def fail_once(how: str) -> str:
    if current().attempt == 1:
        end_attempt(how)
    return how


@dataclass(frozen=True)
class Point:
    x: int
    y: float


def make_point(log: str, x: int) -> Point:
    note(log, f"{x}\n")
    return Point(x, x / 2)


def same(log: str, value: Any) -> Any:
    note(log, "same\n")
    return value


def fail(text: str) -> None:
    raise ValueError(text)


def count_up(goal: int, log: str) -> int:
    """Count from the saved number to `goal`, in steps that take a while."""
    number = current().saved or 0
    while number < goal:
        number += 1
        current().save(number)
        note(log, f"{number}\n")
        time.sleep(0.005)
    return number
