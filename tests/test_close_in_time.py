"""A close that cannot end in its time says what is left; one that nobody waits for happens all the same."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from procbackground import Manager, ManagerClosedError, Retry, Task
from procbackground._testing import View
from procbackground.observers import Observer
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.scripts import parent, run, running
from tests.support.tasks import failing, plain


@pytest.fixture
def hold():
    """An event at which code of the user's blocks; it is set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


class Blocking(Observer):
    """Blocks at one kind of event."""

    def __init__(self, method: str, hold: threading.Event) -> None:
        setattr(self, method, self._block)
        self.blocks = threading.Event()
        self._hold = hold

    def _block(self, event: Any) -> None:
        self.blocks.set()
        self._hold.wait()

    # So that it is known to want them.
    def on_task_succeeded(self, event: Any) -> None: ...
    def on_manager_closed(self, event: Any) -> None: ...


@pytest.mark.parametrize("method", ["on_task_succeeded", "on_manager_closed"])
def test_a_close_tells_of_an_observer_that_blocks(make_manager, hold, method):
    manager = make_manager(observer=Blocking(method, hold))
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    report = manager.close(timeout=0)
    assert report.left == ("an observer",)
    assert not report.is_clean
    assert manager.close(timeout=0) == report


def test_a_close_of_an_unused_manager_tells_of_an_observer_that_blocks(make_manager, hold):
    manager = make_manager(observer=Blocking("on_manager_closed", hold))
    report = manager.close(timeout=0)
    assert report.left == ("an observer",)
    assert not report.is_clean


class Slow(Observer):
    """Takes 5 milliseconds for each success, until it may hurry."""

    def __init__(self, hold: threading.Event) -> None:
        self.count = 0
        self._hold = hold

    def on_task_succeeded(self, event: Any) -> None:
        self._hold.wait(0.005)
        self.count += 1


def test_a_close_without_a_timeout_waits_for_an_observer_that_is_slower_than_the_tasks(make_manager, hold, monkeypatch):
    monkeypatch.setattr("procbackground._supervisor.ending.MOMENT_S", 0.05)
    observer = Slow(hold)
    manager = make_manager(observer=observer)
    for number in range(100):
        manager.run(plain.square, number)
    report = manager.close()
    assert observer.count == 100
    assert report.left == ()


def test_a_close_with_a_timeout_does_not_wait_for_all_events_of_a_slow_observer(make_manager, hold, monkeypatch):
    monkeypatch.setattr("procbackground._supervisor.ending.MOMENT_S", 0.05)
    observer = Slow(hold)
    manager = make_manager(observer=observer)
    handles = [manager.run(plain.square, number) for number in range(1000)]
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [number**2 for number in range(1000)]
    report = manager.close(timeout=0)
    assert observer.count < 1000
    assert report.left == ("an observer",)


def test_a_close_with_a_timeout_ends_the_wait_of_one_without(make_manager, hold, monkeypatch):
    monkeypatch.setattr("procbackground._supervisor.ending.MOMENT_S", 0.05)
    observer = Slow(hold)
    manager = make_manager(observer=observer)
    handles = [manager.run(plain.square, number) for number in range(1000)]
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [number**2 for number in range(1000)]
    closing = threading.Thread(target=manager.close)
    closing.start()
    manager.close(timeout=0)
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    assert observer.count < 1000


def test_a_close_tells_of_a_callback_that_blocks(make_manager, hold):
    manager = make_manager()
    blocks = threading.Event()

    def block(_: Any) -> None:
        blocks.set()
        hold.wait()

    manager.run(plain.nothing).add_done_callback(block)
    assert blocks.wait(PATIENCE_S)
    report = manager.close(timeout=0)
    assert len(report.left) == 1
    assert "callback" in report.left[0]
    assert not report.is_clean


def test_a_close_tells_of_a_retry_policy_that_blocks_and_ends_its_task(make_manager, hold):
    manager = make_manager()
    blocks = threading.Event()

    def block(_: Any) -> bool:
        blocks.set()
        return hold.wait()

    handle = manager.run_task(Task(failing.fail, retry=Retry(stop=block)))
    assert blocks.wait(PATIENCE_S)
    report = manager.close(timeout=0)
    assert report.cancelled == 1
    assert handle.cancelled()
    assert len(report.left) == 1
    assert "retry policy" in report.left[0]
    assert not report.is_clean


def test_a_clean_close_has_nothing_left(make_manager, recorder):
    manager = make_manager(observer=recorder)
    manager.run(plain.nothing).add_done_callback(lambda _: None)
    report = manager.close(timeout=PATIENCE_S)
    assert report.left == ()
    assert report.is_clean


@pytest.mark.parametrize("is_used", [True, False])
def test_an_observer_of_the_end_may_ask_the_manager(make_manager, is_used):
    answers: list[Any] = []

    class Asking(Observer):
        def on_manager_closed(self, event: Any) -> None:
            manager: Manager = made[0]
            answers.append(manager.stats().added)
            answers.append(manager.processes())
            answers.append(manager.wait(timeout=PATIENCE_S))
            answers.append(manager.close(timeout=PATIENCE_S).leftovers)
            try:
                manager.run(plain.nothing)
            except ManagerClosedError:
                answers.append("closed")

    made = [make_manager(observer=Asking())]
    if is_used:
        made[0].run(plain.nothing).result(timeout=PATIENCE_S)
    report = made[0].close(timeout=PATIENCE_S)
    assert answers == [int(is_used), [], True, (), "closed"]
    assert report.leftovers == ()  # whether it is clean depends on how busy the machine is


def test_an_observer_may_close_before_the_start_of_its_thread_has_returned(make_manager, monkeypatch):
    has_closed = threading.Event()
    was_closed: list[bool] = []
    start = threading.Thread.start

    class Closing(Observer):
        def on_manager_closed(self, event: Any) -> None:
            made[0].close(timeout=PATIENCE_S)
            has_closed.set()

    def start_late(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.endswith("observers"):
            was_closed.append(has_closed.wait(PATIENCE_S))

    made = [make_manager(observer=Closing())]
    monkeypatch.setattr(threading.Thread, "start", start_late)
    assert made[0].close(timeout=PATIENCE_S).leftovers == ()
    assert was_closed == [True]


@pytest.mark.parametrize("midway", [True, False])
def test_a_shutdown_amid_the_first_submit_is_not_lost(midway):
    """Nobody closes the manager later: all of it ends by itself, which the check for what is left behind sees, too."""
    manager = Manager(max_workers=1)
    view = View(manager)
    ends: list[Any] = []

    def submit() -> None:
        try:
            ends.append(manager.run(plain.square, 3).result(timeout=PATIENCE_S))
        except ManagerClosedError as error:
            ends.append(error)

    thread = threading.Thread(target=submit)
    with view.start_held(midway=midway) as has_come:
        thread.start()
        assert has_come.wait(PATIENCE_S)
        manager.shutdown(wait=False)
    thread.join(PATIENCE_S)
    assert len(ends) == 1
    assert ends[0] == 9 or isinstance(ends[0], ManagerClosedError)
    wait_until(lambda: view.has_closed, "the manager has closed")


@pytest.mark.parametrize("midway", [True, False])
def test_a_close_amid_the_first_submit_waits_for_what_was_taken(midway):
    manager = Manager(max_workers=1)
    view = View(manager)
    ends: list[Any] = []

    def submit() -> None:
        try:
            ends.append(manager.run(plain.square, 3).result(timeout=PATIENCE_S))
        except ManagerClosedError as error:
            ends.append(error)

    first = threading.Thread(target=submit)
    closer = threading.Thread(target=lambda: manager.close(timeout=PATIENCE_S))
    with view.start_held(midway=midway) as has_come:
        first.start()
        assert has_come.wait(PATIENCE_S)
        closer.start()
        wait_until(lambda: _refuses(manager), "the close has begun")
    for thread in (first, closer):
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert len(ends) == 1
    assert ends[0] == 9 or isinstance(ends[0], ManagerClosedError)
    assert view.has_closed


def _refuses(manager: Manager) -> bool:
    return manager._supervisor._acceptance.is_refusing


STOPPED_FORK_SERVER = """
    from multiprocessing import forkserver
    forkserver.ensure_running()
    assert manager.run(plain.square, 3).result(timeout=20) == 9
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGSTOP)
    try:
        other = Manager(max_workers=1, grace=0.2)
        waiting = other.run(plain.square, 2)
        cancelled = other.run(plain.square, 3)
        # Its supervisor answers, though the process that it asked for does not come.
        assert cancelled.cancel()
        assert other.stats().added == 2
        assert not other.wait(timeout=0)
        # Nor is a manager concerned that has a worker.
        for number in range(100):
            assert manager.run(plain.square, number).result(timeout=20) == number**2
        report = other.close(timeout=0)
        assert waiting.cancelled()
        assert not report.is_clean, report
        print(*report.left, sep="\\n", flush=True)
        tell_gate(address, "bounded")
    finally:
        os.kill(server, signal.SIGCONT)
    later = other.close(timeout=20)
    assert later.leftovers == (), later
    assert manager.close(timeout=20).is_clean
    print("closed", flush=True)
"""


def test_a_stopped_fork_server_holds_up_no_supervisor_and_no_close(gate, tmp_path):
    with running(parent(gate, STOPPED_FORK_SERVER), tmp_path) as process:
        stdout, stderr = process.communicate(timeout=2 * PATIENCE_S)
        assert process.returncode == 0, stderr
        assert gate.wait_for_label() == "bounded"
        *left, last = stdout.splitlines()
        assert last == "closed"
        assert any("has not ended" in line for line in left), left


STOPPED_FROM_THE_START = """
    from multiprocessing import forkserver
    forkserver.ensure_running()
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGSTOP)
    try:
        late = Manager(max_workers=1, grace=0.2, start_timeout=0.5)
        error = late.run(plain.square, 2).exception(timeout=20)
        print(type(error).__name__, error, flush=True)
    finally:
        os.kill(server, signal.SIGCONT)
    late.close(timeout=20)
    manager.close(timeout=20)
"""


def test_a_start_that_hangs_in_the_fork_server_breaks_the_manager_in_its_time(gate, tmp_path):
    with running(parent(gate, STOPPED_FROM_THE_START), tmp_path) as process:
        stdout, stderr = process.communicate(timeout=2 * PATIENCE_S)
        assert process.returncode == 0, stderr
        assert "start_timeout of 0.5 s" in stdout


SLOW_MAIN = """
import time
from procbackground import Manager
from tests.support.tasks import plain
if __name__ == "__main__":
    manager = Manager(max_workers=2, grace=0.2)
    manager.run(plain.square, 3)
    print(manager.close(timeout=0.5).left, flush=True)
else:
    time.sleep(3600)
"""


def test_a_close_does_not_wait_for_the_import_of_the_main_module(tmp_path):
    ran = run(SLOW_MAIN, folder=tmp_path)
    assert ran.stdout == "()\n"
    assert ran.stderr == ""
