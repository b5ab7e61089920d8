"""What a manager shows of a run: its status line, and the Python stacks of what runs now."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

import pytest

from procbackground import Manager, Task, TaskType, current
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, Address, stop_at_gate

LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="stacks are taken on Linux only")


def outer(address: Address) -> None:
    inner(address)


def inner(address: Address) -> None:
    stop_at_gate(address)


def wait_in_context(address: Address) -> None:
    stop_at_gate(address)
    current().wait(PATIENCE_S)


def with_another_thread(address: Address) -> None:
    ready = threading.Event()

    def helper() -> None:
        ready.set()
        time.sleep(PATIENCE_S)

    threading.Thread(target=helper, daemon=True).start()
    ready.wait()
    stop_at_gate(address)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def iterate(address: Address) -> None:
    stop_at_gate(address)


def functions_in(stack: str | None) -> list[str]:
    assert stack is not None
    return [line.rpartition(" in ")[2] for line in stack.splitlines() if line.startswith("  File ")]


@LINUX_ONLY
def test_a_running_task_shows_where_it_is_in_the_users_frames_only(manager, gate):
    handle = manager.run(outer, gate.address)
    gate.wait_for_arrival()
    stack = None

    def has_answered() -> bool:
        nonlocal stack
        stack = handle.stack()
        return stack is not None

    wait_until(has_answered, "the worker has answered")  # on a busy machine it may take longer than a call waits
    assert functions_in(stack)[:3] == ["outer", "inner", "stop_at_gate"]
    assert "    inner(address)" in stack.splitlines()
    assert f'  File "{__file__}", line {outer.__code__.co_firstlineno + 1}, in outer' in stack.splitlines()
    assert "procbackground/_" not in stack
    gate.open()
    handle.result(timeout=PATIENCE_S)
    assert handle.stack() is None


@LINUX_ONLY
def test_where_the_task_waits_in_a_call_of_ours_its_own_frames_remain(manager, gate):
    handle = manager.run(wait_in_context, gate.address)
    gate.wait_for_arrival()
    gate.open()
    wait_until(lambda: functions_in(handle.stack()) == ["wait_in_context"], "the task waits in its context")
    handle.cancel()


@LINUX_ONLY
def test_other_threads_of_the_task_are_shown_after_its_own(manager, gate):
    handle = manager.run(with_another_thread, gate.address)
    gate.wait_for_arrival()
    first, _, others = handle.stack().partition("Another thread:\n")
    assert functions_in(first)[0] == "with_another_thread"
    assert functions_in(others) == ["helper"]


def test_what_does_not_run_has_no_stack(manager, gate):
    running = [manager.run(stop_at_gate, gate.address) for _ in range(2)]
    for _ in running:
        gate.wait_for_arrival()
    assert manager.run(outer, gate.address).stack() is None  # queued
    gate.open()


@LINUX_ONLY
def test_a_process_that_is_stopped_gives_none_and_the_dump_says_so(manager):
    handle = manager.run(stop_itself)
    wait_until(lambda: "it was stopped" in manager.dump(), "the process has stopped itself")
    assert handle.stack() is None
    handle.cancel()


@LINUX_ONLY
def test_a_dump_shows_tasks_and_loops_and_how_long_they_run(manager, gate):
    manager.run(outer, gate.address)
    manager.run_task(Task(iterate, args=(gate.address,), type=TaskType.LOOP, name="poll"))
    pids = {gate.wait_for_arrival() for _ in range(2)}
    dump = manager.dump()
    assert dump.startswith(repr(manager))
    for name, function in (("outer", "outer"), ("poll", "iterate")):
        head = next(line for line in dump.splitlines() if line.startswith(f"'{name}' (attempt 1), process "))
        assert any(f"process {pid}, running for " in head for pid in pids)
        assert f"in {function}\n" in dump


def test_the_repr_counts_in_every_state(gate):
    manager = Manager(max_workers=2)
    assert repr(manager) == "<Manager unused: 0 workers, 0 running, 0 queued, 0 done>"
    assert manager.dump() == repr(manager)
    for _ in range(3):
        manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    gate.wait_for_arrival()
    wait_until(lambda: "2 running, 1 queued, 0 done>" in repr(manager), "two run")
    assert repr(manager).startswith("<Manager open: ")
    gate.open()
    manager.close(timeout=PATIENCE_S)
    assert repr(manager) == "<Manager closed: 0 workers, 0 running, 0 queued, 3 done>"
    assert manager.dump() == repr(manager)


def test_a_manager_that_could_not_be_made_has_a_repr():
    with pytest.raises(ValueError, match="max_workers"):
        Manager(max_workers=0)
    assert "not made" in repr(Manager.__new__(Manager))


def test_in_a_fork_the_repr_says_whose_it_is(manager, gate):
    manager.run(pow, 2, 2).result(timeout=PATIENCE_S)
    pid = os.fork()
    if pid == 0:
        told: Any = repr(manager)
        os._exit(0 if "of another process" in told else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
