"""Answers of nodes to questions of a manager: they come among the reports, from those nodes that still can."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any


class Answers:
    """Those that are waited for, by the number of the question. From any thread."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._changed = threading.Condition(threading.Lock())  # guards the rest
        self._answers: dict[int, list[tuple[str, Any]]] = {}

    def collect(self, ask: Callable[[int], int], timeout_s: float) -> list[tuple[str, Any]]:
        """Return the answers that come in time; `ask` sends the question of a number, and returns how many to wait for.

        Raises: as `ask`.
        """
        number = next(self._numbers)
        with self._changed:
            answers = self._answers[number] = []
        try:
            count = ask(number)
            with self._changed:
                self._changed.wait_for(lambda: len(answers) >= count, timeout_s)
                return list(answers)
        finally:
            with self._changed:
                del self._answers[number]

    def take(self, number: int, kind: str, node: str, answer: Any) -> None:
        """An answer has come. Those of questions that are not waited for any more are dropped."""
        with self._changed:
            if number in self._answers:
                self._answers[number].append((node, answer))
                self._changed.notify_all()
