"""Faults 1 to 4, 20, 21 and 28: workers that die or are stopped by SIGSTOP."""

from __future__ import annotations

import os
import signal

from procbackground import TaskTimeoutError, WorkerDiedError
from tests.support.gate import PATIENCE_S
from tests.support.shots import shots
from tests.support.tasks import failing, plain

MANY = 10_000
UNDER_FIRE = {"forkserver": 1_500, "spawn": 100}  # a spawned worker is back only a fifth of a second later


def test_01_worker_killed_by_sigkill(scene):
    error = scene.play(lambda pid: os.kill(pid, signal.SIGKILL))
    assert isinstance(error, WorkerDiedError)
    assert (error.exit_code, error.signal, error.pid, error.attempt) == (-9, "SIGKILL", scene.pid, 1)
    assert f"worker {scene.pid} was killed by SIGKILL while running 'act'" in str(error)


def test_02_worker_leaves_by_os_exit(scene):
    error = scene.play("exit")
    assert isinstance(error, WorkerDiedError)
    assert (error.exit_code, error.signal) == (3, None)
    assert "ended with exit code 3 while running 'act'" in str(error)


def test_03_segfault(scene):
    error = scene.play("segfault")
    assert isinstance(error, WorkerDiedError)
    assert error.signal == "SIGSEGV"
    assert "SIGSEGV" in str(error)
    assert "segfault" in str(error.__cause__)  # the Python stack, from its last moment


def test_04_sys_exit(scene):
    error = scene.play("sys.exit", is_fatal=False)
    assert isinstance(error, SystemExit)
    assert error.code == 5
    assert "exit_softly" in str(error.__cause__)


def test_20_death_amid_ten_thousand_tasks(manager):
    manager.run(failing.die_if_told, 0).result(timeout=PATIENCE_S)
    handles = [manager.run(failing.die_if_told, "die" if number == MANY // 2 else number) for number in range(MANY)]
    errors = [handle.exception(timeout=PATIENCE_S) for handle in handles]
    assert isinstance(errors[MANY // 2], WorkerDiedError)
    assert [number for number, error in enumerate(errors) if error is not None] == [MANY // 2]
    assert all(handle.result() == number for number, handle in enumerate(handles) if number != MANY // 2)
    stats = manager.stats()
    assert (stats.succeeded, stats.failed, stats.respawned) == (MANY, 1, 1)


def test_21_busy_workers_are_shot_all_the_time(manager, method):
    count = UNDER_FIRE[method]
    with shots(manager, signal.SIGKILL) as shot:
        handles = [manager.run(plain.square_after, 0.001, number) for number in range(count)]
        errors = [handle.exception(timeout=60) for handle in handles]
    failed = [error for error in errors if error is not None]
    assert all(isinstance(error, WorkerDiedError) and error.pid in shot for error in failed)
    assert 1 <= len(failed) <= len(shot)
    assert all(errors[number] or handles[number].result() == number**2 for number in range(count))


def test_28_worker_stopped_by_sigstop(scene):
    error = scene.limit(timeout=0.5).play(lambda pid: os.kill(pid, signal.SIGSTOP))
    assert isinstance(error, TaskTimeoutError)
    assert error.pid == scene.pid
    assert "it was stopped, as by SIGSTOP" in str(error)
