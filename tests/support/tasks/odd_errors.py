"""Exceptions and values that are hard to pickle or to load, and tasks that raise and return them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NoReturn


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int
    note: str = ""


class StubbornError(Exception):
    """Lets no attribute be set once it is made."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.__dict__["code"] = code

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is fixed")


class ExitsWhenPickled:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error("pickled")


def leave(error: type[BaseException]) -> NoReturn:
    raise error("loaded")


class ExitsWhenLoaded:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return leave, (self.error,)


class ErrorThatExitsWhenPickled(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(4)


class ErrorThatExitsWhenLoaded(Exception):
    def __reduce__(self) -> Any:
        return leave, (SystemExit,)

    def __setstate__(self, state: object) -> None:
        raise SystemExit(5)


class ErrorThatExitsAnyWay(Exception):
    def __init__(self) -> None:
        super().__init__("odd", ExitsWhenPickled(SystemExit))


def fail_with(kind: type[BaseException], *args: object) -> NoReturn:
    raise kind(*args)


def make(kind: type[Any], *args: object) -> Any:
    return kind(*args)


def make_if_odd(kind: type[Any], error: type[BaseException], number: int) -> Any:
    return kind(error) if number % 2 else number


def first_of(items: list[Any]) -> Any:
    return next(iter(items))


class QuietStop(StopIteration):
    pass


def pid_of_worker() -> int:
    return os.getpid()


def take(value: object) -> int:
    return os.getpid()


def code_of(error: Any) -> int:
    return error.code


class UnspeakableError(Exception):
    """Has no text: asking for one raises another of its kind."""

    def __str__(self) -> str:
        raise UnspeakableError

    __repr__ = __str__


def fail_unspeakably(*_: object) -> NoReturn:
    raise UnspeakableError


class UnspeakableWhenLoaded:
    def __reduce__(self) -> Any:
        return fail_unspeakably, ()


class UnspeakableWhenPickled:
    def __reduce__(self) -> Any:
        raise UnspeakableError

    def __repr__(self) -> str:
        raise UnspeakableError


def make_one_that_is_unspeakable_when_loaded(*_: object) -> UnspeakableWhenLoaded:
    return UnspeakableWhenLoaded()


def log_an_unspeakable_value() -> None:
    import logging

    logging.getLogger("unspeakable").warning("here", extra={"value": UnspeakableWhenPickled()})
