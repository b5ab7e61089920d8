"""Tasks that leave a line in a file each time they run, so that runs are counted whatever becomes of the process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

from procbackground import current
from tests.support.gate import Address, stop_at_gate
from tests.support.tasks.saving import note


def count(log: str, number: int, seconds: float = 0.0) -> int:
    note(log, f"{number} begins\n")
    time.sleep(seconds)
    note(log, f"{number} ends\n")
    return number


def count_and_return(log: str, number: int, size: int) -> bytes:
    count(log, number)
    return bytes(size)


def count_and_stop(log: str, number: int, address: Address) -> int:
    note(log, f"{number} begins\n")
    stop_at_gate(address, number)
    note(log, f"{number} ends\n")
    return number


def iterate(log: str) -> None:
    note(log, f"{os.getpid()}\n")
    current().wait(0.02)


def lines(log: str | Path, word: str = "") -> list[int]:
    """Return the numbers that are noted with `word`."""
    path = Path(log)
    text = path.read_text() if path.exists() else ""
    return [int(line.split()[0]) for line in text.splitlines() if line.endswith(word)]


def kill_the_node() -> None:
    """Kill the worker of dask above us: the one that listens for others."""
    for process in psutil.Process().parents():
        if "dask" in " ".join(process.cmdline()) or "spawn_main" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            break
    time.sleep(60)
