"""A task that writes into its worker's result pipe harms itself only."""

from __future__ import annotations

import os
import shutil
import signal
import sys

import pytest

from procbackground import Task, WorkerDiedError, _platform, current
from tests.support.gate import PATIENCE_S, Address, stop_at_gate
from tests.support.tasks import plain


def write_into_result_pipe(data: bytes, address: Address | None = None) -> str:
    """Do what a task does that writes to a descriptor which it believes to be its own."""
    os.write(current()._executor.channel._fd, data)  # type: ignore[attr-defined]
    if address is not None:
        stop_at_gate(address)
    return "fine"


@pytest.mark.parametrize("data", [bytes(13), b"a line of text that somebody printed\n", b"\xff" * 100_000])
def test_stray_bytes_fail_the_task_that_wrote_them_and_no_other(make_manager, gate, data):
    manager = make_manager(max_workers=2)
    neighbour = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    doomed = manager.run_task(Task(write_into_result_pipe, args=(data,), retry=None))
    later = [manager.run(plain.square, number) for number in range(20)]
    assert isinstance(doomed.exception(timeout=PATIENCE_S), WorkerDiedError)
    assert [handle.result(timeout=PATIENCE_S) for handle in later] == [number**2 for number in range(20)]
    gate.open()
    neighbour.result(timeout=PATIENCE_S)


def test_stray_bytes_are_noticed_though_the_task_never_answers(make_manager, gate):
    manager = make_manager(max_workers=1)
    doomed = manager.run_task(Task(write_into_result_pipe, args=(b"stray", gate.address), retry=None))
    assert isinstance(doomed.exception(timeout=PATIENCE_S), WorkerDiedError)


def close_result_pipe(address: Address | None = None) -> str:
    """Do what a task does that closes all descriptors which it does not know."""
    os.close(current()._executor.channel._fd)  # type: ignore[attr-defined]
    if address is not None:
        stop_at_gate(address)
    return "fine"


def put_a_file_in_place_of_the_result_pipe(address: Address | None = None) -> str:
    """Have the answer go elsewhere, as a task that uses `os.dup2` carelessly."""
    file = os.open(os.devnull, os.O_WRONLY)
    os.dup2(file, current()._executor.channel._fd)  # type: ignore[attr-defined]
    os.close(file)
    if address is not None:
        stop_at_gate(address)
    return "fine"


@pytest.mark.parametrize("spoil", [close_result_pipe, put_a_file_in_place_of_the_result_pipe])
def test_a_task_that_loses_its_result_pipe_fails_alone(make_manager, gate, spoil):
    manager = make_manager(max_workers=2)
    neighbour = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    doomed = manager.run_task(Task(spoil, retry=None))
    later = [manager.run(plain.square, number) for number in range(20)]
    assert isinstance(doomed.exception(timeout=PATIENCE_S), WorkerDiedError)
    assert [handle.result(timeout=PATIENCE_S) for handle in later] == [number**2 for number in range(20)]
    gate.open()
    neighbour.result(timeout=PATIENCE_S)


@pytest.mark.parametrize("spoil", [close_result_pipe, put_a_file_in_place_of_the_result_pipe])
def test_the_loss_of_the_result_pipe_is_noticed_though_the_task_goes_on(make_manager, gate, spoil):
    manager = make_manager(max_workers=1)
    doomed = manager.run_task(Task(spoil, args=(gate.address,), retry=None))
    error = doomed.exception(timeout=PATIENCE_S)
    assert isinstance(error, WorkerDiedError)
    if _platform.IS_LINUX:
        assert f"worker {error.pid} closed the pipe for its answers, and was killed" in str(error)
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9


@pytest.mark.skipif(not _platform.IS_LINUX, reason="only /proc shows which program a process runs")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("program", ["sleep", sys.executable], ids=["another", "the same"])
def test_a_task_that_becomes_another_program_is_told_as_such(make_manager, method, program):
    manager = make_manager(max_workers=1, mp_context=method)
    path = os.path.realpath(shutil.which(program) or program)
    arguments = ["600"] if program == "sleep" else ["-c", "import time; time.sleep(600)"]
    error = manager.run(os.execv, path, [program, *arguments]).exception(timeout=PATIENCE_S)
    assert isinstance(error, WorkerDiedError)
    assert f"worker {error.pid} was replaced by another program ({path}), and was killed, while running" in str(error)
    assert error.exit_code == -signal.SIGKILL
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
