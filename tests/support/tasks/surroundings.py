"""Tasks that find out, or use, what surrounds them in the child: its context, signals, logging and other managers."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import procbackground
from tests.support.gate import Address, stop_at_gate
from tests.support.tasks.failing import exit_hard
from tests.support.tasks.plain import square


def parent_pid() -> int:
    return os.getppid()


shared_lock = threading.Lock()
marks: list[str] = []


def take_shared_lock() -> str:
    with shared_lock:
        return "taken"


def read_marks() -> list[str]:
    return marks


def context_facts() -> tuple[int, str, bool]:
    context = procbackground.current()
    return context.attempt, context.name, context.stopping


def report_progress(total: int) -> int:
    for done in range(1, total + 1):
        procbackground.current().progress(done, total, f"item {done}")
    return total


def progress_then_stop(address: Address) -> None:
    procbackground.current().progress(1, 4, "one of four")
    stop_at_gate(address)


def beat_for(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        procbackground.current().heartbeat()
        time.sleep(0.01)


def survive_sigint() -> int:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)  # a KeyboardInterrupt would come here
    return os.getpid()


def group_and_pid() -> tuple[int, int]:
    return os.getpgid(0), os.getpid()


def log_by_logging(text: str) -> int:
    import logging

    logging.getLogger("tests.child").warning(text)
    return os.getpid()


def log_by_loguru(text: str) -> int:
    from loguru import logger

    logger.warning(text)
    return os.getpid()


def nested(x: int) -> int:
    with procbackground.Manager(max_workers=1) as manager:
        return manager.run(square, x).result(timeout=60)


def nested_death() -> None:
    with procbackground.Manager(max_workers=1) as manager:
        manager.run(exit_hard, 3).result(timeout=60)


_initialized: list[Any] = []


def initialize(*args: Any) -> None:
    _initialized.append(args)


def initialized() -> list[Any]:
    return _initialized
