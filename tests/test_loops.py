"""Loops: iterations in a process of their own, until `cancel` or `close`."""

from __future__ import annotations

import os
import signal
from itertools import pairwise

import pytest
from tenacity import stop_after_attempt, wait_fixed

from procbackground import (
    ManagerClosedError,
    Outcome,
    Retry,
    SerializationError,
    Task,
    TaskTimeoutError,
    TaskType,
    WorkerDiedError,
)
from tests.support.facts import is_gone, wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate, tell_gate
from tests.support.tasks import failing, gated, looping, plain, surroundings
from tests.support.tasks.failing import Flaky
from tests.support.tasks.gated import tell_and_return
from tests.support.tasks.pickling import Refuses


def loop(fn, *args, **options):
    return Task(fn, args=args, type=TaskType.LOOP, **options)


def test_a_loop_iterates_in_one_process_until_it_is_cancelled(manager, gate):
    handle = manager.run_task(loop(looping.iterate, gate.address))
    pids = set()
    for expected in range(1, 6):
        arrival = gate.next_arrival()
        assert arrival.label == expected
        pids.add(arrival.pid)
        gate.release(arrival.pid)
    assert len(pids) == 1
    assert not handle.done()
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S) is True
    assert handle.cancelled()


def test_cancel_lets_the_running_iteration_finish(make_manager, gate, recorder):
    manager = make_manager(observer=recorder)
    # On a node the news takes a moment.
    handle = manager.run_task(loop(looping.iterate_then_tell_stopping, gate.address, PATIENCE_S))
    arrival = gate.next_arrival()
    assert manager.cancel(timeout=0.01) is False
    assert not handle.done()
    gate.release(arrival.pid)
    assert gate.wait_for_label() == (False, True)  # the iteration went on to its end
    assert manager.cancel(timeout=PATIENCE_S) is True
    assert handle.cancelled()
    assert not gate.has_arrivals()
    recorder.wait_for("task_cancelled")


def test_close_ends_loops_after_their_running_iteration(manager, gate):
    handle = manager.run_task(loop(tell_and_return, gate.address, "an iteration"))
    gate.wait_for_arrival()
    report = manager.close()
    assert handle.cancelled()
    assert (report.stopped, report.killed, report.leftovers) == (0, 0, ())


def test_close_past_its_timeout_stops_an_iteration(make_manager, gate):
    manager = make_manager(grace=PATIENCE_S)
    handle = manager.run_task(loop(gated.clean_up_when_stopped, gate.address))
    pid = gate.wait_for_arrival()
    report = manager.close(timeout=0.05)
    assert gate.wait_for_label() == "SystemExit"
    assert report.stopped == 1
    assert handle.done()
    assert is_gone(pid)


def test_a_loop_has_a_process_beside_the_workers(make_manager, gate):
    manager = make_manager(max_workers=1)
    one_off = manager.run(stop_at_gate, gate.address, "one-off")
    first = gate.next_arrival()
    manager.run_task(loop(stop_at_gate, gate.address, "loop"))
    second = gate.next_arrival()
    assert {first.label, second.label} == {"one-off", "loop"}
    assert first.pid != second.pid
    gate.open()
    one_off.result(timeout=PATIENCE_S)
    assert manager.cancel(timeout=PATIENCE_S)


def test_loops_do_not_take_the_workers_places(make_manager, gate):
    manager = make_manager(max_workers=1)
    for _ in range(3):
        manager.run_task(loop(stop_at_gate, gate.address))
    assert len({gate.wait_for_arrival() for _ in range(3)}) == 3
    assert manager.run(pow, 2, 10).result(timeout=PATIENCE_S) == 1024
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S)


def test_a_loop_added_after_cancel_is_not_run(make_manager, gate, recorder):
    manager = make_manager(observer=recorder)
    assert manager.cancel(timeout=PATIENCE_S) is True
    handle = manager.run_task(loop(tell_and_return, gate.address, "never"))
    wait_until(handle.done, "the handle is done")
    assert handle.cancelled()
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4  # one-offs still run
    manager.close()
    assert not gate.has_arrivals()
    assert "task_started" not in recorder.kinds(handle)


def test_cancel_leaves_one_offs_alone(manager, gate):
    handle = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    assert manager.cancel(timeout=PATIENCE_S) is True
    gate.release(pid, "finished")
    assert handle.result(timeout=PATIENCE_S) == "finished"


def test_a_loop_is_not_accepted_after_close(manager):
    manager.close()
    with pytest.raises(ManagerClosedError):
        manager.run_task(loop(plain.nothing))


def test_cancelling_the_handle_ends_a_loop_in_mid_iteration(make_manager, gate):
    manager = make_manager(grace=1.0)
    doomed = manager.run_task(loop(stop_at_gate, gate.address))
    pid = gate.wait_for_arrival()
    other = manager.run_task(loop(stop_at_gate, gate.address))
    gate.wait_for_arrival()
    assert doomed.cancel() is True
    assert doomed.cancelled()
    wait_until_gone([pid])
    assert not other.done()
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S)


def test_wait_does_not_wait_for_loops(manager, gate):
    manager.run_task(loop(stop_at_gate, gate.address))
    gate.wait_for_arrival()
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4
    assert manager.wait(timeout=PATIENCE_S) is True


def test_count_of_counts_loops_apart(manager, gate):
    for _ in range(2):
        manager.run_task(loop(stop_at_gate, gate.address))
    assert (manager.count_of(TaskType.LOOP), manager.count_of(TaskType.ONE_OFF)) == (2, 0)
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S)
    assert manager.count_of(TaskType.LOOP) == 0


# -- interval ---------------------------------------------------------------------------------------------


def test_an_interval_passes_between_two_iterations(manager, gate):
    manager.run_task(loop(gated.tell_time, gate.address, interval=0.1))
    times = [gate.wait_for_label() for _ in range(4)]
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(times))
    assert manager.cancel(timeout=PATIENCE_S)


def test_a_stop_cuts_the_interval_short(manager, gate):
    handle = manager.run_task(loop(tell_and_return, gate.address, "tick", interval=3600))
    gate.wait_for_arrival()
    assert manager.cancel(timeout=PATIENCE_S) is True
    assert handle.cancelled()


# -- failing iterations -----------------------------------------------------------------------------------


def test_a_failed_iteration_is_reported_and_the_loop_goes_on(make_manager, gate, recorder):
    manager = make_manager(observer=recorder)
    handle = manager.run_task(loop(looping.iterate_and_fail, gate.address))
    for _ in range(3):
        gate.release(gate.wait_for_arrival())
    failures = recorder.wait_for("task_failed", 3)
    assert all(isinstance(event.error, Flaky) and event.handle is handle for event in failures)
    assert not handle.done()
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S)
    assert handle.cancelled()


def test_a_failed_iteration_is_retried_in_a_fresh_process_then_reported_then_the_loop_goes_on(
    make_manager, gate, recorder
):
    manager = make_manager(observer=recorder)
    policy = Retry(stop=stop_after_attempt(3), wait=wait_fixed(0.01))
    handle = manager.run_task(loop(looping.iterate_with_attempt, gate.address, retry=policy))
    attempts, pids = [], []
    for _ in range(3):
        arrival = gate.next_arrival()
        attempts.append(arrival.label)
        pids.append(arrival.pid)
        gate.release(arrival.pid, "fail")
    assert attempts == [1, 2, 3]
    assert len(set(pids)) == 3
    (failure,) = recorder.wait_for("task_failed")
    assert isinstance(failure.error, Flaky)
    assert failure.attempt == 3
    assert [event.attempt for event in recorder.events("task_retrying")] == [1, 2]
    next_iteration = gate.next_arrival()
    assert next_iteration.label == 1
    assert [attempt.pid for attempt in handle.attempts] == pids
    assert [attempt.outcome for attempt in handle.attempts] == [Outcome.RAISED] * 3
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S)


def test_a_retry_that_succeeds_reports_no_failure(make_manager, gate, recorder):
    manager = make_manager(observer=recorder)
    manager.run_task(loop(looping.iterate_with_attempt, gate.address, retry=2))
    gate.release(gate.wait_for_arrival(), "fail")
    second = gate.next_arrival()
    assert second.label == 2
    gate.release(second.pid)
    assert gate.next_arrival().label == 1  # the next iteration
    assert recorder.events("task_failed") == []
    assert len(recorder.events("task_retrying")) == 1
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S)


def test_a_killed_loop_goes_on_in_another_process(make_manager, gate, recorder):
    manager = make_manager(observer=recorder)
    manager.run_task(loop(stop_at_gate, gate.address))
    pid = gate.wait_for_arrival()
    os.kill(pid, signal.SIGKILL)
    (failure,) = recorder.wait_for("task_failed")
    assert isinstance(failure.error, WorkerDiedError)
    assert failure.error.exit_code == -signal.SIGKILL
    assert gate.wait_for_arrival() != pid
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S)


def test_an_iteration_over_its_timeout_is_reported_and_the_loop_goes_on(make_manager, gate, recorder):
    manager = make_manager(observer=recorder, grace=1.0)
    manager.run_task(loop(stop_at_gate, gate.address, timeout=0.2))
    first = gate.wait_for_arrival()
    (failure,) = recorder.wait_for("task_failed")
    assert isinstance(failure.error, TaskTimeoutError)
    assert gate.wait_for_arrival() != first
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S)


def test_a_heartbeat_does_not_give_an_iteration_more_time(make_manager, recorder):
    manager = make_manager(observer=recorder, grace=1.0)
    manager.run_task(loop(surroundings.beat_for, 3600, timeout=0.3))
    (failure,) = recorder.wait_for("task_failed")
    assert isinstance(failure.error, TaskTimeoutError)


def test_a_loop_that_cannot_cross_fails_at_its_handle(manager):
    handle = manager.run_task(loop(plain.echo, Refuses()))
    assert isinstance(handle.exception(timeout=PATIENCE_S), SerializationError)


def test_a_broken_loop_does_not_disturb_another(make_manager, gate, recorder):
    manager = make_manager(observer=recorder)
    manager.run_task(loop(failing.fail, interval=0.01))
    steady = manager.run_task(loop(looping.iterate, gate.address))
    for expected in range(1, 4):
        arrival = gate.next_arrival()
        assert arrival.label == expected
        gate.release(arrival.pid)
    recorder.wait_for("task_failed", 3)
    assert all(event.handle is not steady for event in recorder.events("task_failed"))
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S)


# -- what is not told of loops ----------------------------------------------------------------------------


def test_success_is_not_told_of_loops(make_manager, gate, recorder):
    manager = make_manager(observer=recorder)
    handle = manager.run_task(loop(looping.iterate, gate.address))
    for _ in range(3):
        gate.release(gate.wait_for_arrival())
    gate.open()
    manager.close()
    assert set(recorder.kinds(handle)) == {"task_added", "task_started", "task_cancelled"}
    assert recorder.kinds(handle)[-1] == "task_cancelled"


def test_a_stalled_iteration_is_told_only_with_a_threshold_of_the_loops_own(make_manager, gate, recorder):
    manager = make_manager(observer=recorder, stalled_threshold=0.1)
    quiet = manager.run_task(loop(stop_at_gate, gate.address))
    gate.wait_for_arrival()
    watched = manager.run_task(loop(stop_at_gate, gate.address, stalled_threshold=0.2))
    gate.wait_for_arrival()
    (event,) = recorder.wait_for("task_stalled")
    assert event.handle is watched
    assert not watched.done()
    gate.open()
    manager.close()
    assert "task_stalled" not in recorder.kinds(quiet)


def test_a_loops_stop_is_seen_by_its_iteration(manager, gate):
    handle = manager.run_task(loop(looping.wait_for_the_stop, gate.address))
    assert gate.wait_for_label() == "waiting"
    assert manager.cancel(timeout=PATIENCE_S) is True
    assert gate.wait_for_label() is True  # what `current().wait` returned
    assert handle.cancelled()


def test_a_lambda_can_loop(manager, gate):
    address = gate.address
    handle = manager.run_task(loop(lambda: tell_gate(address, "from a lambda")))
    assert gate.wait_for_label() == "from a lambda"
    assert gate.wait_for_label() == "from a lambda"
    assert manager.cancel(timeout=PATIENCE_S)
    assert handle.cancelled()
