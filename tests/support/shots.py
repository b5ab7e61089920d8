"""Shots at busy workers, from a thread of their own."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from procbackground import Manager

BETWEEN_SHOTS_S = 0.03


@contextmanager
def shots(manager: Manager, number: int) -> Iterator[list[int]]:
    """Kill a random busy worker now and then; gives the list of the pids that were shot at."""
    chance = random.Random(number)
    shot: list[int] = []
    is_over = threading.Event()

    def shoot() -> None:
        while not is_over.wait(BETWEEN_SHOTS_S):
            busy = [process.pid for process in manager.processes() if process.task is not None]
            if busy:
                victim = chance.choice(busy)
                try:
                    os.kill(victim, number)
                except ProcessLookupError:
                    continue
                shot.append(victim)

    shooter = threading.Thread(target=shoot)
    shooter.start()
    try:
        yield shot
    finally:
        is_over.set()
        shooter.join()
