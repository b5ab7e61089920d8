"""Timeouts, deadlines, memory limits and stalls, and the facts that an `Attempt` records."""

from __future__ import annotations

import math
import os
import signal
import threading
import time

import pytest
from tenacity import stop_after_attempt, stop_never, wait_fixed

from procbackground import MemoryLimitError, Outcome, Retry, Task, TaskTimeoutError, _platform
from procbackground._testing import View
from tests.support.facts import wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, gated, hoarding, plain
from tests.support.tasks.hoarding import MIB


def test_an_attempt_over_its_timeout_is_stopped_and_says_where_it_was(manager, gate):
    handle = manager.run_task(Task(stop_at_gate, args=(gate.address,), timeout=0.4))
    pid = gate.wait_for_arrival()
    with pytest.raises(TaskTimeoutError) as caught:
        handle.result(timeout=PATIENCE_S)
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.task, error.attempt, error.pid, error.timeout) == (handle.task, 1, pid, 0.4)
    assert "0.4" in str(error)
    assert "stop_at_gate" in str(error)
    assert "stop_at_gate" in error.stack
    assert "execute.py" in error.stack.splitlines()[-1]  # and not what is below the call, in every task
    assert handle.attempts[0].outcome == Outcome.TIMED_OUT
    wait_until_gone([pid])
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9


def test_a_timeout_runs_the_tasks_finally_blocks(make_manager, gate):
    manager = make_manager(grace=PATIENCE_S)
    handle = manager.run_task(Task(gated.clean_up_when_stopped, args=(gate.address,), timeout=0.4))
    assert gate.wait_for_label() == "at work"
    assert gate.wait_for_label() == "SystemExit"
    assert isinstance(handle.exception(timeout=PATIENCE_S), TaskTimeoutError)


@pytest.mark.parametrize(
    "task",
    [
        gated.ignore_sigterm,
        gated.tell_and_hold_the_interpreter,
        gated.tell_and_sleep,
        gated.tell_and_spin,
    ],
)
def test_a_timeout_ends_the_task_whatever_it_does(make_manager, gate, task):
    manager = make_manager(max_workers=1, grace=0.2)
    handle = manager.run_task(Task(task, args=(gate.address,), timeout=0.4))
    pid = gate.wait_for_arrival()
    behind = manager.run(plain.square, 3)
    assert isinstance(handle.exception(timeout=PATIENCE_S), TaskTimeoutError)
    assert behind.result(timeout=PATIENCE_S) == 9
    wait_until_gone([pid])


def test_the_managers_timeout_holds_for_run(make_manager, gate):
    manager = make_manager(timeout=0.3)
    handle = manager.run(stop_at_gate, gate.address)
    assert isinstance(handle.exception(timeout=PATIENCE_S), TaskTimeoutError)


def test_the_tasks_timeout_beats_the_managers(make_manager, gate):
    manager = make_manager(timeout=0.3)
    short = manager.run(stop_at_gate, gate.address)
    patient = manager.run_task(Task(gated.stop_then_do, args=(gate.address,), timeout=math.inf))
    pids = {gate.wait_for_arrival(), gate.wait_for_arrival()}
    assert isinstance(short.exception(timeout=PATIENCE_S), TaskTimeoutError)
    for pid in pids:
        gate.release(pid, "in time")
    assert patient.result(timeout=PATIENCE_S) == "in time"


def test_a_task_within_its_timeout_is_left_alone(manager):
    assert manager.run_task(Task(plain.square, args=(3,), timeout=PATIENCE_S)).result(timeout=PATIENCE_S) == 9


def test_a_timeout_does_not_count_the_queue(make_manager):
    manager = make_manager(max_workers=1, grace=1.0)
    first = manager.run_task(Task(failing.sleep_long, timeout=0.8))
    queued = manager.run_task(Task(plain.square, args=(3,), timeout=0.6))  # it waits longer than that
    assert isinstance(first.exception(timeout=PATIENCE_S), TaskTimeoutError)
    assert queued.result(timeout=PATIENCE_S) == 9


def test_a_timeout_holds_for_each_attempt(manager):
    handle = manager.run_task(Task(failing.sleep_long, timeout=0.2, retry=3))
    assert isinstance(handle.exception(timeout=PATIENCE_S), TaskTimeoutError)
    assert [attempt.outcome for attempt in handle.attempts] == [Outcome.TIMED_OUT] * 3
    assert len({attempt.pid for attempt in handle.attempts}) == 3


def test_many_tasks_with_timeouts_that_do_not_come(make_manager):
    manager = make_manager(timeout=PATIENCE_S)
    handles = [manager.run(plain.square, number) for number in range(300)]
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [number**2 for number in range(300)]


# -- deadline ---------------------------------------------------------------------------------------------


def test_a_deadline_counts_the_queue(make_manager, gate):
    manager = make_manager(max_workers=1)
    blocker = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    queued = manager.run_task(Task(gated.tell_and_return, args=(gate.address, "I ran"), deadline=0.2))
    error = queued.exception(timeout=PATIENCE_S)
    assert isinstance(error, TaskTimeoutError)
    assert "deadline" in str(error)
    gate.release(pid, 1)
    assert blocker.result(timeout=PATIENCE_S) == 1
    manager.close()
    assert not gate.has_arrivals()


def test_a_deadline_stops_a_running_attempt(manager, gate):
    manager.run(plain.square, 1).result(timeout=PATIENCE_S)  # a worker is there, so the deadline is the task's alone
    handle = manager.run_task(Task(stop_at_gate, args=(gate.address,), deadline=1.5))
    pid = gate.wait_for_arrival()
    error = handle.exception(timeout=PATIENCE_S)
    assert isinstance(error, TaskTimeoutError)
    assert "deadline" in str(error)
    wait_until_gone([pid])


def test_a_deadline_ends_a_wait_for_a_retry(manager):
    manager.run(plain.square, 1).result(timeout=PATIENCE_S)  # a worker is there
    policy = Retry(stop=stop_after_attempt(5), wait=wait_fixed(3600))
    handle = manager.run_task(Task(failing.fail, retry=policy, deadline=1.5))
    error = handle.exception(timeout=PATIENCE_S)
    assert isinstance(error, TaskTimeoutError)
    (attempt,) = handle.attempts
    assert error.__context__ is attempt.error is not None  # what the attempt has failed with


def test_a_deadline_ends_retries_without_end(manager):
    manager.run(plain.square, 1).result(timeout=PATIENCE_S)  # a worker is there
    handle = manager.run_task(Task(failing.fail, retry=Retry(stop=stop_never), deadline=1.5))
    assert isinstance(handle.exception(timeout=PATIENCE_S), TaskTimeoutError)
    assert len(handle.attempts) >= 2


def test_a_task_before_its_deadline_is_left_alone(manager):
    assert manager.run_task(Task(plain.square, args=(3,), deadline=60)).result(timeout=PATIENCE_S) == 9


# -- memory -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("memory_to_itself")
def test_a_tree_over_its_memory_limit_is_stopped(manager):
    handle = manager.run_task(Task(hoarding.hoard, args=(2048 * MIB,), memory_limit="200MiB"))
    with pytest.raises(MemoryLimitError) as caught:
        handle.result(timeout=PATIENCE_S)
    error = caught.value
    assert isinstance(error, MemoryError)
    assert error.limit == 200 * MIB
    assert 200 * MIB < error.peak < 400 * MIB  # reached well before it had taken all it wanted
    assert (error.task, error.attempt, error.pid) == (handle.task, 1, handle.attempts[0].pid)
    assert handle.attempts[0].outcome == Outcome.OVER_MEMORY
    wait_until_gone([error.pid])
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9


@pytest.mark.usefixtures("memory_to_itself")
def test_what_a_task_starts_counts_too(manager):
    task = Task(hoarding.hoard_in_a_grandchild, args=(600 * MIB,), memory_limit=300 * MIB)
    handle = manager.run_task(task)
    assert isinstance(handle.exception(timeout=PATIENCE_S), MemoryLimitError)


# Elsewhere new descendants are found by passes over the process table, a second or so apart.
finds_children_at_once = pytest.mark.skipif(not _platform.IS_LINUX, reason="needs Linux's lists of children")


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        pytest.param(hoarding.hog, (), id="itself"),
        pytest.param(hoarding.hog_in_a_grandchild, (), id="a grandchild", marks=finds_children_at_once),
        pytest.param(hoarding.hog_in_a_grandchild, (True,), id="a thread's grandchild", marks=finds_children_at_once),
    ],
)
@pytest.mark.usefixtures("memory_to_itself")
def test_a_task_that_allocates_at_full_speed_is_reached_before_it_is_far(manager, fn, args):
    limit = 200 * MIB
    handle = manager.run_task(Task(fn, args=(6 << 30, *args), memory_limit=limit, retry=3))
    error = handle.exception(timeout=PATIENCE_S)
    assert isinstance(error, MemoryLimitError)
    assert [attempt.outcome for attempt in handle.attempts] == [Outcome.OVER_MEMORY] * 3
    assert error.limit == limit
    for attempt in handle.attempts:
        assert attempt.error.peak == attempt.peak_memory > limit
        assert attempt.cpu_seconds > 0
    # On a machine with other work than this, the watcher may have had to wait for a processor once.
    assert min(attempt.peak_memory for attempt in handle.attempts) <= max(1.25 * limit, limit + 128 * MIB)


@pytest.mark.skipif(not _platform.IS_LINUX, reason="needs the groups and marks of /proc")
@pytest.mark.parametrize("new_session", [False, True])
@pytest.mark.usefixtures("memory_to_itself")
def test_a_process_that_has_left_its_parent_counts_too(manager, new_session):
    task = Task(hoarding.hog_as_an_orphan, args=(1 << 30, new_session), memory_limit=300 * MIB)
    handle = manager.run_task(task)
    assert isinstance(handle.exception(timeout=PATIENCE_S), MemoryLimitError)


@pytest.mark.skipif(not _platform.IS_LINUX, reason="needs the peak that /proc tells")
def test_a_stopped_attempt_says_what_it_held_and_used_without_a_memory_limit(manager, gate):
    # Long enough for a busy machine to give it that much memory.
    handle = manager.run_task(Task(hoarding.hold_and_stop_at_gate, args=(gate.address, 100 * MIB), timeout=4.0))
    gate.wait_for_arrival()
    assert isinstance(handle.exception(timeout=PATIENCE_S), TaskTimeoutError)
    (attempt,) = handle.attempts
    assert 100 * MIB < attempt.peak_memory < 200 * MIB
    assert 0 < attempt.cpu_seconds < PATIENCE_S


def test_a_killed_attempt_says_what_it_was_seen_to_hold(manager, gate):
    task = Task(hoarding.hold_and_stop_at_gate, args=(gate.address, 200 * MIB), memory_limit="4GiB")
    handle = manager.run_task(task)
    pid = gate.wait_for_arrival()
    wait_until(lambda: View(manager).most_memory_seen > 200 * MIB, "the monitor has seen it")
    os.kill(pid, signal.SIGKILL)
    handle.exception(timeout=PATIENCE_S)
    (attempt,) = handle.attempts
    assert 200 * MIB < attempt.peak_memory < 400 * MIB
    assert 0 < attempt.cpu_seconds < PATIENCE_S


def test_what_forks_share_counts_once(manager, gate):
    """Four processes of 120 MiB hold 480 MiB only if each counts for itself."""
    task = Task(hoarding.share_with_forks, args=(gate.address, 120 * MIB, 3, False), memory_limit="300MiB")
    handle = manager.run_task(task)
    pid = gate.wait_for_arrival()
    wait_until(lambda: View(manager).most_memory_seen > 120 * MIB, "the monitor has seen it")
    (info,) = (info for info in manager.processes() if info.pid == pid)
    assert 120 * MIB < info.rss < 240 * MIB
    gate.release(pid)
    assert handle.result(timeout=PATIENCE_S) == 120 * MIB


def test_the_peak_of_a_tree_that_died_counts_what_forks_share_once(manager, gate):
    task = Task(hoarding.share_with_forks, args=(gate.address, 120 * MIB, 3, False), memory_limit="4GiB")
    handle = manager.run_task(task)
    pid = gate.wait_for_arrival()
    wait_until(lambda: View(manager).most_memory_seen > 120 * MIB, "the monitor has seen it")
    os.kill(pid, signal.SIGKILL)
    error = handle.exception(timeout=PATIENCE_S)
    assert 120 * MIB < error.peak_memory == handle.attempts[0].peak_memory < 300 * MIB


@pytest.mark.usefixtures("memory_to_itself")
def test_what_forks_have_written_to_counts_for_each(manager, gate):
    task = Task(hoarding.share_with_forks, args=(gate.address, 120 * MIB, 3, True), memory_limit="300MiB")
    error = manager.run_task(task).exception(timeout=PATIENCE_S)
    assert isinstance(error, MemoryLimitError)
    assert 300 * MIB < error.peak < 600 * MIB


@pytest.fixture
def large_file(tmp_path):
    """The path of a file of 160 MiB on a disk: a file in memory would count as memory."""
    path = tmp_path / "weights"
    with open(path, "wb") as file:
        for _ in range(160):
            file.write(b"\x01" * MIB)
    yield str(path)
    path.unlink()


tells_files_apart = pytest.mark.skipif(not _platform.IS_LINUX, reason="psutil does not tell pages of files apart")


@tells_files_apart
@pytest.mark.parametrize("forks", [0, 2])
def test_pages_of_files_that_are_mapped_are_not_held(manager, gate, large_file, forks):
    """The kernel takes them back when memory is short: a limit that counted them would kill who reads a file."""
    args = (gate.address, large_file, forks, False)
    handle = manager.run_task(Task(hoarding.map_file_and_stop_at_gate, args=args, memory_limit="120MiB"))
    pid = gate.wait_for_arrival()
    looks = View(manager).looks_at_memory()
    wait_until(lambda: len(looks) >= 3, "the monitor has looked while the file was mapped")
    (info,) = (info for info in manager.processes() if info.pid == pid)
    assert info.rss > 160 * MIB  # a resident size, as `ps` has it
    gate.release(pid)
    assert handle.result(timeout=PATIENCE_S) == 160 * MIB


@tells_files_apart
@pytest.mark.parametrize("forks", [0, 2])
@pytest.mark.usefixtures("memory_to_itself")
def test_pages_of_files_that_were_written_to_privately_are_held(manager, gate, large_file, forks):
    args = (gate.address, large_file, forks, True)
    handle = manager.run_task(Task(hoarding.map_file_and_stop_at_gate, args=args, memory_limit="120MiB"))
    assert isinstance(handle.exception(timeout=PATIENCE_S), MemoryLimitError)


@tells_files_apart
@pytest.mark.usefixtures("memory_to_itself")
def test_shared_memory_is_held(manager):
    """`hog` writes to an anonymous map that is shared, as `multiprocessing.shared_memory` and files in memory are."""
    handle = manager.run_task(Task(hoarding.hog, args=(300 * MIB,), memory_limit="120MiB"))
    assert isinstance(handle.exception(timeout=PATIENCE_S), MemoryLimitError)


@pytest.mark.usefixtures("memory_to_itself")
def test_a_look_that_fails_is_not_the_last(manager, caplog):
    View(manager).fail_next_look_at_memory(RuntimeError("a look that fails"))
    handle = manager.run_task(Task(hoarding.hoard, args=(2048 * MIB,), memory_limit="200MiB"))
    assert isinstance(handle.exception(timeout=PATIENCE_S), MemoryLimitError)
    assert "a look that fails" in caplog.text


def test_nobody_looks_at_memory_without_a_reason(make_manager):
    manager = make_manager()
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    assert not any("monitor" in thread.name for thread in threading.enumerate())
    assert manager.run_task(Task(plain.square, args=(3,), memory_limit="1GiB")).result(timeout=PATIENCE_S) == 9
    wait_until(lambda: View(manager).is_memory_unwatched, "the monitor waits to be wanted")


def test_watching_costs_less_than_a_hundredth_of_a_core(make_manager, gate):
    manager = make_manager(max_workers=8)
    task = Task(stop_at_gate, args=(gate.address,), memory_limit=40 * MIB)  # near what an idle worker holds
    handles = [manager.run_task(task) for _ in range(8)]
    for _ in handles:
        gate.wait_for_arrival()
    (thread,) = (thread for thread in threading.enumerate() if "monitor" in thread.name)
    clock = time.pthread_getcpuclockid(thread.ident)

    def costs_little_for_a_second() -> bool:
        before_s, began_s = time.clock_gettime(clock), time.monotonic()
        wait_until(lambda: time.monotonic() - began_s > 1.0, "it was watched for long enough")
        return 0 < time.clock_gettime(clock) - before_s <= 0.01 * (time.monotonic() - began_s)

    # A second in which others take the caches and the clock speed says nothing; one that costs too much each time does.
    wait_until(costs_little_for_a_second, "a second of watching takes at most 10 ms of CPU time")
    gate.open()
    for handle in handles:
        assert handle.exception(timeout=PATIENCE_S) is None


@pytest.mark.usefixtures("memory_to_itself")
def test_the_managers_memory_limit_holds_for_run(make_manager):
    manager = make_manager(memory_limit="200MiB")
    handle = manager.run(hoarding.hoard, 2048 * MIB)
    assert isinstance(handle.exception(timeout=PATIENCE_S), MemoryLimitError)


def test_a_task_within_its_memory_limit_is_left_alone(manager):
    handle = manager.run_task(Task(plain.bytes_of_size, args=(10 * MIB,), memory_limit="1GiB"))
    assert len(handle.result(timeout=PATIENCE_S)) == 10 * MIB


# -- stalls -----------------------------------------------------------------------------------------------


def test_a_stalled_task_is_never_killed(make_manager, gate, recorder):
    manager = make_manager(max_workers=1, observer=recorder)
    handle = manager.run_task(Task(gated.stop_then_do, args=(gate.address,), stalled_threshold=0.1))
    pid = gate.wait_for_arrival()
    (event,) = recorder.wait_for("task_stalled")
    assert "stop_at_gate" in event.stack
    assert handle.running()
    gate.release(pid, "awake")
    assert handle.result(timeout=PATIENCE_S) == "awake"
    assert manager.run(os.getpid).result(timeout=PATIENCE_S) == pid  # the process is as good as before


def test_each_attempt_can_stall(make_manager, recorder):
    manager = make_manager(max_workers=1, observer=recorder)
    handle = manager.run_task(Task(failing.sleep_long, timeout=0.4, stalled_threshold=0.1, retry=2))
    handle.exception(timeout=PATIENCE_S)
    manager.close()
    assert [event.attempt for event in recorder.events("task_stalled")] == [1, 2]


# -- what an attempt says ---------------------------------------------------------------------------------


def test_an_attempt_says_when_it_ran_and_where(manager):
    before = time.time()
    handle = manager.run(os.getpid)
    pid = handle.result(timeout=PATIENCE_S)
    (attempt,) = handle.attempts
    assert (attempt.number, attempt.pid, attempt.outcome) == (1, pid, Outcome.SUCCEEDED)
    assert attempt.error is None
    assert before - 1 <= attempt.started <= attempt.ended <= time.time() + 1


def test_a_running_attempt_is_listed_without_an_end(manager, gate):
    handle = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    (attempt,) = handle.attempts
    assert (attempt.number, attempt.pid, attempt.ended, attempt.outcome) == (1, pid, None, None)


def test_an_attempt_says_what_it_cost(manager):
    handle = manager.run(plain.burn, 0.1)
    handle.result(timeout=PATIENCE_S)
    (attempt,) = handle.attempts
    assert 0.05 < attempt.cpu_seconds < PATIENCE_S
    assert attempt.peak_memory > MIB


def test_a_killed_attempt_says_by_what(manager, gate):
    handle = manager.run(stop_at_gate, gate.address)
    os.kill(gate.wait_for_arrival(), signal.SIGTERM)
    handle.exception(timeout=PATIENCE_S)
    (attempt,) = handle.attempts
    assert attempt.outcome in (Outcome.DIED, Outcome.RAISED)  # SIGTERM from outside may be seen as SystemExit
    assert attempt.error is handle.exception()


@pytest.mark.parametrize("limit", ["timeout", "deadline", "stalled_threshold"])
def test_a_limit_of_a_month_is_a_limit_like_any_other(make_manager, gate, recorder, limit):
    """A system call that waits takes no such time; the supervisor waits while the first task stands at the gate."""
    manager = make_manager(max_workers=2, observer=recorder, start_timeout=math.inf)  # so nothing else is due
    standing = manager.run_task(Task(stop_at_gate, args=(gate.address,), **{limit: 30 * 86400.0}))
    gate.wait_for_arrival()
    wait_until(lambda: recorder.events("task_started") != [], "the supervisor has been at it, and waits")
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    gate.open()
    standing.result(timeout=PATIENCE_S)
