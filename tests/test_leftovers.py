"""What a task has started ends with its worker, and with the manager, in whatever way it was started."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from procbackground import Task, WorkerDiedError
from procbackground._platform import marks
from tests.support.facts import is_gone, wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, Gate
from tests.support.scripts import ENVIRONMENT, ORPHANS_GONE_S, family, parent, running
from tests.support.tasks import leaving, plain

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.environ.get("PROCBACKGROUND_PLATFORM") == "portable",
    reason="elsewhere only groups and living parents show what belongs to a worker",
)

# Spawned workers take a fifth of a second each.
METHODS = ["forkserver", "fork", pytest.param("spawn", marks=pytest.mark.slow)]
WAYS = list(leaving.WAYS)


@pytest.fixture(params=METHODS)
def manager(request, make_manager):
    return make_manager(mp_context=multiprocessing.get_context(request.param), grace=0.2)


@pytest.fixture
def forkserver_manager(make_manager):
    return make_manager(max_workers=1, grace=0.2)


def left_and_worker(gate: Gate) -> tuple[int, int]:
    """Return the pids of what a task has left and of its worker, which stops at the gate; either may come first."""
    arrivals = {type(arrival.label): arrival for arrival in (gate.next_arrival(), gate.next_arrival())}
    return arrivals[int].label, arrivals[str].pid


@pytest.mark.parametrize("way", WAYS)
def test_it_ends_with_a_worker_that_is_killed(manager, gate, way):
    handle = manager.run(leaving.leave_and_stop, gate.address, way)
    left, worker = left_and_worker(gate)
    os.kill(worker, signal.SIGKILL)
    assert isinstance(handle.exception(timeout=PATIENCE_S), WorkerDiedError)
    wait_until_gone([left])


def test_it_ends_with_an_attempt_that_exits(forkserver_manager, gate):
    handle = forkserver_manager.run(leaving.leave_and_exit, gate.address, "without environment")
    left = gate.wait_for_label()
    assert isinstance(handle.exception(timeout=PATIENCE_S), WorkerDiedError)
    wait_until_gone([left])


@pytest.mark.parametrize("way", ["forked twice", "below an orphan"])
def test_it_ends_with_an_attempt_that_is_stopped(manager, gate, way):
    handle = manager.run(leaving.leave_and_stop, gate.address, way)
    left, worker = left_and_worker(gate)
    assert handle.cancel()
    wait_until_gone([left, worker])


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_it_ends_with_a_task_that_succeeds(manager, gate, way, isolate):
    handle = manager.run_task(Task(leaving.leave, args=(gate.address, way), isolate=isolate))
    left = gate.wait_for_label()
    handle.result(timeout=PATIENCE_S)
    wait_until_gone([left])


def test_it_ends_with_a_task_that_raises(manager, gate):
    handle = manager.run(leaving.leave_and_raise, gate.address, "without environment")
    left = gate.wait_for_label()
    assert isinstance(handle.exception(timeout=PATIENCE_S), ZeroDivisionError)
    wait_until_gone([left])


def test_it_ends_with_a_row_of_a_map(forkserver_manager, gate):
    ways = ["forked twice", "in a session"]
    workers = forkserver_manager.map(leaving.leave, [gate.address] * len(ways), ways, timeout=PATIENCE_S)
    left = [gate.wait_for_label() for _ in ways]
    assert len(list(workers)) == len(ways)
    wait_until_gone(left)


def test_a_child_of_multiprocessing_that_was_not_joined_ends_with_its_task(manager, gate):
    """The worker joins it as it ends, which would take for ever."""
    handle = manager.run(leaving.leave_a_child_of_multiprocessing, gate.address)
    left = gate.wait_for_label()
    handle.result(timeout=PATIENCE_S)
    wait_until_gone([left])


def test_what_ends_with_a_task_disturbs_no_other(make_manager, gate):
    """The worker leaves, with tasks in its pipe."""
    manager = make_manager(max_workers=1)
    before = [manager.run(plain.square, number) for number in range(200)]
    culprit = manager.run(leaving.leave, gate.address, "in a session")
    after = [manager.run(plain.square, number) for number in range(200)]
    assert [each.result(timeout=PATIENCE_S) for each in (*before, *after)] == 2 * [number**2 for number in range(200)]
    assert {len(each.attempts) for each in (*before, culprit, *after)} == {1}
    wait_until_gone([gate.wait_for_label()])
    assert manager.stats().retried == 0


def test_what_the_initializer_has_started_serves_all_tasks(make_manager, gate):
    manager = make_manager(max_workers=1, initializer=leaving.leave, initargs=(gate.address, "without environment"))
    workers = {manager.run(plain.own_pid_after_a_moment, None).result(timeout=PATIENCE_S) for _ in range(3)}
    left = gate.wait_for_label()
    assert len(workers) == 1
    assert not is_gone(left)
    assert manager.close(timeout=PATIENCE_S).is_clean
    wait_until_gone([left])


@pytest.mark.parametrize("helper", ["resource_tracker", "forkserver"])
def test_the_helpers_of_multiprocessing_stay_with_the_worker(make_manager, helper):
    manager = make_manager(max_workers=1)
    first = manager.run(leaving.start_helper, helper).result(timeout=PATIENCE_S)
    assert manager.run(leaving.start_helper, helper).result(timeout=PATIENCE_S) == first


@pytest.mark.parametrize("way", ["forked twice", "without environment"])
@pytest.mark.parametrize("method", METHODS)
def test_it_ends_with_a_parent_that_is_killed(gate, tmp_path, method, way):
    source = parent(
        gate,
        f"""
        import multiprocessing
        from tests.support.tasks import leaving
        other = Manager(2, multiprocessing.get_context({method!r}))
        other.run(leaving.leave, address, {way!r}).result(timeout=20)
        other.run(leaving.leave_and_stop, address, {way!r})
        stop_at_gate(address, "parent")
        """,
    )
    with running(source, tmp_path) as process:
        arrivals = [gate.next_arrival() for _ in range(4)]
        left = [arrival.label for arrival in arrivals if isinstance(arrival.label, int)]
        assert len(left) == 2
        everybody = family(process.pid) | {*left}
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_until_gone(everybody, ORPHANS_GONE_S)


@pytest.mark.parametrize("way", ["forked twice", "without environment"])
@pytest.mark.parametrize("method", METHODS)
def test_of_a_manager_in_a_task_it_ends_with_the_outer_worker(forkserver_manager, gate, method, way):
    handle = forkserver_manager.run(leaving.leave_from_a_nested_manager, gate.address, method, way)
    arrivals = [gate.next_arrival() for _ in range(3)]
    (left,) = [arrival.label for arrival in arrivals if isinstance(arrival.label, int)]
    (outer,) = [arrival.pid for arrival in arrivals if arrival.label == "outer worker"]
    everybody = family(outer) | {left}
    os.kill(outer, signal.SIGKILL)
    assert isinstance(handle.exception(timeout=PATIENCE_S), WorkerDiedError)
    wait_until_gone(everybody, ORPHANS_GONE_S)


def kill_zygote_of(worker: int) -> None:
    """Kill the helper that has forked the worker, and return once the warden is there in its place."""
    wardens = len(wardens_below(os.getpid()))
    psutil.Process(psutil.Process(worker).ppid()).kill()
    wait_until(lambda: len(wardens_below(os.getpid())) > wardens, "the warden runs")


def wardens_below(pid: int) -> list[int]:
    found = []
    for child in psutil.Process(pid).children():
        try:
            if any(part.endswith("_worker/warden.py") for part in child.cmdline()):
                found.append(child.pid)
        except psutil.Error:
            pass
    return found


@pytest.mark.parametrize("way", ["in a session", "forked twice"])
def test_it_ends_with_a_worker_whose_zygote_is_gone(forkserver_manager, gate, way):
    handle = forkserver_manager.run(leaving.leave_and_stop, gate.address, way)
    left, worker = left_and_worker(gate)
    kill_zygote_of(worker)
    os.kill(worker, signal.SIGKILL)
    assert isinstance(handle.exception(timeout=PATIENCE_S), WorkerDiedError)
    wait_until_gone([left])


def test_it_ends_with_a_parent_that_is_killed_when_its_zygote_is_gone(gate, tmp_path):
    source = parent(
        gate,
        """
        from tests.support.tasks import leaving
        manager.run(leaving.leave_and_stop, address, "forked twice")
        stop_at_gate(address, "parent")
        """,
    )
    with running(source, tmp_path) as process:
        arrivals = [gate.next_arrival() for _ in range(3)]
        (left,) = [arrival.label for arrival in arrivals if isinstance(arrival.label, int)]
        (worker,) = [arrival.pid for arrival in arrivals if arrival.label == "worker"]
        psutil.Process(psutil.Process(worker).ppid()).kill()
        wait_until(lambda: wardens_below(process.pid), "the warden runs")
        everybody = family(process.pid) | {left, worker}
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_until_gone(everybody, ORPHANS_GONE_S)


# -- as the first process of a container ----------------------------------------------------------------------

INIT = """
import multiprocessing, os, signal, sys, time
from multiprocessing import forkserver
from procbackground import Manager, WorkerDiedError
from tests.support.tasks import plain

def stop():
    print("running", flush=True)
    time.sleep(60)

def fork_twice(code):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(0.05)
        os._exit(0)
    os.wait()
    if code is not None:
        os._exit(code)
    return os.getppid()

def zombies():
    # The fork server aside, which multiprocessing collects when it starts the next one.
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != forkserver._forkserver._forkserver_pid:
            try:
                with open(f"/proc/{name}/stat") as file:
                    if file.read().rpartition(")")[2].split()[0] == "Z":
                        found.append(name)
            except OSError:
                pass
    return found

if __name__ == "__main__":
    assert os.getpid() == 1
    method, victim = sys.argv[1:]
    with Manager(2, multiprocessing.get_context(method)) as manager:
        helper = manager.run(fork_twice, None).result(20)
        if victim == "fork server":
            helper = forkserver._forkserver._forkserver_pid
        if victim != "nobody":
            os.kill(helper, signal.SIGKILL)
        for code in (3, 4):
            assert isinstance(manager.run(fork_twice, code).exception(20), WorkerDiedError)
        assert manager.run(plain.square, 3).result(20) == 9
    until_s = time.monotonic() + 5
    while zombies() and time.monotonic() < until_s:
        time.sleep(0.01)
    print(zombies())
"""


@pytest.mark.parametrize(
    ("method", "victim"),
    [("forkserver", "nobody"), ("forkserver", "zygote"), ("forkserver", "fork server"), ("fork", "nobody")],
)
def test_no_zombie_is_left_where_the_manager_is_the_first_process(tmp_path: Path, method, victim):
    script = tmp_path / "init.py"
    script.write_text(INIT)
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, str(script), method, victim]
    try:
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if done.stderr.startswith("unshare: "):
        pytest.skip(f"needs the right to make a namespace of pids, and a root that is a mount: {done.stderr.strip()}")
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


# -- marks ----------------------------------------------------------------------------------------------------


def test_marks_of_a_family_differ_and_show_the_family():
    family_ = marks.new_family()
    found = [marks.mark_of(family_, number) for number in range(1, 1000)]
    assert len({*found, marks.helper_mark(family_)}) == 1000
    assert {marks.family_of(mark) for mark in found} == {family_}
    assert max(found) < 1 << 63  # what the module `resource` takes


def test_a_zombie_shows_its_mark_and_a_process_without_one_none():
    mark = marks.mark_of(marks.new_family(), 1)
    pid = os.fork()
    if pid == 0:
        marks.set_mark(mark)
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert marks.read_mark(pid) == mark
    assert marks.find_family(marks.family_of(mark)) == {pid: mark}
    os.waitpid(pid, 0)
    assert marks.read_mark(pid) == marks.read_mark(os.getpid()) == 0
