"""The latch: an event that happens once, whoever waits, whoever is interrupted."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import pytest

from procbackground import _sync
from procbackground._sync import Latch

PATIENCE_S = 30.0  # bounds a hang; never paces a test


def raise_at_line(number: int) -> Any:
    """Return a trace function that raises `KeyboardInterrupt` at the line event `number` of the latch's module."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != _sync.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == number:
                raise KeyboardInterrupt
        return trace

    return trace


def interrupt_at(number: int, act: Any) -> bool:
    """Call `act`, interrupted at one line; return whether it came so far."""
    before = sys.gettrace()
    sys.settrace(raise_at_line(number))
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_wait_returns_at_once_when_the_event_has_happened():
    latch = Latch()
    latch.set()
    assert latch.is_set
    assert latch.wait()
    assert latch.wait(0)


def test_wait_that_times_out_says_so():
    latch = Latch()
    assert not latch.wait(0)
    assert not latch.wait(-1)
    assert not latch.is_set


def test_waits_that_time_out_leave_no_locks():
    latch = Latch()
    for _ in range(1000):
        latch.wait(0)
    assert not latch._waiting


def test_set_wakes_all_who_wait():
    for _ in range(200):
        latch = Latch()
        answers: list[bool] = []

        def wait(latch: Latch = latch, answers: list[bool] = answers) -> None:
            answers.append(latch.wait(PATIENCE_S))

        waiters = [threading.Thread(target=wait) for _ in range(4)]
        setters = [threading.Thread(target=latch.set) for _ in range(2)]
        for thread in waiters + setters:
            thread.start()
        for thread in waiters + setters:
            thread.join(PATIENCE_S)
        assert answers == [True] * 4
        assert not latch._waiting


def test_set_interrupted_at_any_line_wakes_all_when_it_is_repeated():
    number = 0
    was_interrupted = True
    while was_interrupted:
        number += 1
        latch = Latch()
        has_begun = threading.Barrier(4)
        answers: list[bool] = []

        def wait(latch: Latch = latch, has_begun: Any = has_begun, answers: list[bool] = answers) -> None:
            has_begun.wait(PATIENCE_S)
            answers.append(latch.wait(PATIENCE_S))

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        has_begun.wait(PATIENCE_S)
        was_interrupted = interrupt_at(number, latch.set)
        latch.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert answers == [True] * 3, f"interrupted at line event {number}"
    assert number > 2


@pytest.mark.parametrize("is_set", [False, True])
def test_wait_interrupted_at_any_line_leaves_a_whole_latch(is_set: bool):
    number = 0
    was_interrupted = True
    while was_interrupted:
        number += 1
        latch = Latch()
        if is_set:
            latch.set()
        was_interrupted = interrupt_at(number, lambda latch=latch: latch.wait(0))
        latch.set()
        assert latch.wait(0)
        assert not latch._waiting
    assert number > 2
