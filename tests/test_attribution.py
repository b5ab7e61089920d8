"""A death is charged to the task that died, and to nobody else."""

from __future__ import annotations

import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from procbackground import Outcome, ProcbackgroundError, Task, TaskTimeoutError, WorkerDiedError
from tests.support.facts import is_gone, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, gated, plain


def test_killed_worker_fails_only_the_job_it_held(manager, gate):
    doomed = manager.run_task(Task(stop_at_gate, args=(gate.address,)))
    pid = gate.wait_for_arrival()
    neighbour = manager.run_task(Task(pow, args=(2, 10)))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError) as caught:
        doomed.result(timeout=PATIENCE_S)
    assert caught.value.exit_code == -signal.SIGKILL
    assert neighbour.result(timeout=PATIENCE_S) == 1024


@pytest.mark.parametrize(
    ("fn", "args", "exit_code", "text"),
    [
        (failing.exit_hard, (3,), 3, "3"),
        (failing.exit_hard, (0,), 0, "0"),
        (failing.die_by, (signal.SIGKILL,), -9, "SIGKILL"),
        (failing.die_by, (signal.SIGABRT,), -6, "SIGABRT"),
        (failing.segfault, (), -11, "SIGSEGV"),
    ],
    ids=["exit 3", "exit 0", "kill", "abort", "segfault"],
)
def test_a_death_costs_one_task(manager, gate, fn, args, exit_code, text):
    neighbour = manager.run(gated.stop_then_do, gate.address)
    gate.wait_for_arrival()
    doomed = manager.run(fn, *args)
    queued = [manager.run(plain.square, number) for number in range(6)]
    with pytest.raises(WorkerDiedError, match=text) as caught:
        doomed.result(timeout=PATIENCE_S)
    error = caught.value
    assert isinstance(error, BrokenProcessPool)
    assert isinstance(error, ProcbackgroundError)
    assert error.exit_code == exit_code
    assert error.task is doomed.task
    assert error.attempt == 1
    assert error.pid == doomed.attempts[0].pid
    assert doomed.attempts[0].outcome == Outcome.DIED
    assert doomed.attempts[0].exit_code == exit_code
    assert [handle.result(timeout=PATIENCE_S) for handle in queued] == [number**2 for number in range(6)]
    gate.open()
    assert neighbour.result(timeout=PATIENCE_S) is None
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4


def test_sys_exit_is_an_exception_of_the_task(manager):
    handle = manager.run(failing.exit_softly, 5)
    error = handle.exception(timeout=PATIENCE_S)
    assert isinstance(error, SystemExit)
    assert error.code == 5
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4


def test_each_death_has_an_error_of_its_own(manager):
    handles = [manager.run(failing.exit_hard, code) for code in (1, 2, 3, 4)]
    errors = [handle.exception(timeout=PATIENCE_S) for handle in handles]
    assert [error.exit_code for error in errors] == [1, 2, 3, 4]
    assert [error.task for error in errors] == [handle.task for handle in handles]
    assert len(set(map(id, errors))) == 4


def test_a_death_amid_a_long_queue_costs_one_task(manager):
    before = [manager.run(plain.square, number) for number in range(200)]
    doomed = manager.run(failing.die_by, signal.SIGKILL)
    after = [manager.run(plain.square, number) for number in range(200)]
    assert isinstance(doomed.exception(timeout=PATIENCE_S), WorkerDiedError)
    for handles in (before, after):
        assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [n**2 for n in range(200)]
    assert all(len(handle.attempts) == 1 for handle in before + after)


def test_an_answer_sent_before_the_death_counts(manager, gate):
    for _ in range(10):
        handle = manager.run(gated.tell_and_return, gate.address, 42)
        pid = gate.wait_for_arrival()
        answer = handle.result(timeout=PATIENCE_S)
        os.kill(pid, signal.SIGKILL)
        assert answer == 42
        assert handle.attempts[0].outcome == Outcome.SUCCEEDED


def test_a_task_that_dies_after_its_answer_does_not_harm_the_next(make_manager):
    manager = make_manager(max_workers=1)
    for number in range(10):
        # The worker is shot by a thread of the task's own, somewhere between its answer and the next task.
        manager.run(failing.die_soon, 0.002 * number).exception(timeout=PATIENCE_S)
        handle = manager.run(plain.square, number)
        error = handle.exception(timeout=PATIENCE_S)
        if error is None:
            assert handle.result() == number**2
        else:  # it had begun: then the death is charged to it, by name
            assert isinstance(error, WorkerDiedError)
            assert error.exit_code == -signal.SIGKILL


def test_a_task_given_to_a_dead_idle_worker_goes_elsewhere_uncharged(make_manager):
    manager = make_manager(max_workers=2)
    for number in range(15):
        idle = [manager.run(os.getpid).result(timeout=PATIENCE_S) for _ in range(2)]
        for pid in {process.pid for process in manager.processes()} | set(idle):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        handle = manager.run(plain.square, number)  # the manager may not know of the deaths yet
        assert handle.result(timeout=PATIENCE_S) == number**2
        assert [attempt.number for attempt in handle.attempts] == [1]
    assert manager.stats().failed == 0


def test_killing_in_the_middle_of_a_large_answer_costs_one_task(make_manager, gate):
    manager = make_manager(max_workers=2)
    large = manager.run(gated.tell_then_return_bytes, gate.address, 64 << 20)
    pid = gate.wait_for_arrival()
    others = [manager.run(plain.square, number) for number in range(20)]
    os.kill(pid, signal.SIGKILL)
    error = large.exception(timeout=PATIENCE_S)
    if error is None:
        assert len(large.result()) == 64 << 20  # all of it was in the pipe already
    else:
        assert isinstance(error, WorkerDiedError)
        assert error.pid == pid
    assert [handle.result(timeout=PATIENCE_S) for handle in others] == [number**2 for number in range(20)]


def test_every_worker_dying_at_once_loses_no_queued_task(manager, gate):
    doomed = [manager.run(stop_at_gate, gate.address) for _ in range(2)]
    pids = [gate.wait_for_arrival() for _ in range(2)]
    queued = [manager.run(plain.square, number) for number in range(50)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert all(isinstance(handle.exception(timeout=PATIENCE_S), WorkerDiedError) for handle in doomed)
    assert [handle.result(timeout=PATIENCE_S) for handle in queued] == [number**2 for number in range(50)]


def test_no_task_runs_twice_without_a_policy(manager, gate):
    doomed = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    os.kill(pid, signal.SIGKILL)
    assert isinstance(doomed.exception(timeout=PATIENCE_S), WorkerDiedError)
    manager.close()
    assert not gate.has_arrivals()


def test_a_stopped_worker_is_charged_to_its_task_by_timeout(make_manager, gate):
    manager = make_manager(max_workers=2, grace=0.3)
    doomed = manager.run_task(Task(stop_at_gate, args=(gate.address,), timeout=0.5))
    pid = gate.wait_for_arrival()
    os.kill(pid, signal.SIGSTOP)
    others = [manager.run(plain.square, number) for number in range(10)]
    assert isinstance(doomed.exception(timeout=PATIENCE_S), TaskTimeoutError)
    assert [handle.result(timeout=PATIENCE_S) for handle in others] == [number**2 for number in range(10)]
    wait_until_gone([pid])


def test_a_stopped_idle_worker_does_not_swallow_the_next_task_for_good(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.3)
    pid = manager.run(os.getpid).result(timeout=PATIENCE_S)
    os.kill(pid, signal.SIGSTOP)
    handle = manager.run_task(Task(plain.square, args=(3,), timeout=0.5, retry=2))
    assert handle.result(timeout=PATIENCE_S) == 9
    wait_until_gone([pid])


def test_a_grandchild_is_gone_after_a_timeout(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.5)
    handle = manager.run_task(Task(gated.start_grandchild, args=(gate.address,), timeout=0.5))
    arrival = gate.next_arrival()
    assert isinstance(handle.exception(timeout=PATIENCE_S), TaskTimeoutError)
    wait_until_gone([arrival.pid, arrival.label])


def test_a_grandchild_is_gone_after_its_worker_was_killed(manager, gate):
    handle = manager.run(gated.start_grandchild, gate.address)
    arrival = gate.next_arrival()
    os.kill(arrival.pid, signal.SIGKILL)
    assert isinstance(handle.exception(timeout=PATIENCE_S), WorkerDiedError)
    wait_until_gone([arrival.label])


def test_a_grandchild_in_a_session_of_its_own_is_gone_after_a_cancel(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.5)
    handle = manager.run(gated.start_grandchild, gate.address, True)
    arrival = gate.next_arrival()
    assert handle.cancel()
    wait_until_gone([arrival.pid, arrival.label])


def test_a_dead_workers_place_is_taken(make_manager, gate):
    manager = make_manager(max_workers=2)
    for code in (1, 2, 3):
        manager.run(failing.exit_hard, code).exception(timeout=PATIENCE_S)
    handles = [manager.run(stop_at_gate, gate.address) for _ in range(2)]
    pids = {gate.wait_for_arrival() for _ in range(2)}  # both run at once again
    assert len(pids) == 2
    assert not any(is_gone(pid) for pid in pids)
    gate.open()
    for handle in handles:
        handle.result(timeout=PATIENCE_S)
    assert manager.stats().respawned >= 2
