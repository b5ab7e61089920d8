"""A task changes hands: from the caller to an idle worker, whose process may end, or whose task be stopped, meanwhile.

Each test holds one thread where the interpreter might have preempted it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable

import pytest

from procbackground import Manager, ManagerClosedError, Task, TaskHandle, TaskTimeoutError, TaskType
from procbackground._state.fleet import JobQueue
from procbackground._state.scheduler import Scheduler
from procbackground._supervisor import loop, process
from procbackground.observers import CallbackObserver
from tests.support import tasks
from tests.support.facts import wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate

LARGE = 2 << 20  # bytes; goes to a worker by a descriptor


def the_worker(manager: Manager):
    """Return the manager's only worker, once it is idle."""
    wait_until(lambda: manager._supervisor.scheduler.has_room, "the worker is idle")
    (worker,) = manager._supervisor.scheduler.workers
    return worker


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


def test_the_large_arguments_of_a_function_that_does_not_load_are_nobody_elses(make_manager):
    manager = make_manager(max_workers=1)
    failed = manager.run(OnlyHere(), bytes(LARGE))
    assert "no module of that name" in str(failed.exception(timeout=PATIENCE_S))
    for more in (1, 2):
        size, _ = manager.run(size_and_pid, bytes(LARGE + more)).result(timeout=PATIENCE_S)
        assert size == LARGE + more


def interrupt_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """Have Ctrl-C come as this thread next calls a function."""
    original = getattr(owner, name)
    me = threading.current_thread()

    def interrupted(*args, **kwargs):
        if threading.current_thread() is me:
            monkeypatch.setattr(owner, name, original)
            signal.raise_signal(signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)


class Interrupting(deque):
    """Has Ctrl-C come right after something was appended."""

    def append(self, value: object) -> None:
        super().append(value)
        signal.raise_signal(signal.SIGINT)


def check_that_it_works_and_closes(manager: Manager) -> None:
    assert manager.run(size_and_pid, bytes(LARGE + 1)).result(timeout=PATIENCE_S)[0] == LARGE + 1
    assert manager.wait(PATIENCE_S)
    assert manager._supervisor.scheduler.queue.length == 0
    supervisor = manager._supervisor.thread
    manager.close(timeout=PATIENCE_S)
    supervisor.join(PATIENCE_S)
    assert not supervisor.is_alive()


@pytest.mark.parametrize(
    ("is_busy", "owner", "name"),
    [
        (False, Scheduler, "accept"),
        (False, loop, "_call_frame"),
        (False, process.WorkerProcess, "send_parcel"),
        (False, process.WorkerProcess, "write"),
        (True, Scheduler, "accept"),
        (True, JobQueue, "push"),
    ],
)
def test_ctrl_c_while_a_task_is_given_leaves_a_manager_that_works_and_closes(
    make_manager, gate, monkeypatch, is_busy, owner, name
):
    manager = make_manager(max_workers=1)
    manager.run(pow, 2, 2).result(timeout=PATIENCE_S)
    the_worker(manager)
    if is_busy:
        manager.run(stop_at_gate, gate.address)
        gate.wait_for_arrival()
    with monkeypatch.context() as patch:
        interrupt_once(patch, owner, name)
        with pytest.raises(KeyboardInterrupt):
            manager.run(size_and_pid, bytes(LARGE))
    gate.open()
    check_that_it_works_and_closes(manager)


def test_ctrl_c_right_after_a_worker_got_a_task_leaves_a_manager_that_works_and_closes(make_manager):
    manager = make_manager(max_workers=1)
    manager.run(pow, 2, 2).result(timeout=PATIENCE_S)
    worker = the_worker(manager)
    worker.inflight = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        manager.run(size_and_pid, bytes(LARGE))
    check_that_it_works_and_closes(manager)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Scheduler, "cancel"),
        (JobQueue, "tidy"),
        (loop.Supervisor, "_settle_cancelled"),
        (TaskHandle, "_settle"),
        (loop.Supervisor, "_account"),
        (Scheduler, "settled"),
    ],
)
def test_ctrl_c_while_a_task_is_cancelled_leaves_a_manager_that_works_and_closes(
    make_manager, gate, monkeypatch, owner, name
):
    manager = make_manager(max_workers=1)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    handle = manager.run(tasks.square, 3)
    with monkeypatch.context() as patch:
        interrupt_once(patch, owner, name)
        with pytest.raises(KeyboardInterrupt):
            handle.cancel()
    gate.open()
    check_that_it_works_and_closes(manager)
    assert handle.cancelled() or (owner is Scheduler and name == "cancel")  # which had not begun
    stats = manager.stats()
    assert (stats.added, stats.succeeded + stats.cancelled) == (3, 3)


def test_a_task_that_an_observer_cancels_before_it_is_accepted_is_cancelled_and_takes_no_other_along(
    make_manager, gate
):
    cancelled: list[bool] = []

    def on_task_added(event) -> None:
        if event.task.name == "unwanted":
            cancelled.append(event.handle.cancel())

    manager = make_manager(max_workers=1, max_pending=1, observer=CallbackObserver(on_task_added=on_task_added))
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    queued = manager.run(tasks.square, 3)
    given: list = []
    giver = threading.Thread(target=lambda: given.append(manager.run_task(Task(tasks.square, (4,), name="unwanted"))))
    giver.start()  # there is no room
    wait_until(lambda: cancelled == [True], "the observer has cancelled it")
    gate.open()
    assert queued.result(timeout=PATIENCE_S) == 9
    giver.join(PATIENCE_S)
    assert given[0].cancelled()
    assert manager.wait(PATIENCE_S)
    stats = manager.stats()
    assert (stats.added, stats.succeeded, stats.cancelled, stats.queued) == (3, 2, 1, 0)


def test_what_a_closed_manager_refuses_has_ended_for_those_who_were_told_of_it(make_manager, gate, recorder):
    manager = make_manager(max_workers=1, max_pending=1, observer=recorder)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    refused: list[BaseException] = []

    def give() -> None:
        try:
            manager.run(tasks.square, 3)
        except ManagerClosedError as error:
            refused.append(error)

    givers = [threading.Thread(target=give) for _ in range(3)]
    for giver in givers:
        giver.start()
    recorder.wait_for("task_added", 4)
    manager.close(timeout=0)
    for giver in givers:
        giver.join(PATIENCE_S)
    assert len(refused) == 2  # one had found room
    assert all(event.handle.cancelled() for event in recorder.wait_for("task_added", 4))
    assert len(recorder.wait_for("task_cancelled", 4)) == 4


def hold_write(monkeypatch: pytest.MonkeyPatch, name: str, until: Callable[[process.WorkerProcess], bool]) -> list[int]:
    """Have this thread's next write to a worker wait; return a list that gets the descriptor that it wrote to."""
    original = getattr(process.WorkerProcess, name)
    me = threading.current_thread()
    written_to: list[int] = []

    def held(self, *args):
        if threading.current_thread() is me and not written_to:
            written_to.append(self.task_fd)
            wait_until(lambda: until(self), "this thread may go on")
            assert self.task_fd == written_to[0]  # or it would write to whoever opens a file now
            os.fstat(self.side_fd)
        return original(self, *args)

    monkeypatch.setattr(process.WorkerProcess, name, held)
    return written_to


def test_what_is_stopped_while_it_is_given_keeps_its_pipe_until_it_is(make_manager, gate, monkeypatch):
    manager = make_manager(max_workers=1, grace=0.1)
    manager.run_task(Task(pow, (2, 2), timeout=PATIENCE_S)).result(timeout=PATIENCE_S)
    worker = the_worker(manager)

    def is_stopped(self: process.WorkerProcess) -> bool:
        manager._supervisor._wakeup.set()  # as another caller does, so that it sees the new limit
        return self.ends_tasks

    written_to = hold_write(monkeypatch, "write", is_stopped)
    late = manager.run_task(Task(stop_at_gate, (gate.address,), timeout=0.05))
    assert written_to
    assert isinstance(late.exception(timeout=PATIENCE_S), TaskTimeoutError)
    wait_until(lambda: worker.process.task_fd == -1, "the pipe is closed after that")
    assert manager.run(pow, 2, 3).result(timeout=PATIENCE_S) == 8


def test_a_worker_that_ends_while_it_is_given_a_task_keeps_its_descriptors_until_it_has_it(make_manager, monkeypatch):
    manager = make_manager(max_workers=1)
    manager.run(size_and_pid, bytes(LARGE)).result(timeout=PATIENCE_S)
    worker = the_worker(manager)

    def ends(self: process.WorkerProcess) -> bool:
        os.kill(self.pid, signal.SIGKILL)
        return self.is_dying and worker in manager._supervisor._dying

    written_to = hold_write(monkeypatch, "send_parcel", ends)
    handle = manager.run(size_and_pid, bytes(LARGE + 1))
    assert written_to
    size, pid = handle.result(timeout=PATIENCE_S)
    assert size == LARGE + 1
    assert pid != worker.pid
    assert len(handle.attempts) == 1  # it had not begun there


def test_a_worker_that_a_caller_writes_to_gets_nothing_from_the_supervisor(make_manager, gate, monkeypatch):
    manager = make_manager(max_workers=1)
    manager.run(tasks.square, 3).result(timeout=PATIENCE_S)
    worker = the_worker(manager)
    supervisor = manager._supervisor
    write = process.WorkerProcess.write
    is_held, may_go_on = threading.Event(), threading.Event()

    def held(self, data):
        if threading.current_thread() is giver:
            is_held.set()
            may_go_on.wait(PATIENCE_S)
        return write(self, data)

    monkeypatch.setattr(process.WorkerProcess, "write", held)
    given: list[TaskHandle[int]] = []
    giver = threading.Thread(target=lambda: given.append(manager.run(tasks.square, 4)))
    giver.start()
    assert is_held.wait(PATIENCE_S)
    queued = manager.run(tasks.square, 5)
    # Word of a request that it had skipped, long taken back, comes late.
    with supervisor.lock:
        assert supervisor.scheduler.refill(worker, time.monotonic()) == []
    may_go_on.set()
    giver.join(PATIENCE_S)
    assert [handle.result(timeout=PATIENCE_S) for handle in (given[0], queued)] == [16, 25]


def test_a_caller_that_goes_on_late_leaves_the_next_ones_mark(make_manager, monkeypatch):
    manager = make_manager(max_workers=1)
    manager.run(size_and_pid, b"").result(timeout=PATIENCE_S)
    worker = the_worker(manager)
    write, send = process.WorkerProcess.write, process.WorkerProcess.send_parcel
    has_written, may_go_on, is_sending, may_send = (threading.Event() for _ in range(4))

    def slow_write(self, data):
        unsent = write(self, data)
        if threading.current_thread() is first:
            has_written.set()
            may_go_on.wait(PATIENCE_S)
        return unsent

    def slow_send(self, parcel):
        if threading.current_thread() is second:
            is_sending.set()
            may_send.wait(PATIENCE_S)
        send(self, parcel)

    monkeypatch.setattr(process.WorkerProcess, "write", slow_write)
    monkeypatch.setattr(process.WorkerProcess, "send_parcel", slow_send)
    given: list[TaskHandle[tuple[int, int]]] = []
    first = threading.Thread(target=lambda: given.append(manager.run(size_and_pid, b"x")))
    second = threading.Thread(target=lambda: given.append(manager.run(size_and_pid, bytes(LARGE))))
    first.start()
    assert has_written.wait(PATIENCE_S)
    wait_until(lambda: manager._supervisor.scheduler.has_room, "the worker has answered")
    second.start()
    assert is_sending.wait(PATIENCE_S)
    may_go_on.set()
    first.join(PATIENCE_S)
    assert worker.in_writing is not None
    may_send.set()
    second.join(PATIENCE_S)
    assert [handle.result(timeout=PATIENCE_S)[0] for handle in given] == [1, LARGE]
    assert worker.in_writing is None


def test_a_worker_whose_end_is_known_gets_no_task(make_manager, monkeypatch):
    manager = make_manager(max_workers=1)
    pid = manager.run(tasks.own_pid).result(timeout=PATIENCE_S)
    worker = the_worker(manager)
    is_held, may_go_on = threading.Event(), threading.Event()
    bury = process.WorkerProcess.kill_tree

    def held(self) -> None:
        if self.pid == pid:
            is_held.set()
            may_go_on.wait(PATIENCE_S)
        bury(self)

    monkeypatch.setattr(process.WorkerProcess, "kill_tree", held)
    os.kill(pid, signal.SIGKILL)
    assert is_held.wait(PATIENCE_S)
    handle = manager.run(tasks.own_pid)
    assert worker.in_writing is None
    assert not worker.inflight
    may_go_on.set()
    assert handle.result(timeout=PATIENCE_S) != pid


def test_a_loop_that_is_given_a_dead_process_begins_in_another_and_is_not_charged(make_manager, gate, recorder):
    manager = make_manager(max_workers=1, observer=recorder)
    first = manager.run_task(Task(stop_at_gate, (gate.address,), type=TaskType.LOOP))
    gate.wait_for_arrival()
    wait_until(lambda: bool(manager._supervisor.scheduler.spares), "a process is kept ready")
    (spare,) = manager._supervisor.scheduler.spares
    os.kill(spare.pid, signal.SIGSTOP)  # begins nothing that it is given
    second = manager.run_task(Task(stop_at_gate, (gate.address,), type=TaskType.LOOP))
    wait_until(lambda: spare.loop is not None, "the loop has the process")
    os.kill(spare.pid, signal.SIGKILL)
    wait_until_gone([spare.pid])
    assert gate.wait_for_arrival() != spare.pid
    assert recorder.events("task_failed") == []
    assert recorder.kinds(second) == ["task_added", "task_started"]
    for handle in (first, second):
        handle.cancel()


def test_a_callback_that_comes_while_another_blocks_is_run_at_once(make_manager, gate):
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
    queued = manager.run(tasks.square, 3)
    queued.add_done_callback(lambda _: has_run.set())
    wait_until(lambda: not manager._supervisor._errands.has_backlog, "nothing else is to be done")
    assert queued.cancel()  # in this thread, of which the supervisor hears nothing
    try:
        assert has_run.wait(PATIENCE_S / 2)
    finally:
        may_end.set()
