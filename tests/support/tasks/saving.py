"""Tasks that save their state, and ways for an attempt of them to end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from procbackground import current


def count_to(goal: int, deadly: tuple[int, ...] = (), how: str = "kill", log: str | None = None) -> int:
    """Count from the saved number to `goal`, saving each number; end the attempt `how` right after each of `deadly`."""
    number = current().saved or 0
    while number < goal:
        number += 1
        if log is not None:
            note(log, f"{number}\n")
        current().save(number)
        if number in deadly:
            end_attempt(how)
    return number


def note(log: str, text: str) -> None:
    """Append to a file, also if the process is killed just afterwards."""
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, text.encode())
    os.close(fd)


def end_attempt(how: str) -> None:
    if how == "raise":
        raise RuntimeError("the attempt ends here")
    if how == "exit":
        os._exit(3)
    if how == "time":
        time.sleep(60)
    if how == "memory":
        hoard = bytearray(400_000_000)
        hoard[::4096] = b"\1" * len(hoard[::4096])
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)


def show_saved(number: int) -> tuple[int, Any]:
    """Return what this row finds, after it saved its own number; the first attempt of each seventh row raises."""
    found = current().saved
    current().save(number)
    if number % 7 == 0 and current().attempt == 1:
        raise RuntimeError("once")
    return number, found


def save(state: Any) -> Any:
    current().save(state)
    return current().saved


class Vanishing:
    """Can be pickled, but not loaded."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ImportError("gone")


def save_what_cannot_be_loaded() -> Any:
    if current().attempt == 1:
        current().save(Vanishing())
        raise RuntimeError("once")
    return current().saved


def iterate_from_saved(log: str) -> None:
    """As a loop: log the number of the iteration, counted over all processes; each third one dies."""
    number = (current().saved or 0) + 1
    current().save(number)
    note(log, f"{number}\n")
    if number % 3 == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def save_large_states(log: str, size: int, last_attempt: int) -> int:
    """Save one state after the other, each of equal bytes; log the state found once a further one is saved."""
    context = current()
    number, content = context.saved or (0, b"")
    if content != bytes([number % 256]) * len(content):
        raise ValueError("a state of two saves")
    found = number
    while context.attempt < last_attempt:
        number += 1
        context.save((number, bytes([number % 256]) * size))
        if number == found + 1:
            note(log, f"{os.getpid()} {found}\n")
    return number


def lines_of(log: str | Path) -> list[str]:
    path = Path(log)
    return path.read_text().splitlines() if path.exists() else []
