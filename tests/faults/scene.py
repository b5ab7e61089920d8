"""The stage of most faults: two workers, a guilty task in one with short tasks behind it, a neighbour in the other."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from procbackground import Manager, TaskHandle
from procbackground._testing import View, depth_teller
from tests.faults import acts
from tests.support.facts import wait_until_gone
from tests.support.gate import PATIENCE_S, Gate
from tests.support.tasks import gated

BEFORE, BEHIND, AFTERWARDS = 2, 12, 4  # short tasks: of those behind, some are in the guilty one's worker


class Scene:
    """A manager whose every call is noted in a ledger, so that a task that ran twice, or never, shows."""

    def __init__(
        self, make_manager: Callable[..., Manager], method: str, gate: Gate, ledger: Path, **options: Any
    ) -> None:
        context = multiprocessing.get_context(method)
        self.manager = make_manager(**{"max_workers": 2, "mp_context": context, "grace": 0.3, **options})
        self.gate = gate
        self.ledger = ledger
        self.door: Any = self.manager  # or a view on it, with limits for the short tasks and the guilty one
        self.pid = 0  # of the worker that the guilty task ran in
        self._numbers = itertools.count(1)
        self._guilty_numbers: set[int] = set()
        self._expected: list[tuple[TaskHandle[Any], int]] = []

    def limit(self, **fields: Any) -> Scene:
        """Have the guilty task, and the short ones, run under these limits."""
        self.door = self.manager.options(**fields)
        return self

    def play(self, strike: str | Callable[[int], object], *, is_fatal: bool = True) -> Any:
        """Have the guilty task do `strike`, or have it done to its process; return its error once all is over.

        Checks that all others gave their results, that none ran twice, and, where the fault `is_fatal`, that the
        process is gone.
        """
        guilty = self.strike(strike)
        error = guilty.exception(timeout=PATIENCE_S)
        assert error is not None
        self.finish()
        if is_fatal:
            wait_until_gone([self.pid])
        return error

    def strike(self, strike: str | Callable[[int], object]) -> TaskHandle[Any]:
        """Set the stage, with the guilty task first in its worker's pipe, and let it, or have it, strike."""
        self.neighbour = self.manager.run(gated.stop_then_do, self.gate.address)
        self._neighbours_pid = self.gate.wait_for_arrival()
        self._teach_shortness()
        blocker = self.manager.run(gated.stop_then_do, self.gate.address)
        pid = self.gate.wait_for_arrival()
        self.add_short(BEFORE)
        number = next(self._numbers)
        self._guilty_numbers.add(number)
        guilty: TaskHandle[Any] = self.door.run(acts.act, str(self.ledger), number, self.gate.address)
        self.add_short(BEHIND)
        self.gate.release(pid, "go on")
        assert blocker.result(timeout=PATIENCE_S) == "go on"
        arrival = self.gate.next_arrival()
        assert arrival.label == "guilty"
        self.pid = arrival.pid
        # It stands at the gate, so what is in its worker's pipe stays there: it does hit others.
        assert View(self.manager).in_flight(self.pid) > 3, "no short tasks are in flight behind the guilty one"
        if callable(strike):
            strike(arrival.pid)
        else:
            self.gate.release(arrival.pid, strike)
        return guilty

    def finish(self) -> None:
        """Check that everybody but the guilty task comes to a good end, and close."""
        assert self.neighbour.running()
        for handle, number in self._expected:
            assert handle.result(timeout=PATIENCE_S) == number * number
        self.gate.release(self._neighbours_pid, "unharmed")
        assert self.neighbour.result(timeout=PATIENCE_S) == "unharmed"
        self.add_short(AFTERWARDS)
        for handle, number in self._expected[-AFTERWARDS:]:
            assert handle.result(timeout=PATIENCE_S) == number * number
        assert self.runs() == Counter([*self._guilty_numbers, *(number for _, number in self._expected)])
        assert all(len(handle.attempts) == 1 for handle, _ in self._expected)
        assert self.manager.stats().retried == 0
        assert self.manager.close(timeout=PATIENCE_S).leftovers == ()

    def add_short(self, count: int) -> None:
        for _ in range(count):
            number = next(self._numbers)
            self._expected.append((self.door.run(acts.act, str(self.ledger), number), number))

    def runs(self) -> Counter[int]:
        """How often each number was run."""
        return Counter(map(int, self.ledger.read_text().split()))

    def _teach_shortness(self) -> None:
        """Run short ones until the manager has learned that they are, and sends them ahead of their turn."""
        for _ in range(500):
            self.add_short(1)
            handle, _ = self._expected[-1]
            depth = depth_teller(handle)  # None when it is done already
            handle.result(timeout=PATIENCE_S)
            if depth is not None and depth() > 1:
                return
        raise AssertionError("the manager does not take the short tasks for short")
