"""Faults 10 to 14, 18b and 19: tasks that have to be stopped."""

from __future__ import annotations

import os
import signal
import time

import pytest

from procbackground import MemoryLimitError, TaskTimeoutError
from tests.support.facts import wait_until_gone
from tests.support.gate import PATIENCE_S
from tests.support.tasks import hoarding

LIMIT_S = 0.4


def assert_shows_where(error, *functions: str) -> None:
    """The error tells the limit, and the Python stack of the child at that moment."""
    assert isinstance(error, TaskTimeoutError)
    assert f"ran over its timeout of {LIMIT_S} s and was stopped; it was here:" in str(error)
    for function in functions:
        assert f"in {function}\n" in error.stack


def test_10_python_loop_over_its_timeout(scene):
    assert_shows_where(scene.limit(timeout=LIMIT_S).play("spin"), "spin", "act")


def test_11_loop_that_ignores_sigterm(scene):
    assert_shows_where(scene.limit(timeout=LIMIT_S).play("spin deaf"), "spin_deaf", "act")


def test_12a_sleep_over_its_timeout(scene):
    assert_shows_where(scene.limit(timeout=LIMIT_S).play("sleep"), "sleep_long", "act")


def test_12b_stuck_in_c_with_the_gil_held(scene):
    assert_shows_where(scene.limit(timeout=LIMIT_S).play("in C"), "hold_the_interpreter", "act")


def test_12b_without_grace_there_is_a_stack_all_the_same(make_scene):
    scene = make_scene(grace=0.0).limit(timeout=LIMIT_S)
    assert_shows_where(scene.play("in C"), "hold_the_interpreter", "act")


@pytest.mark.usefixtures("memory_to_itself")
def test_13_memory_hog(scene):
    error = scene.limit(memory_limit="200MiB").play("hoard")
    assert isinstance(error, MemoryLimitError)
    assert (error.pid, error.limit) == (scene.pid, 200 * hoarding.MIB)


@pytest.mark.parametrize("fault", ["grandchild", "grandchild in a session"])
def test_14_grandchild_of_a_stopped_task(scene, gate, fault):
    guilty = scene.limit(timeout=0.6).strike(fault)
    grandchild = gate.wait_for_label()
    assert isinstance(guilty.exception(timeout=PATIENCE_S), TaskTimeoutError)
    wait_until_gone([scene.pid, grandchild])
    scene.finish()


@pytest.mark.parametrize("fault", ["grandchild", "grandchild in a session"])
def test_14_grandchild_of_a_worker_that_was_killed(make_scene, gate, fault):
    scene = make_scene()
    guilty = scene.strike(fault)
    grandchild = gate.wait_for_label()
    os.kill(scene.pid, signal.SIGKILL)
    assert guilty.exception(timeout=PATIENCE_S) is not None
    scene.finish()  # and closes
    wait_until_gone([grandchild])


@pytest.mark.parametrize("fault", ["in C", "SIGSTOP"])
def test_18b_strongest_stop_ends_a_hung_task(scene, fault):
    guilty = scene.strike(fault)
    started = time.monotonic()
    report = scene.manager.close(timeout=0)
    assert time.monotonic() - started < 0.3 + 3.0  # grace, and a moment
    assert guilty.cancelled()
    assert scene.neighbour.cancelled()
    assert report.leftovers == ()
    assert report.stopped + report.killed == 2
    assert max(scene.runs().values()) == 1
    wait_until_gone([scene.pid])


@pytest.mark.parametrize("fault", ["spin deaf", "in C", "SIGSTOP"])
def test_19_cancel_of_a_running_task(scene, fault):
    guilty = scene.strike(fault)
    assert guilty.cancel()
    assert guilty.cancelled()
    wait_until_gone([scene.pid])
    scene.finish()
