"""What a task costs the supervisor thread, in calls of Python functions. Unlike times, they do not vary by machine."""

import threading
from statistics import median
from types import FrameType
from typing import Any

from procbackground import Manager
from procbackground._supervisor import loop
from tests.support.gate import PATIENCE_S

ROUND_TRIPS = 150
MOST_CALLS = 58


class Passes:
    """The names of our functions that a supervisor thread calls, by pass of its loop."""

    def __init__(self) -> None:
        self.all: list[list[str]] = []

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or not threading.current_thread().name.endswith("-supervisor"):
            return
        if not frame.f_globals.get("__name__", "").startswith("procbackground."):
            return  # the tests check the states of jobs
        if frame.f_code.co_name == "_step":
            self.all.append([])
        elif self.all:
            self.all[-1].append(frame.f_code.co_name)

    def calls_with(self, name: str, other: str) -> float:
        """Return how many calls the passes have as a rule that call `name`, and not the other."""
        return median(len(each) + 1 for each in self.all if name in each and other not in each)


def test_a_round_trip_takes_the_supervisor_few_calls(monkeypatch):
    """They are on the way of each short task that is waited for, and each takes 50 to 100 ns."""
    monkeypatch.setattr(loop, "CHECKS", False)  # they cost more than the tasks
    passes = Passes()
    threading.setprofile(passes.note)
    try:
        manager = Manager(max_workers=1, timeout=PATIENCE_S)
        manager.run(abs, 0).result(PATIENCE_S)
    finally:
        threading.setprofile(None)
    with manager:
        for number in range(ROUND_TRIPS):
            manager.run(abs, number).result(PATIENCE_S)
    # On a busy machine there are passes between the two, and requests that come with an answer.
    taking, settling = passes.calls_with("accept", "_settle_batch"), passes.calls_with("_settle_batch", "accept")
    assert taking + settling <= MOST_CALLS
