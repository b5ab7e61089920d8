"""Errors explain a death: by the signal, the task's stack, its memory and its last log lines."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import pickle
import signal

import pytest

from procbackground import Outcome, TaskTimeoutError, WorkerDiedError, _platform
from procbackground._platform import cgroup
from tests.faults.test_stopping import LIMIT_S
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, hoarding, plain


def log_and_return(text: str) -> int:
    logging.getLogger("tests.faults").warning(text)
    return os.getpid()


def log_and_exit(text: str) -> None:
    log_and_return(text)
    os._exit(3)


def hear_nothing() -> None:
    """Block all signals: also the one by which the stack is asked for."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def test_death_tells_its_last_log_lines_its_peak_memory_and_its_attempt(scene):
    error = scene.play("log and die")
    assert isinstance(error, WorkerDiedError)
    assert error.log_lines == tuple(
        f"WARNING tests.faults: step {number} with {60 << 20} bytes" for number in range(5, 15)
    )
    assert 60 * hoarding.MIB < error.peak_memory < 1024 * hoarding.MIB
    assert (error.exit_code, error.attempt, error.pid) == (3, 1, scene.pid)
    for words in (
        "ended with exit code 3",
        "(attempt 1, memory up to ",
        "what it logged last:\n  WARNING tests.faults: step 5 with",
    ):
        assert words in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.log_lines, copy.peak_memory) == (error.log_lines, error.peak_memory)


def test_death_tells_nothing_that_another_task_logged(make_manager):
    manager = make_manager(max_workers=1)
    pid = manager.run(log_and_return, "of another task").result(timeout=PATIENCE_S)
    error = manager.run(log_and_exit, "of this one").exception(timeout=PATIENCE_S)
    assert error.pid == pid
    assert error.log_lines == ("WARNING tests.faults: of this one",)


def test_attempt_that_died_tells_its_peak_memory_and_its_cpu_time(manager):
    handle = manager.run(failing.exit_hard, 3)
    error = handle.exception(timeout=PATIENCE_S)
    (attempt,) = handle.attempts
    assert (attempt.outcome, attempt.exit_code, attempt.error) == (Outcome.DIED, 3, error)
    assert 0 < attempt.cpu_seconds < PATIENCE_S
    assert hoarding.MIB < attempt.peak_memory == error.peak_memory


def test_death_by_the_oom_killer_is_told_as_likely(manager, monkeypatch):
    """The kernel's count of such kills is made to grow, as it does then; the death itself is real."""
    count = itertools.count(100)
    monkeypatch.setattr(cgroup, "oom_kills", lambda files: None)
    monkeypatch.setattr(cgroup, "limits_reached", lambda files: 0)
    monkeypatch.setattr(_platform, "count_oom_kills", lambda: next(count))
    error = manager.run(failing.die_by, signal.SIGKILL).exception(timeout=PATIENCE_S)
    assert "the kernel's OOM killer is the likely cause: the machine" in str(error)


@pytest.mark.parametrize(("limits", "cause"), [(7, "the machine ran out"), (8, "the container (cgroup) reached")])
def test_death_by_the_oom_killer_in_a_container_says_whose_memory_ran_out(manager, monkeypatch, limits, cause):
    """As where other containers lose processes, too: the machine's count goes up all the time."""
    count = itertools.count(100)
    kills, reached = 3, 7
    monkeypatch.setattr(_platform, "count_oom_kills", lambda: next(count))
    monkeypatch.setattr(cgroup, "oom_kills", lambda files: kills)
    monkeypatch.setattr(cgroup, "limits_reached", lambda files: reached)
    assert "OOM" not in str(manager.run(failing.die_by, signal.SIGKILL).exception(timeout=PATIENCE_S))
    kills, reached = 4, limits
    error = manager.run(failing.die_by, signal.SIGKILL).exception(timeout=PATIENCE_S)
    assert f"the kernel's OOM killer is the likely cause: {cause}" in str(error)


def test_an_idle_workers_death_by_the_oom_killer_is_not_charged_to_the_next_that_is_killed(make_manager, monkeypatch):
    kills = 100
    monkeypatch.setattr(cgroup, "oom_kills", lambda files: None)
    monkeypatch.setattr(cgroup, "limits_reached", lambda files: 0)
    monkeypatch.setattr(_platform, "count_oom_kills", lambda: kills)
    manager = make_manager(max_workers=1)
    pid = manager.run(os.getpid).result(timeout=PATIENCE_S)
    kills += 1
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in {process.pid for process in manager.processes()}, "the death is noticed")
    error = manager.run(failing.die_by, signal.SIGKILL).exception(timeout=PATIENCE_S)
    assert isinstance(error, WorkerDiedError)
    assert "OOM" not in str(error)


def test_each_handle_has_an_error_of_its_own(manager):
    handles = [manager.run(failing.exit_hard, 3) for _ in range(4)]
    errors = [handle.exception(timeout=PATIENCE_S) for handle in handles]
    assert len(set(map(id, errors))) == 4
    assert [error.task for error in errors] == [handle.task for handle in handles]


def test_timeout_without_a_stack_says_why(make_manager, method):
    manager = make_manager(mp_context=multiprocessing.get_context(method), grace=0.3, initializer=hear_nothing)
    error = manager.options(timeout=LIMIT_S).run(failing.sleep_long).exception(timeout=PATIENCE_S)
    assert isinstance(error, TaskTimeoutError)
    assert error.stack is None
    assert "there is no Python stack: the process did not answer when asked for it" in str(error)


def test_timeout_of_a_stopped_process_without_grace_says_why_there_is_no_stack(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.0)
    manager.run(plain.square, 3).result(timeout=PATIENCE_S)  # what the worker has to import, it has
    handle = manager.options(timeout=LIMIT_S).run(stop_at_gate, gate.address)
    os.kill(gate.wait_for_arrival(), signal.SIGSTOP)
    error = handle.exception(timeout=PATIENCE_S)
    assert isinstance(error, TaskTimeoutError)
    assert "it was stopped, as by SIGSTOP" in str(error)
