"""Giving a task to a worker is safe though its process ends, the task is stopped, or Ctrl-C comes meanwhile.

Ctrl-C comes at every point of a call at which the interpreter might look for it.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable

import psutil
import pytest

from procbackground import Manager, ManagerClosedError, Task, TaskTimeoutError, TaskType
from procbackground._testing import View
from procbackground.observers import CallbackObserver
from tests.support.facts import wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import plain

LARGE = 2 << 20  # bytes; goes to a worker by a descriptor


def idle_worker_of(manager: Manager) -> int:
    """Return the pid of the manager's only worker, once it is idle."""
    view = View(manager)
    wait_until(lambda: view.idle == 1, "the worker is idle")
    (pid,) = view.worker_pids
    return pid


def size_and_pid(data: bytes) -> tuple[int, int]:
    return len(data), os.getpid()


class OnlyHere:
    """A function that no worker can load, as one of a module that is not installed there."""

    def __reduce__(self):
        return load_only_in, (os.getpid(),)

    def __call__(self, data: bytes) -> None: ...


def load_only_in(pid: int) -> OnlyHere:
    if os.getpid() != pid:
        raise ImportError("no module of that name")
    return OnlyHere()


def test_large_arguments_of_a_function_that_does_not_load_reach_no_other_task(make_manager):
    manager = make_manager(max_workers=1)
    failed = manager.run(OnlyHere(), bytes(LARGE))
    assert "no module of that name" in str(failed.exception(timeout=PATIENCE_S))
    for more in (1, 2):
        size, _ = manager.run(size_and_pid, bytes(LARGE + more)).result(timeout=PATIENCE_S)
        assert size == LARGE + more


def is_interrupted(act: Callable[[], object], place: int) -> bool:
    """Call `act` with Ctrl-C at one of its calls of Python functions; return whether it makes so many."""
    calls = itertools.count()

    def interrupt(frame, event, arg) -> None:
        if event == "call" and next(calls) == place:
            signal.raise_signal(signal.SIGINT)

    sys.setprofile(interrupt)
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


def check_that_it_works(manager: Manager) -> None:
    assert manager.run(size_and_pid, bytes(LARGE + 1)).result(timeout=PATIENCE_S)[0] == LARGE + 1
    assert manager.wait(PATIENCE_S)
    stats = manager.stats()
    assert stats.queued == stats.running == 0
    assert stats.added == stats.succeeded + stats.failed + stats.cancelled


def check_that_it_closes(manager: Manager) -> None:
    supervisor = View(manager).supervisor_thread
    assert manager.close(timeout=PATIENCE_S).leftovers == ()
    supervisor.join(PATIENCE_S)
    assert not supervisor.is_alive()


# Where the interrupt falls into the callback of a weak reference, Python prints the exception and goes on.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", [1, LARGE])
@pytest.mark.parametrize("is_busy", [False, True])
def test_ctrl_c_at_any_call_of_a_submit_leaves_a_manager_that_works_and_closes(make_manager, gate, is_busy, size):
    manager = make_manager(max_workers=1)
    data = bytes(size)
    for place in itertools.count():
        pid = None
        if is_busy:
            manager.run(stop_at_gate, gate.address)
            pid = gate.wait_for_arrival()
        else:
            manager.run(pow, 2, 2).result(timeout=PATIENCE_S)
            idle_worker_of(manager)
        has_come = is_interrupted(lambda: manager.run(size_and_pid, data), place)
        gc.collect()  # a job that was not given to the supervisor is in a circle with its handle
        if pid is not None:
            gate.release(pid)
        check_that_it_works(manager)
        if not has_come:
            break
    assert place > 5
    check_that_it_closes(manager)


def test_ctrl_c_at_any_call_of_a_cancel_leaves_a_manager_that_works_and_closes(make_manager, gate):
    manager = make_manager(max_workers=1)
    for place in itertools.count():
        manager.run(stop_at_gate, gate.address)
        pid = gate.wait_for_arrival()
        handle = manager.run(plain.square, 3)
        has_come = is_interrupted(handle.cancel, place)
        gate.release(pid)
        check_that_it_works(manager)
        assert handle.cancelled() or handle.result(timeout=0) == 9  # which had not begun
        if not has_come:
            break
    assert place > 5
    check_that_it_closes(manager)


def test_a_task_that_an_observer_cancels_once_it_is_added_takes_no_other_along(make_manager, gate):
    cancelled: list[bool] = []

    def on_task_added(event) -> None:
        if event.task.name == "unwanted":
            cancelled.append(event.handle.cancel())

    manager = make_manager(max_workers=1, observer=CallbackObserver(on_task_added=on_task_added))
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    queued = manager.run(plain.square, 3)
    unwanted = manager.run_task(Task(plain.square, (4,), name="unwanted"))
    wait_until(lambda: cancelled == [True], "the observer has cancelled it")
    gate.open()
    assert queued.result(timeout=PATIENCE_S) == 9
    assert unwanted.cancelled()
    assert manager.wait(PATIENCE_S)
    stats = manager.stats()
    assert (stats.added, stats.succeeded, stats.cancelled, stats.queued) == (3, 2, 1, 0)


def test_a_task_whose_caller_waits_for_room_until_the_manager_closes_is_never_added(make_manager, gate, recorder):
    manager = make_manager(max_workers=1, max_pending=1, observer=recorder)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    refused: list[BaseException] = []

    def give() -> None:
        try:
            manager.run(plain.square, 3)
        except ManagerClosedError as error:
            refused.append(error)

    givers = [threading.Thread(target=give) for _ in range(3)]
    for giver in givers:
        giver.start()
    wait_until(lambda: View(manager).waiting_callers == 2, "one has found room, the others wait")
    manager.close(timeout=0)
    for giver in givers:
        giver.join(PATIENCE_S)
    assert len(refused) == 2
    assert len(recorder.wait_for("task_added", 2)) == len(recorder.wait_for("task_cancelled", 2)) == 2
    assert manager.stats().added == 2


@pytest.mark.parametrize("size", [1, LARGE])
def test_a_task_over_its_timeout_that_its_worker_never_began_is_stopped(make_manager, size):
    """The worker continues in order to end, and must not begin the task then."""
    manager = make_manager(max_workers=1, grace=0.1)
    for _ in range(4):
        assert manager.run(pow, 2, 3).result(timeout=PATIENCE_S) == 8
        worker = idle_worker_of(manager)
        os.kill(worker, signal.SIGSTOP)  # begins nothing that it is given
        wait_until(lambda worker=worker: psutil.Process(worker).status() == psutil.STATUS_STOPPED, "it is stopped")
        late = manager.run_task(Task(size_and_pid, (bytes(size),), timeout=0.05))
        assert isinstance(late.exception(timeout=PATIENCE_S), TaskTimeoutError)


@pytest.mark.parametrize("size", [1, LARGE])
def test_a_worker_that_ends_before_it_begins_a_task_costs_no_attempt(make_manager, size):
    manager = make_manager(max_workers=1)
    manager.run(size_and_pid, bytes(size)).result(timeout=PATIENCE_S)
    doomed = idle_worker_of(manager)
    os.kill(doomed, signal.SIGSTOP)
    handle = manager.run(size_and_pid, bytes(size + 1))
    wait_until(lambda: View(manager).in_flight(doomed) == 1, "the worker was given the task")
    os.kill(doomed, signal.SIGKILL)
    got, pid = handle.result(timeout=PATIENCE_S)
    assert got == size + 1
    assert pid != doomed
    assert len(handle.attempts) == 1


def test_a_task_given_at_the_moment_at_which_its_worker_ends_costs_no_attempt(make_manager):
    manager = make_manager(max_workers=1)
    for _ in range(10):
        doomed = manager.run(plain.own_pid).result(timeout=PATIENCE_S)
        idle_worker_of(manager)
        os.kill(doomed, signal.SIGKILL)
        handle = manager.run(plain.own_pid)
        assert handle.result(timeout=PATIENCE_S) != doomed
        assert len(handle.attempts) == 1


def test_a_loop_that_is_given_a_dead_process_begins_in_another_and_is_not_charged(make_manager, gate, recorder):
    manager = make_manager(max_workers=1, observer=recorder)
    first = manager.run_task(Task(stop_at_gate, (gate.address,), type=TaskType.LOOP))
    gate.wait_for_arrival()
    view = View(manager)
    wait_until(lambda: view.spares == 1, "a process is kept ready")
    (spare,) = view.spare_pids
    os.kill(spare, signal.SIGSTOP)  # begins nothing that it is given
    second = manager.run_task(Task(stop_at_gate, (gate.address,), type=TaskType.LOOP))
    wait_until(lambda: spare in view.loop_pids, "the loop has the process")
    os.kill(spare, signal.SIGKILL)
    wait_until_gone([spare])
    assert gate.wait_for_arrival() != spare
    assert recorder.events("task_failed") == []
    assert recorder.kinds(second) == ["task_added", "task_started"]
    for handle in (first, second):
        handle.cancel()


def test_a_callback_runs_at_once_while_another_one_blocks(make_manager, gate):
    manager = make_manager(max_workers=1)
    is_blocked, may_end, has_run = threading.Event(), threading.Event(), threading.Event()

    def block(_) -> None:
        is_blocked.set()
        may_end.wait(PATIENCE_S)

    blocking = manager.run(stop_at_gate, gate.address)
    blocking.add_done_callback(block)
    gate.release(gate.wait_for_arrival())
    assert is_blocked.wait(PATIENCE_S)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    queued = manager.run(plain.square, 3)
    queued.add_done_callback(lambda _: has_run.set())
    wait_until(lambda: not View(manager).has_waiting_callbacks, "nothing else is to be done")
    assert queued.cancel()  # in this thread, of which the supervisor hears nothing
    try:
        assert has_run.wait(PATIENCE_S / 2)
    finally:
        may_end.set()
