"""The essentials under every start method, and on the portable platform, forced."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from procbackground import Manager, Outcome, Task, TaskTimeoutError, TaskType, WorkerDiedError
from tests.support.facts import wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate, tell_gate
from tests.support.scripts import ENVIRONMENT, run
from tests.support.tasks import failing, gated, looping, plain, surroundings
from tests.support.tasks.failing import Flaky

ROOT = Path(__file__).parents[1]
METHODS = ["forkserver", "spawn", "fork"]


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def manager(make_manager, method):
    return make_manager(mp_context=multiprocessing.get_context(method), grace=1.0)


def test_a_start_method_can_be_given_by_its_name(method):
    with Manager(1, method, grace=1.0) as manager:
        assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9


@pytest.mark.parametrize(("wrong", "kind"), [("thread", ValueError), (3, TypeError), (object(), TypeError)])
def test_what_is_no_start_method_is_refused_with_those_that_are(wrong, kind):
    with pytest.raises(kind, match="spawn"):
        Manager(1, wrong)


def test_values_and_errors_come_back(manager):
    handles = [manager.run(plain.square, number) for number in range(50)]
    failed = manager.run(failing.fail, "as asked")
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [number**2 for number in range(50)]
    error = failed.exception(timeout=PATIENCE_S)
    assert isinstance(error, Flaky)
    assert "in fail" in str(error.__cause__)


def test_lambdas_and_large_payloads_cross(manager):
    assert manager.run(lambda data: data[::-1], b"ab" * 1_000_000).result(timeout=PATIENCE_S) == b"ba" * 1_000_000


def test_a_death_costs_one_task(manager, gate):
    doomed = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    others = [manager.run(plain.square, number) for number in range(20)]
    os.kill(pid, signal.SIGKILL)
    error = doomed.exception(timeout=PATIENCE_S)
    assert isinstance(error, WorkerDiedError)
    assert (error.exit_code, error.pid) == (-signal.SIGKILL, pid)
    assert [handle.result(timeout=PATIENCE_S) for handle in others] == [number**2 for number in range(20)]


def test_a_retry_runs_in_a_fresh_process(manager):
    handle = manager.run_task(Task(failing.mishap_before, args=(3, "exits"), retry=3))
    assert handle.result(timeout=PATIENCE_S)[0] == 3
    assert [attempt.outcome for attempt in handle.attempts] == [Outcome.DIED, Outcome.DIED, Outcome.SUCCEEDED]
    assert len({attempt.pid for attempt in handle.attempts}) == 3


def test_a_timeout_stops_the_task(make_manager, method, gate):
    manager = make_manager(max_workers=1, mp_context=multiprocessing.get_context(method), grace=1.0)
    manager.run(plain.square, 3).result(timeout=PATIENCE_S)  # a spawned worker has yet to import what it runs
    handle = manager.run_task(Task(stop_at_gate, args=(gate.address,), timeout=0.5))
    pid = gate.wait_for_arrival()
    assert isinstance(handle.exception(timeout=PATIENCE_S), TaskTimeoutError)
    wait_until_gone([pid])


def test_a_loop_runs_until_it_is_cancelled(manager, gate):
    loop = manager.run_task(Task(looping.iterate, args=(gate.address,), type=TaskType.LOOP))
    for expected in (1, 2, 3):
        arrival = gate.next_arrival()
        assert arrival.label == expected
        gate.release(arrival.pid)
    gate.open()
    assert manager.cancel(timeout=PATIENCE_S)
    assert loop.cancelled()


def test_a_loop_that_pauses_ends_at_once(manager, gate):
    loop = manager.run_task(Task(tell_gate, args=(gate.address, "here"), type=TaskType.LOOP, interval=3600))
    pid = gate.wait_for_arrival()
    assert manager.cancel(timeout=PATIENCE_S)
    assert loop.cancelled()
    wait_until_gone([pid])


def test_idle_workers_leave_by_themselves(make_manager, method, recorder):
    manager = make_manager(max_workers=1, mp_context=multiprocessing.get_context(method), observer=recorder)
    manager.run(plain.own_pid).result(timeout=PATIENCE_S)
    manager.close(timeout=PATIENCE_S)
    assert [event.exit_code for event in recorder.events("process_exited")] == [0]


def test_a_running_task_can_be_cancelled(manager, gate):
    handle = manager.run(gated.clean_up_when_stopped, gate.address)
    pid = gate.wait_for_arrival()
    assert handle.cancel()
    assert gate.wait_for_label() == "SystemExit"
    wait_until_gone([pid])
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9


def test_a_grandchild_goes_with_its_task(manager, gate):
    handle = manager.run(gated.start_grandchild, gate.address)
    arrival = gate.next_arrival()
    handle.cancel()
    wait_until_gone([arrival.pid, arrival.label])


def test_a_close_past_its_timeout_stops_everything(manager, gate):
    running = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    report = manager.close(timeout=0)
    assert running.cancelled()
    assert report.leftovers == ()
    wait_until_gone([pid])


def test_the_child_has_context_group_and_progress(manager):
    assert manager.run_task(Task(surroundings.context_facts, name="who am I")).result(timeout=PATIENCE_S)[:2] == (
        1,
        "who am I",
    )
    group, pid = manager.run(surroundings.group_and_pid).result(timeout=PATIENCE_S)
    assert group == pid
    handle = manager.run(surroundings.report_progress, 5)
    handle.result(timeout=PATIENCE_S)
    assert handle.progress.done == 5


def test_what_is_stalled_is_told(make_manager, method, gate, recorder):
    context = multiprocessing.get_context(method)
    manager = make_manager(mp_context=context, observer=recorder, stalled_threshold=0.1)
    handle = manager.run(stop_at_gate, gate.address)
    (event,) = recorder.wait_for("task_stalled")
    assert event.handle is handle


@pytest.mark.parametrize("safe_method", ["forkserver", "spawn"])
def test_a_lock_held_in_the_parent_cannot_deadlock_a_child(make_manager, safe_method):
    with surroundings.shared_lock:
        manager = make_manager(mp_context=multiprocessing.get_context(safe_method))
        assert manager.run(surroundings.take_shared_lock).result(timeout=PATIENCE_S) == "taken"


PRINTS_AMID_A_FORK = """
    import multiprocessing, sys
    from multiprocessing import util
    from procbackground import Manager

    if __name__ == "__main__":
        util._flush_std_streams = lambda: None  # as if a thread printed right behind it
        print("from the parent")
        print("an error of the parent", file=sys.stderr, end="")
        with Manager(2, mp_context=multiprocessing.get_context("fork")) as manager:
            for handle in [manager.run(print, "from child", number) for number in range(4)]:
                handle.result()
"""


def test_what_the_parent_printed_and_did_not_write_is_not_written_by_forked_children(tmp_path):
    ended = run(PRINTS_AMID_A_FORK, folder=tmp_path)
    assert sorted(ended.stdout.splitlines()) == [*(f"from child {number}" for number in range(4)), "from the parent"]
    assert ended.stderr.count("an error of the parent") == 1


def test_the_default_never_forks_this_process():
    surroundings.marks.append("only here")
    try:
        with Manager(max_workers=1) as manager:
            assert manager.run(surroundings.read_marks).result(timeout=PATIENCE_S) == []
    finally:
        surroundings.marks.clear()


@pytest.mark.skipif("PROCBACKGROUND_PLATFORM" in os.environ, reason="this is the forced run itself")
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_all_that_holds_on_the_portable_platform_too():
    files = ["test_start_methods.py", "test_cancel.py", "test_attribution.py"]
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            *(f"tests/{file}" for file in files),
        ],
        cwd=ROOT,
        env={**os.environ, "PROCBACKGROUND_PLATFORM": "portable"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-8000:]
    assert " passed" in ended.stdout


def test_loops_that_were_forked_one_after_the_other_all_end_when_asked(make_manager):
    """A worker that keeps the task pipe of the one before it open would keep that one's loop from ending."""
    manager = make_manager(max_workers=2, mp_context=multiprocessing.get_context("fork"))
    loops = [manager.run_task(Task(plain.nothing, type=TaskType.LOOP, interval=60)) for _ in range(8)]
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    assert manager.cancel(timeout=PATIENCE_S)
    assert all(loop.cancelled() for loop in loops)


FORK_SERVER_DIES = """
    import os, signal, sys, threading, time
    from multiprocessing import forkserver
    from procbackground import Manager, WorkerDiedError

    if {has_thread} and __name__ != "__main__":
        # So that each worker imports this module itself.
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    def hold(begun, end):
        open(begun, "w").close()
        while not os.path.exists(end):
            time.sleep(0.005)
        return os.getpid()

    if __name__ == "__main__":
        with Manager(1, "forkserver") as manager:
            handle = manager.run(hold, "begun", "end")
            while not os.path.exists("begun"):
                time.sleep(0.005)
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
            os.waitid(os.P_PID, forkserver._forkserver._forkserver_pid, os.WEXITED | os.WNOWAIT)
            assert manager.processes()[0].task is handle.task
            open("end", "w").close()
            pid = handle.result(20)
            assert manager.run(os.getpid).result(20) == pid
            os.unlink("begun"), os.unlink("end")
            handle = manager.run(hold, "begun", "end")
            while not os.path.exists("begun"):
                time.sleep(0.005)
            os.kill(pid, signal.SIGKILL)
            error = handle.exception(20)
            assert isinstance(error, WorkerDiedError), error
            assert manager.run(os.getpid).result(20) != pid
        print(error.exit_code)
"""


# On the portable platform workers are its children, and it takes their exit codes with it. Else the zygote has them.
@pytest.mark.parametrize(
    ("platform", "has_thread", "exit_code"), [("portable", False, None), ("", False, -9), ("", True, -9)]
)
def test_the_death_of_the_fork_server_is_not_that_of_its_workers(
    tmp_path, monkeypatch, platform, has_thread, exit_code
):
    monkeypatch.setitem(ENVIRONMENT, "PROCBACKGROUND_PLATFORM", platform)
    monkeypatch.chdir(tmp_path)
    done = run(FORK_SERVER_DIES.format(has_thread=has_thread), folder=tmp_path)
    assert done.stdout == f"{exit_code}\n", done.stderr


FORK_OUTLIVES_ITS_WORKER = """
    import os, signal, time
    from procbackground import Manager, WorkerDiedError

    def leave_a_fork():
        if os.fork() == 0:
            os.setsid()
            while not os.path.exists("end"):
                time.sleep(0.005)
            os._exit(0)

    def leave_and_die():
        leave_a_fork()
        os.kill(os.getpid(), signal.SIGKILL)

    def leave_and_become_another_program():
        leave_a_fork()
        os.execvp("true", ["true"])

    if __name__ == "__main__":
        try:
            with Manager(1, {method!r}) as manager:
                for task in (leave_and_die, leave_and_become_another_program):
                    error = manager.run(task).exception(20)
                    assert isinstance(error, WorkerDiedError), error
                assert manager.run(pow, 2, 3).result(20) == 8
        finally:
            open("end", "w").close()
        print("fine")
"""


@pytest.mark.parametrize("method", METHODS)
def test_the_end_of_a_worker_is_noticed_while_a_fork_of_it_lives(tmp_path, monkeypatch, method):
    """The fork has a copy of the sentinel, by which alone `multiprocessing` would notice it."""
    monkeypatch.setitem(ENVIRONMENT, "PROCBACKGROUND_PLATFORM", "portable")
    monkeypatch.chdir(tmp_path)
    done = run(FORK_OUTLIVES_ITS_WORKER.format(method=method), folder=tmp_path)
    assert done.stdout == "fine\n", done.stderr
