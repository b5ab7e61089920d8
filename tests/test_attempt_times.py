"""Times of attempts are right where the machine was suspended, or its clock was set, while the manager slept."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace

import psutil
import pytest

from procbackground import Task
from procbackground._supervisor import clock
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.scripts import parent, running
from tests.support.tasks import failing, gated, plain

HOUR_S = 3600.0


@pytest.fixture
def step_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function by which the manager's wall clock goes forward an hour, as after a suspend."""
    offset_s = 0.0

    def step() -> None:
        nonlocal offset_s
        offset_s += HOUR_S

    monkeypatch.setattr(clock, "time", SimpleNamespace(time=lambda: time.time() + offset_s, monotonic=time.monotonic))
    return step


@pytest.mark.parametrize("fn", [failing.fail, plain.nothing])
def test_an_attempt_that_follows_a_suspend_has_the_new_time(make_manager, step_clock, fn):
    manager = make_manager(max_workers=1)
    manager.run(plain.square, 3).result(timeout=PATIENCE_S)
    step_clock()
    before_s = time.time() + HOUR_S
    handle = manager.run(fn)
    handle.exception(timeout=PATIENCE_S)
    (attempt,) = handle.attempts
    assert before_s - 1 <= attempt.started <= attempt.ended <= time.time() + HOUR_S + 1


def test_an_attempt_amid_a_suspend_began_at_the_old_time_and_ended_at_the_new_one(make_manager, step_clock, gate):
    manager = make_manager(max_workers=1)
    handle = manager.run_task(Task(gated.stop_then_do, args=(gate.address,)))
    pid = gate.wait_for_arrival()
    step_clock()
    gate.release(pid, LookupError("after the suspend"))
    handle.exception(timeout=PATIENCE_S)
    (attempt,) = handle.attempts
    assert abs(attempt.started - time.time()) < PATIENCE_S
    assert abs(attempt.ended - time.time() - HOUR_S) < PATIENCE_S


SUSPENDED = """
with Manager(max_workers=1) as other:
    other.run(pow, 2, 2).result(timeout=20)
    handle = other.run_task(Task(gated.stop_then_do, args=(address,), timeout=2))
    print(handle.result(timeout=20))
"""


@pytest.mark.slow
def test_an_answer_that_came_while_the_parent_was_suspended_counts(gate, tmp_path):
    with running(parent(gate, SUSPENDED), tmp_path) as process:
        worker = gate.wait_for_arrival()
        began_s = time.monotonic()
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "the parent is suspended")
        gate.release(worker, 7)
        wait_until(lambda: time.monotonic() > began_s + 2.5, "the timeout has passed")
        os.kill(process.pid, signal.SIGCONT)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (stdout, stderr) == ("7\n", "")
