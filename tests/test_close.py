"""Closing: nothing is accepted, everything ends within its bound, nothing is left."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time

import pytest

from procbackground import CloseReport, Manager, ManagerClosedError, Task, TaskType
from tests.support.facts import Living, child_pids, is_gone, wait_until, wait_until_closing, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, gated, plain

A_MOMENT_S = 8.0  # allowance for a machine with better things to do


def test_close_lets_one_offs_finish(make_manager, gate):
    manager = make_manager(max_workers=1)
    handles = [manager.run(stop_at_gate, gate.address) for _ in range(3)]
    gate.wait_for_arrival()
    gate.open()
    report = manager.close()
    assert all(handle.done() and not handle.cancelled() for handle in handles)
    assert isinstance(report, CloseReport)
    assert report.is_clean
    assert (report.cancelled, report.stopped, report.killed, report.leftovers) == (0, 0, 0, ())
    assert report.seconds >= 0


def test_the_report_counts_what_finished_during_the_close(make_manager, gate):
    manager = make_manager(max_workers=1)
    handles = [manager.run(stop_at_gate, gate.address) for _ in range(3)]
    gate.wait_for_arrival()
    reports = []
    closing = threading.Thread(target=lambda: reports.append(manager.close()))
    closing.start()
    wait_until_closing(manager)
    gate.open()
    closing.join(PATIENCE_S)
    assert reports[0].finished == 3
    assert all(handle.done() for handle in handles)


def test_a_close_without_timeout_ends_at_once_when_nothing_runs(manager):
    manager.run(plain.nothing).result(timeout=PATIENCE_S)
    assert manager.close().is_clean


def test_an_unused_manager_closes(make_manager):
    assert make_manager().close() is not None


def test_nothing_is_accepted_after_close(manager):
    manager.close()
    with pytest.raises(ManagerClosedError):
        manager.run(pow, 2, 2)
    with pytest.raises(ManagerClosedError):
        manager.submit(pow, 2, 2)
    with pytest.raises(ManagerClosedError):
        manager.run_task(Task(pow, args=(2, 2)))
    with pytest.raises(ManagerClosedError):
        manager.run_task(Task(pow, args=(2, 2), type=TaskType.LOOP))
    with pytest.raises(RuntimeError):  # what an Executor raises
        list(manager.map(abs, [1]))


def test_close_is_idempotent(manager):
    first = manager.close()
    assert manager.close() == first


def test_close_from_many_threads_at_once(make_manager, gate):
    manager = make_manager()
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(manager.close())) for _ in range(6)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(reports) == 6
    assert all(report.is_clean for report in reports)


def test_after_close_nothing_is_left(make_manager, recorder):
    before = Living.now()
    manager = make_manager(max_workers=2, observer=recorder)
    handles = [manager.run(plain.square, number) for number in range(20)]
    handles += [manager.run(failing.fail), manager.run(failing.exit_hard, 1)]
    manager.close()
    after = Living.now()  # at once: close itself has waited for all that
    assert all(handle.done() for handle in handles)
    assert after.threads <= before.threads
    assert after.descriptors <= before.descriptors
    assert all(is_gone(pid) for pid, _ in after.processes - before.processes)
    assert [kind for kind, _ in recorder.seen].count("task_added") == 22
    ends = [kind for kind, _ in recorder.seen if kind in ("task_succeeded", "task_failed")]
    assert len(ends) == 22


def test_past_its_timeout_close_cancels_the_queue_and_stops_what_runs(make_manager, gate):
    manager = make_manager(max_workers=1, grace=PATIENCE_S)
    running = manager.run(gated.clean_up_when_stopped, gate.address)
    queued = [manager.run(plain.nothing) for _ in range(4)]
    pid = gate.wait_for_arrival()
    report = manager.close(timeout=0.05)
    assert running.cancelled()
    assert all(handle.cancelled() for handle in queued)
    assert gate.wait_for_label() == "SystemExit"  # SIGTERM ran its finally block
    assert (report.cancelled, report.stopped, report.killed) == (4, 1, 0)
    assert not report.is_clean
    assert is_gone(pid)


def test_what_ignores_sigterm_is_killed_after_grace(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.2)
    handle = manager.run(gated.ignore_sigterm, gate.address)
    pid = gate.wait_for_arrival()
    began = time.monotonic()
    report = manager.close(timeout=0)
    assert 0.1 < time.monotonic() - began < 0.2 + A_MOMENT_S
    assert (report.stopped, report.killed) == (0, 1)
    assert handle.done()
    assert is_gone(pid)


@pytest.mark.parametrize("task", [gated.tell_and_hold_the_interpreter, gated.tell_and_sleep])
def test_close_is_bounded_whatever_the_task_does(make_manager, gate, task):
    manager = make_manager(max_workers=1, grace=0.2)
    handle = manager.run(task, gate.address)
    pid = gate.wait_for_arrival()
    began = time.monotonic()
    report = manager.close(timeout=0.1)
    assert time.monotonic() - began < 0.3 + A_MOMENT_S
    assert report.stopped + report.killed == 1
    assert handle.done()
    assert is_gone(pid)


def test_close_ends_a_process_that_is_stopped(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.2)
    handle = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    os.kill(pid, signal.SIGSTOP)
    manager.close(timeout=0)
    assert handle.done()
    assert is_gone(pid)


def test_close_takes_what_the_tasks_started_along(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.5)
    manager.run(gated.start_grandchild, gate.address)
    arrival = gate.next_arrival()
    manager.close(timeout=0)
    wait_until_gone([arrival.pid, arrival.label])


def test_close_ends_a_stopped_idle_worker(make_manager):
    manager = make_manager(max_workers=1, grace=0.2)
    pid = manager.run(os.getpid).result(timeout=PATIENCE_S)
    os.kill(pid, signal.SIGSTOP)
    manager.close(timeout=0)
    assert is_gone(pid)


def test_wait_in_another_thread_ends_with_the_close(make_manager, gate):
    manager = make_manager(max_workers=1, grace=1.0)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(manager.wait(PATIENCE_S)))
    waiting.start()
    manager.close(timeout=0)
    waiting.join(PATIENCE_S)
    assert answers == [True]


def test_close_in_a_done_callback_does_not_deadlock(make_manager):
    manager = make_manager()
    closed = threading.Event()

    def close(_):
        manager.close(timeout=1)
        closed.set()

    manager.run(plain.nothing).add_done_callback(close)
    assert closed.wait(PATIENCE_S)
    assert manager.close(timeout=PATIENCE_S) is not None


def test_close_in_an_observer_does_not_deadlock(make_manager, recorder):
    closed = threading.Event()

    class Closing(type(recorder)):
        def on_task_succeeded(self, event):
            manager.close(timeout=1)
            closed.set()

    manager = make_manager(observer=Closing())
    manager.run(plain.nothing)
    assert closed.wait(PATIENCE_S)
    assert manager.close(timeout=PATIENCE_S) is not None


def test_close_amid_submissions_loses_nothing_that_was_accepted(make_manager):
    manager = make_manager()
    accepted = [[] for _ in range(4)]
    started = threading.Barrier(5)

    def submit(mine):
        started.wait()
        try:
            while True:
                mine.append(manager.run(plain.square, len(mine)))
        except ManagerClosedError:
            return

    threads = [threading.Thread(target=submit, args=(mine,)) for mine in accepted]
    for thread in threads:
        thread.start()
    started.wait()
    manager.run(plain.nothing).result(timeout=PATIENCE_S)
    manager.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    for mine in accepted:
        assert [handle.result(timeout=0) for handle in mine] == [number**2 for number in range(len(mine))]


# -- with -----------------------------------------------------------------------------------------------


def test_leaving_the_block_waits_for_every_task():
    with Manager(max_workers=2) as manager:
        handles = [manager.run(plain.pause, 0.01) for _ in range(10)]
    assert [handle.result(timeout=0) for handle in handles] == [0.01] * 10


@pytest.mark.parametrize("error", [KeyError("oh"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_leaving_the_block_by_an_exception_stops_everything(gate, error):
    with pytest.raises(type(error)), Manager(max_workers=1) as manager:  # noqa: PT012
        running = manager.run(gated.clean_up_when_stopped, gate.address)
        queued = [manager.run(plain.nothing) for _ in range(3)]
        pid = gate.wait_for_arrival()
        raise error
    assert running.cancelled()
    assert all(handle.cancelled() for handle in queued)
    assert gate.wait_for_label() == "SystemExit"
    assert is_gone(pid)


def test_leaving_by_an_exception_kills_what_ignores_sigterm(gate):
    with pytest.raises(KeyError), Manager(max_workers=1, grace=0.2) as manager:  # noqa: PT012
        manager.run(gated.ignore_sigterm, gate.address)
        pid = gate.wait_for_arrival()
        raise KeyError
    assert is_gone(pid)


# -- shutdown -------------------------------------------------------------------------------------------


def test_shutdown_waits_for_what_was_submitted(make_manager):
    manager = make_manager()
    handles = [manager.submit(plain.pause, 0.01) for _ in range(6)]
    manager.shutdown()
    assert [handle.result(timeout=0) for handle in handles] == [0.01] * 6
    with pytest.raises(RuntimeError):
        manager.submit(pow, 2, 2)


def test_shutdown_without_waiting_returns_while_tasks_run(make_manager, gate):
    manager = make_manager()
    handle = manager.submit(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    manager.shutdown(wait=False)
    assert not handle.done()
    with pytest.raises(RuntimeError):
        manager.submit(pow, 2, 2)
    gate.release(pid, "an answer")
    assert handle.result(timeout=PATIENCE_S) == "an answer"


def test_shutdown_can_cancel_what_is_queued(make_manager, gate):
    manager = make_manager(max_workers=1)
    running = manager.submit(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    queued = [manager.submit(plain.nothing) for _ in range(3)]
    manager.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: all(handle.cancelled() for handle in queued), "the queue is cancelled")
    gate.release(pid, 5)
    assert running.result(timeout=PATIENCE_S) == 5


def test_shutdown_twice_is_fine(manager):
    manager.shutdown()
    manager.shutdown(wait=False)
    manager.shutdown(cancel_futures=True)


# -- signals --------------------------------------------------------------------------------------------


def test_closing_on_closes_at_the_first_signal_and_restores_the_handler(make_manager, gate):
    manager = make_manager(max_workers=1)
    before = signal.getsignal(signal.SIGUSR1)
    handle = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    with manager.closing_on(signal.SIGUSR1, timeout=PATIENCE_S):
        assert signal.getsignal(signal.SIGUSR1) is not before
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until_closing(manager)
        gate.release(pid, "finished")
        assert handle.result(timeout=PATIENCE_S) == "finished"
    assert signal.getsignal(signal.SIGUSR1) is before
    assert manager.close().leftovers == ()


def test_closing_on_ends_at_once_at_the_second_signal(gate):
    with (  # noqa: PT012
        pytest.raises(SystemExit),
        Manager(max_workers=1, grace=0.2) as manager,
        manager.closing_on(signal.SIGUSR1, timeout=3600),
    ):
        handle = manager.run(gated.ignore_sigterm, gate.address)
        pid = gate.wait_for_arrival()
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until_closing(manager)
        assert not handle.done()
        os.kill(os.getpid(), signal.SIGUSR1)
    assert handle.done()
    assert is_gone(pid)


def test_closing_on_without_a_signal_changes_nothing(manager):
    with manager.closing_on(signal.SIGUSR1, timeout=1):
        assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4
    assert manager.run(pow, 2, 3).result(timeout=PATIENCE_S) == 8


def test_closing_on_off_the_main_thread_raises_before_it_makes_anything(manager):
    """Python lets no other thread set handlers."""
    seen: list[BaseException] = []
    before = Living.now()

    def enter() -> None:
        try:
            with manager.closing_on(signal.SIGUSR1):
                pass
        except ValueError as error:
            seen.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(PATIENCE_S)
    assert "main thread" in str(seen[0])
    assert not Living.now().more_than(before)


@pytest.mark.parametrize(
    ("number", "refusal", "words"),
    [
        (signal.SIGKILL, ValueError, "no program can handle SIGKILL"),
        (32, OSError, "Invalid"),  # of those that glibc keeps for itself
    ],
)
def test_closing_on_a_signal_that_cannot_be_handled_leaves_nothing(manager, number, refusal, words):
    before, handler = Living.now(), signal.getsignal(signal.SIGUSR1)
    wakeup_fd = signal.set_wakeup_fd(-1)
    with pytest.raises(refusal, match=words), manager.closing_on(signal.SIGUSR1, number):
        pass
    assert signal.getsignal(signal.SIGUSR1) is handler
    assert signal.set_wakeup_fd(wakeup_fd) == -1
    assert not Living.now().more_than(before)


def test_a_manager_dropped_without_close_takes_its_workers_along():
    before = child_pids()
    manager = Manager(max_workers=2)
    pids = {manager.run(os.getpid).result(timeout=PATIENCE_S) for _ in range(4)}
    assert pids <= child_pids() - before
    del manager
    wait_until_gone(pids)


def test_a_late_call_on_a_closed_manager_writes_into_nobodys_file(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    manager = Manager(max_workers=1)
    manager.run(pow, 2, 2).result(timeout=PATIENCE_S)
    in_use = len(os.listdir("/proc/self/fd")) - before
    manager.close()
    paths = [tmp_path / str(number) for number in range(2 * in_use)]
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.enter_context(path.open("wb"))  # among them, they have all the numbers that it had
        manager.shutdown()
        manager.cancel()
        del manager  # asks to close, too
        gc.collect()
    assert [path.read_bytes() for path in paths] == [b""] * len(paths)
