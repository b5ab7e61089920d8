"""Tasks that go well: they return a value, after a moment or at once."""

from __future__ import annotations

import os
import time
from typing import Any

import procbackground
from tests.support.gate import Address, stop_at_gate


def add(a: int, b: int) -> int:
    return a + b


def square(x: int) -> int:
    return x * x


def square_after(seconds: float, x: int) -> int:
    time.sleep(seconds)
    return x * x


def echo(value: Any) -> Any:
    return value


def nothing() -> None:
    pass


def kind_of(value: Any) -> str:
    return type(value).__name__


def keywords(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def own_pid(_: object = None) -> int:
    return os.getpid()


def own_pid_after_a_moment(_: object) -> int:
    time.sleep(0.005)
    return os.getpid()


def bytes_of_size(size: int) -> bytes:
    return bytes(size)


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def stop_if_told(number: int, address: Address | None) -> int:
    if address is not None:
        stop_at_gate(address)
    return number


def pause_and_say_who(number: int, seconds: float) -> tuple[int, int]:
    if seconds:
        time.sleep(seconds)
    return number, os.getpid()


def burn(seconds: float) -> float:
    """Keep a core busy for `seconds` of CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


def attempt_and_pid() -> tuple[int, int]:
    return procbackground.current().attempt, os.getpid()


class Multiplier:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def times(self, x: int) -> int:
        return self.factor * x

    def __call__(self, x: int) -> int:
        return self.factor * x

    @staticmethod
    def double(x: int) -> int:
        return 2 * x

    @classmethod
    def name_and(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x
