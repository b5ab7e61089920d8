"""Tasks that log, through `logging` and loguru."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from typing import Any

from procbackground import current
from tests.support.gate import Address, stop_at_gate, tell_gate

NAME = "tests.logs.library"


def warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=1)


class Unloadable:
    """Pickles, and cannot be loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def log(count: int, text: str = "record") -> int:
    logger = logging.getLogger(NAME)
    for number in range(count):
        logger.info("%s %d", text, number)
    return count


def log_and_count(count: int) -> None:
    """Log records of a KiB, and report how many as progress."""
    for number in range(count):
        logging.getLogger(NAME).info("%d %s", number, "x" * 1000)
        current().progress(number)


def log_and_fail(text: str) -> None:
    logging.getLogger(NAME).warning(text)
    raise ValueError(text)


def log_and_die(text: str) -> None:
    logging.getLogger(NAME).warning("%s", text)
    os.kill(os.getpid(), signal.SIGKILL)


def log_everything() -> None:
    """Log what is hard to carry: extras, exceptions, arguments that change."""
    logger = logging.getLogger(NAME)
    changing = ["before"]
    extra = {"user": 7, "parts": {1, 2}, "broken": Unloadable(), "lock": sys.stdout, "attempt": "mine"}
    logger.warning("changing: %s", changing, extra=extra, stack_info=True)
    changing[0] = "after"
    try:
        raise KeyError("inner")
    except KeyError:
        logger.exception("caught")


def level_of(name: str) -> tuple[bool, bool, bool]:
    logger = logging.getLogger(name)
    return logger.isEnabledFor(10), logger.isEnabledFor(20), logger.isEnabledFor(30)


def add_handlers_and_log(path: str) -> None:
    """Do what modules do that set up logging for themselves."""
    logging.basicConfig()
    logger = logging.getLogger(NAME)
    logger.addHandler(logging.StreamHandler())
    logger.addHandler(logging.FileHandler(path))
    logger.propagate = False
    logger.warning("once")


def log_in_a_fork() -> None:
    pid = os.fork()
    if not pid:
        logging.getLogger(NAME).error("of a fork")
        os._exit(0)
    os.waitpid(pid, 0)
    logging.getLogger(NAME).error("of the worker")


def loguru_log(text: str) -> None:
    from loguru import logger

    logger.bind(user=7, parts={1, 2}, task="mine").info("{}", text)
    try:
        raise KeyError("inner")
    except KeyError:
        logger.exception("caught")
    logger.level("LOUD", no=35, icon="!")
    logger.log("LOUD", "loud")


def loguru_formats() -> int:
    """Log a value, and return how often it was formatted."""
    from loguru import logger

    class Value:
        formatted = 0

        def __format__(self, _: str) -> str:
            self.formatted += 1
            return "value"

    value = Value()
    logger.error("{}", value)
    return value.formatted


def log_and_stop_at_row(address: Address, row: int, first: int) -> int:
    """Do nothing at rows before `first`; log at the next and take long, stop at the gate, log and tell the gate."""
    logger = logging.getLogger(NAME)
    if row == first:
        logger.warning("row %d", row)
        time.sleep(0.005)  # an answer of this row goes ahead of its chunk's
    elif row == first + 1:
        stop_at_gate(address, "before its answer")
    elif row == first + 2:
        logger.warning("row %d", row)
        tell_gate(address, "next chunk")
    return row
