"""Taking the stacks of workers that are stopped holds up nothing else."""

from __future__ import annotations

import os
import signal

import pytest

from procbackground import _platform
from procbackground._testing import View, endless_stack_dumps
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import gated, plain

STOPPED = 4
STALLED_S = 1.0  # longer than the tasks take to stop themselves

pytestmark = pytest.mark.skipif(not _platform.STACK_SIGNAL, reason="no stacks are taken here")


def test_the_stacks_of_stopped_workers_hold_up_no_other_task(make_manager, gate, recorder):
    manager = make_manager(max_workers=STOPPED + 1, observer=recorder, stalled_threshold=STALLED_S, grace=0.2)
    view = View(manager)
    ready = [manager.run(gated.stop_then_do, gate.address) for _ in range(STOPPED + 1)]
    pids = [gate.wait_for_arrival() for _ in ready]
    for pid in pids:
        gate.release(pid)
    for handle in ready:
        handle.result(timeout=PATIENCE_S)
    with endless_stack_dumps():
        silent = [manager.run(gated.tell_and_stop_oneself, gate.address) for _ in range(STOPPED)]
        stopped = [gate.wait_for_arrival() for _ in silent]
        wait_until(lambda: view.stacks_being_taken == STOPPED, "the stacks of all of them are being taken")
        unrelated = [manager.run(plain.square, number) for number in range(50)]
        assert [handle.result(timeout=PATIENCE_S) for handle in unrelated] == [number**2 for number in range(50)]
        assert view.stacks_being_taken == STOPPED
        assert recorder.events("task_stalled") == []
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        stalls = recorder.wait_for("task_stalled", STOPPED)
    assert {stall.handle for stall in stalls} == set(silent)
    assert all("tell_and_stop_oneself" in stall.stack for stall in stalls)
    gate.open()
    for handle in silent:
        assert handle.result(timeout=PATIENCE_S) is None


def test_a_stopped_worker_is_reported_without_its_stacks_in_the_end(make_manager, gate, recorder):
    manager = make_manager(max_workers=1, observer=recorder, stalled_threshold=STALLED_S, grace=0.2)
    handle = manager.run(gated.tell_and_stop_oneself, gate.address)
    pid = gate.wait_for_arrival()
    (stall,) = recorder.wait_for("task_stalled")
    assert stall.stack is None
    gate.open()
    os.kill(pid, signal.SIGCONT)
    assert handle.result(timeout=PATIENCE_S) is None
