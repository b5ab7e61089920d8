"""Tasks that report progress, and then do something that could keep the last report from arriving."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from procbackground import current
from tests.support.gate import Address, stop_at_gate


def count_up(times: int) -> None:
    me = current()
    for done in range(1, times + 1):
        me.progress(done, times)


def report(done: Any, total: Any = None, message: Any = None) -> None:
    current().progress(done, total, message)


def count_then_stop(times: int, address: Address) -> None:
    count_up(times)
    stop_at_gate(address)


def count_then_hold_the_lock(times: int) -> int:
    """Report, and then compute in C without letting any other thread of this process run."""
    count_up(times)
    return sum(range(80_000_000))


def count_then_die(times: int, how: str) -> None:
    count_up(times)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exits":
        os._exit(3)
    raise ValueError("counted enough")


def count_own(number: int) -> int:
    for step in range(3):
        current().progress(10 * number + step)
    return number


def count_in_threads(times: int) -> None:
    threads = [threading.Thread(target=_count_in_context, args=(current(), times)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    current().progress(times, times, "all")


def _count_in_context(me: Any, times: int) -> None:
    for done in range(times):
        me.progress(done, times)


def report_in_fork() -> None:
    current().progress(1)
    if not os.fork():
        for _ in range(100):
            current().progress(999)
        os._exit(0)
    os.wait()


def report_now_and_then(times: int, pause_s: float) -> list[float]:
    """Report the monotonic time of each report."""
    for _ in range(times):
        current().progress(time.monotonic())
        time.sleep(pause_s)
    return []


def beat_and_stop(address: Address, number: int) -> int:
    """Report progress; the row 5 stops at the gate."""
    current().progress(number, 10)
    return stop_at_gate(address, number) if number == 5 else number
