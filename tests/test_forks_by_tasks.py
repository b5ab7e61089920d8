"""Tasks that fork, and whose forks come out of the task's function: a fork ends there, and answers nothing."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from pathlib import Path

import pytest

from procbackground import Task, TaskType, current
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import plain

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

METHODS = ["forkserver", "spawn", "fork"]


@pytest.fixture(params=METHODS)
def manager(make_manager, request):
    return make_manager(mp_context=multiprocessing.get_context(request.param))


def end_of_fork(how: str) -> int:
    """Fork; return the exit code of the fork, which comes out of here as `how` says."""
    pid = os.fork()
    if pid == 0:
        if how == "exits":
            sys.exit(3)
        if how == "exits with a text":
            sys.exit("good-bye")
        if how == "raises":
            raise KeyError("in the fork")
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_ends_where_the_task_ends_and_the_answer_is_the_workers(manager):
    expected = {"returns": 0, "exits": 3, "exits with a text": 1, "raises": 1}
    forking = {how: manager.run(end_of_fork, how) for how in expected}
    others = [manager.run(plain.square, number) for number in range(30)]
    assert {how: handle.result(timeout=PATIENCE_S) for how, handle in forking.items()} == expected
    assert [handle.result(timeout=PATIENCE_S) for handle in others] == [number**2 for number in range(30)]
    assert manager.stats().respawned == 0


def fork_and_note(ledger: str, number: int) -> int:
    """Fork at the third row, and note the row."""
    if number == 2 and os.fork():
        os.wait()
    with open(ledger, "a") as file:
        file.write(f"{number}\n")
    return number


def test_a_fork_leaves_the_other_rows_of_its_chunk_to_the_worker(manager, tmp_path: Path):
    ledger = tmp_path / "ledger"
    assert list(manager.map(fork_and_note, [str(ledger)] * 6, range(6), chunksize=6)) == list(range(6))
    assert sorted(ledger.read_text().split()) == ["0", "1", "2", "2", "3", "4", "5"]


def test_a_fork_in_a_chunk_of_numbers_ends_too(manager):
    assert list(manager.map(fork_at_three, range(8), chunksize=8)) == [number * 10 for number in range(8)]


def fork_at_three(number: int) -> int:
    if number == 3 and os.fork():
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    return number * 10


def fork_in_iteration(ledger: str) -> None:
    if os.fork() == 0:
        return
    os.wait()
    with open(ledger, "a") as file:
        file.write(f"{os.getpid()}\n")
    current().wait(0.005)


def test_a_fork_of_a_loop_ends_with_its_iteration(manager, tmp_path: Path):
    ledger = tmp_path / "ledger"
    ledger.touch()
    loop = manager.run_task(Task(fork_in_iteration, args=(str(ledger),), type=TaskType.LOOP))
    wait_until(lambda: len(ledger.read_text().split()) >= 5, "five iterations")
    assert manager.cancel(timeout=PATIENCE_S)
    assert loop.cancelled()
    assert len(set(ledger.read_text().split())) == 1


def fork_and_fail_there() -> None:
    if os.fork() == 0:
        raise ValueError("in the fork")
    os.wait()


@pytest.mark.parametrize("initializer", [os.fork, fork_and_fail_there])
def test_a_fork_of_an_initializer_neither_serves_nor_breaks_the_manager(make_manager, initializer):
    manager = make_manager(max_workers=1, initializer=initializer)
    assert list(manager.map(plain.square, range(30), chunksize=1)) == [number**2 for number in range(30)]
    assert manager.run(plain.square, 7).result(timeout=PATIENCE_S) == 49


def fork_in_thread() -> list[int]:
    codes: list[int] = []

    def fork() -> None:
        if pid := os.fork():
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    return codes


def test_a_fork_of_a_tasks_thread_ends_with_the_thread(manager):
    assert manager.run(fork_in_thread).result(timeout=PATIENCE_S) == [0]
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9


def signal_dispositions() -> tuple[int, int, bool]:
    import signal

    handled = [number for number in signal.valid_signals() if callable(signal.getsignal(number))]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return len(set(handled) - {signal.SIGTERM, signal.SIGINT}), len(blocked), signal.set_wakeup_fd(-1) == -1


def test_a_worker_of_a_fork_context_has_none_of_the_parents_handlers(make_manager):
    import signal

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGUSR1, signal.SIGHUP)}
    wakeup = signal.set_wakeup_fd(writer)
    try:
        manager = make_manager(mp_context=multiprocessing.get_context("fork"), grace=0.2)
        assert manager.run(signal_dispositions).result(timeout=PATIENCE_S) == (0, 0, True)
        late = manager.run_task(Task(os.system, args=("kill -USR1 $PPID; sleep 60",), timeout=5))
        assert late.exception(timeout=PATIENCE_S).exit_code == -signal.SIGUSR1
        manager.close(timeout=0)
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)  # nothing of what reached the worker
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
