"""What threads wait by, whoever waits, whoever is interrupted, and in forks."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from procbackground import ManagerClosedError, _sync
from procbackground._supervisor import inbox as inbox_module
from procbackground._supervisor.inbox import Inbox
from procbackground._sync import Bell, Latch, moment_lock

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


class Parted(Exception):
    """Raised in the parent once it has forked amid a wait."""


def fork_at(number: int, wait: Callable[[], object]) -> int | None:
    """Fork at the line event `number` of a call of `wait`; return the child's exit code: 7 where the call was refused.

    None where the call has ended before. The child goes on with the call, as after a signal handler that forks.
    """
    seen = 0
    child = -1

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen, child
        if frame.f_code.co_filename not in (_sync.__file__, inbox_module.__file__):
            return None
        if event == "line" and child < 0:
            seen += 1
            if seen == number:
                child = os.fork()
                if child:
                    raise Parted
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(10)  # ends a child that hangs
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        wait()
    except Parted:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ManagerClosedError:
        os._exit(7)
    finally:
        sys.settrace(before)
        if child == 0:
            os._exit(8)
    return None


def latch_and_end() -> tuple[Callable[[], object], Callable[[], object]]:
    latch = Latch()
    return latch.wait, latch.set


def bell_and_end() -> tuple[Callable[[], object], Callable[[], object]]:
    bell = Bell()
    facts: list[bool] = []

    def end() -> None:
        facts.append(True)
        bell.ring()

    return lambda: bell.wait(lambda: bool(facts)), end


def question_and_end() -> tuple[Callable[[], object], Callable[[], object]]:
    inbox = Inbox()
    return lambda: inbox.ask(lambda: None), lambda: inbox.requests[0]()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("make", [latch_and_end, bell_and_end, question_and_end])
def test_a_wait_is_refused_in_a_fork_made_at_any_line_of_it(make):
    number = 0
    has_forked = True
    while has_forked:
        number += 1
        wait, end = make()
        has_ended = threading.Event()

        def end_it(end: Callable[[], object] = end, has_ended: threading.Event = has_ended) -> None:
            has_ended.set()
            end()

        timer = threading.Timer(0.1, end_it)  # for the last calls, which no fork leaves before they block
        timer.start()
        code = fork_at(number, wait)
        timer.cancel()
        timer.join()
        has_forked = code is not None
        assert code in (7, None) or (code == 8 and has_ended.is_set()), f"forked at line event {number}"
    assert number > 8


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_finds_no_moment_lock_held_by_another_thread():
    lock = moment_lock()
    is_over = threading.Event()

    def take_often() -> None:
        while not is_over.is_set():
            with lock:
                sum(range(1000))  # most of the time

    thread = threading.Thread(target=take_often)
    thread.start()
    try:
        for _ in range(50):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if lock.acquire(False) else 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        is_over.set()
        thread.join(PATIENCE_S)
    assert lock.acquire(False)
    lock.release()
