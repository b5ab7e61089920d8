"""Observers get every event, in order for each task and in one thread; their errors and delays harm no task."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time

import pytest

from procbackground import Manager, SerializationError, Task, events
from procbackground._supervisor import sampling
from procbackground.observers import CallbackObserver, LoguruObserver, Observer
from tests.support.gate import PATIENCE_S, Address, stop_at_gate
from tests.support.recorder import Recorder, SampleRecorder
from tests.support.scripts import run
from tests.support.tasks import failing, gated, plain, surroundings
from tests.support.tasks.failing import Flaky
from tests.support.tasks.pickling import Refuses


def test_a_success_is_told_in_order(make_manager, recorder):
    manager = make_manager(observer=recorder)
    began = time.time()
    handle = manager.run_task(Task(plain.add, args=(1, 2), meta={"tenant": 7}))
    assert handle.result(timeout=PATIENCE_S) == 3
    manager.close()
    assert recorder.kinds(handle) == ["task_added", "task_started", "task_succeeded"]
    told = [event for kind, event in recorder.seen if kind.startswith("task")]
    assert [type(event) for event in told] == [events.TaskAdded, events.TaskStarted, events.TaskSucceeded]
    assert all(event.task is handle.task and event.handle is handle for event in told)
    assert all(event.attempt in (0, 1) for event in told)
    assert began - 1 < told[0].time <= told[1].time <= told[2].time < time.time() + 1
    assert told[1].pid == handle.attempts[0].pid
    assert told[2].result == 3


def test_a_failure_is_told_once_after_the_retries(make_manager, recorder):
    manager = make_manager(observer=recorder)
    handle = manager.run_task(Task(failing.fail, retry=2))
    error = handle.exception(timeout=PATIENCE_S)
    manager.close()
    assert recorder.kinds(handle) == [
        "task_added",
        "task_started",
        "task_retrying",
        "task_started",
        "task_failed",
    ]
    (failure,) = recorder.events("task_failed")
    assert failure.error is error
    assert failure.attempt == 2


def test_a_task_that_cannot_cross_is_told_as_failed(make_manager, recorder):
    manager = make_manager(observer=recorder)
    handle = manager.run(plain.echo, Refuses())
    (failure,) = recorder.wait_for("task_failed")
    assert isinstance(failure.error, SerializationError)
    assert failure.handle is handle
    assert recorder.kinds(handle) == ["task_added", "task_failed"]


def test_a_cancelled_task_is_told_as_cancelled(make_manager, gate, recorder):
    manager = make_manager(max_workers=1, observer=recorder, grace=1.0)
    running = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    queued = manager.run(plain.nothing)
    queued.cancel()
    running.cancel()
    recorder.wait_for("task_cancelled", 2)
    assert recorder.kinds(queued) == ["task_added", "task_cancelled"]
    assert recorder.kinds(running) == ["task_added", "task_started", "task_cancelled"]


def test_progress_is_told(make_manager, recorder):
    manager = make_manager(observer=recorder)
    handle = manager.run(surroundings.report_progress, 3)
    assert handle.result(timeout=PATIENCE_S) == 3
    manager.close()
    told = recorder.events("task_progress")
    assert (told[-1].done, told[-1].total, told[-1].message) == (3, 3, "item 3")
    assert [event.done for event in told] == sorted(event.done for event in told)
    assert recorder.kinds(handle)[-1] == "task_succeeded"


def test_a_silent_task_is_told_as_stalled_once_and_still_succeeds(make_manager, gate, recorder):
    manager = make_manager(observer=recorder, stalled_threshold=0.1)
    handle = manager.run_task(Task(gated.stop_then_do, args=(gate.address,), meta={"who": "me"}))
    pid = gate.wait_for_arrival()
    (stalled,) = recorder.wait_for("task_stalled")
    assert stalled.handle is handle
    assert dict(stalled.task.meta) == {"who": "me"}
    assert stalled.silent_for >= 0.1
    gate.release(pid, "in the end")
    assert handle.result(timeout=PATIENCE_S) == "in the end"
    manager.close()
    assert recorder.kinds(handle) == ["task_added", "task_started", "task_stalled", "task_succeeded"]


def test_a_tasks_threshold_beats_the_managers(make_manager, gate, recorder):
    manager = make_manager(observer=recorder, stalled_threshold=3600)
    manager.run_task(Task(stop_at_gate, args=(gate.address,), stalled_threshold=0.1))
    gate.wait_for_arrival()
    recorder.wait_for("task_stalled")


def test_a_heartbeat_is_no_silence(make_manager, recorder):
    manager = make_manager(observer=recorder, stalled_threshold=0.8)
    handle = manager.run(surroundings.beat_for, 1.2)
    handle.result(timeout=PATIENCE_S)
    manager.close()
    assert "task_stalled" not in recorder.kinds(handle)


def test_processes_are_told_from_start_to_end(make_manager, recorder):
    manager = make_manager(max_workers=2, observer=recorder)
    handles = [manager.run(plain.own_pid) for _ in range(5)]
    pids = {handle.result(timeout=PATIENCE_S) for handle in handles}
    dead = manager.run(failing.exit_hard, 4)
    dead.exception(timeout=PATIENCE_S)
    manager.close()
    started = [event.pid for event in recorder.events("process_started")]
    exited = {event.pid: event.exit_code for event in recorder.events("process_exited")}
    assert pids <= set(started)
    assert len(set(started)) == len(started)
    assert set(exited) >= set(started)
    assert exited[dead.attempts[0].pid] == 4


def test_samples_are_told_while_a_task_runs(make_manager, gate):
    recorder = SampleRecorder()
    manager = make_manager(observer=recorder)
    manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    event = recorder.wait_for("process_sampled")[0]
    assert event.pid == event.sample.pid == pid
    assert event.sample.rss > 1_000_000


def test_no_sample_of_a_task_follows_its_end(make_manager, gate, monkeypatch):
    read_figures = sampling.sample
    recorder = SampleRecorder()
    ended: list[bool] = []

    def task_ends_meanwhile(pids):
        figures = read_figures(pids)
        if pid in pids and not ended:
            gate.release(pid, "done")
            ended.append(handle.result(timeout=PATIENCE_S) == "done")
        return figures

    manager = make_manager(observer=recorder, max_workers=1)
    handle = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    monkeypatch.setattr(sampling, "sample", task_ends_meanwhile)
    recorder.wait_for("task_succeeded")
    later = manager.run(stop_at_gate, gate.address)
    later_pid = gate.wait_for_arrival()
    before = len(recorder.events("process_sampled"))
    recorder.wait_for("process_sampled", before + 1)  # so the round in which the task ended is over
    assert ended == [True]
    seen = [kind for kind, event in recorder.seen if event.handle is handle]
    assert seen[-1] == "task_succeeded"
    gate.release(later_pid, "done")
    assert later.result(timeout=PATIENCE_S) == "done"


def test_the_close_is_the_last_event_and_bears_the_report(make_manager, recorder):
    manager = make_manager(observer=recorder)
    for number in range(20):
        manager.run(plain.square, number)
    report = manager.close()
    kind, event = recorder.seen[-1]
    assert kind == "manager_closed"
    assert event.report == report
    assert (event.task, event.handle, event.attempt) == (None, None, None)
    assert len(recorder.events("manager_closed")) == 1


def test_every_event_has_reached_its_observer_after_the_close(make_manager, recorder):
    manager = make_manager(observer=recorder)
    handles = [manager.run(plain.square, number) for number in range(300)]
    manager.close()
    for handle in handles:
        assert recorder.kinds(handle) == ["task_added", "task_started", "task_succeeded"]


def stop_if_told(address: Address | None, value: int) -> int:
    """Stop at the gate if there is one; else be short."""
    return value if address is None else stop_at_gate(address, value)


def sent_ahead(manager, gate, max_workers, calls):
    """Return the handles of `calls` of `stop_if_told`, which were queued before any worker was free for them."""
    for number in range(300):
        manager.run(stop_if_told, None, number)  # so short that they are sent ahead
    manager.wait()
    for _ in range(max_workers):
        manager.run(stop_at_gate, gate.address)  # another function: theirs is still thought to be short
    holding = [gate.wait_for_arrival() for _ in range(max_workers)]
    handles = [manager.run(stop_if_told, *call) for call in calls]
    for pid in holding:
        gate.release(pid)
    return handles


def test_a_start_is_told_once_and_by_the_process_that_ran_it(make_manager, recorder, gate):
    """What waits in a worker's pipe behind a task that turns out long is given to another worker."""
    manager = make_manager(max_workers=2, observer=recorder)
    calls = [(gate.address, "long"), *((None, number) for number in range(60))]
    long, *behind = sent_ahead(manager, gate, 2, calls)
    assert [handle.result(timeout=PATIENCE_S) for handle in behind] == list(range(60))
    assert recorder.kinds(long) == ["task_added", "task_started"]
    gate.release(gate.wait_for_arrival())
    manager.close()
    pids = {event.handle: event.pid for event in recorder.events("task_started")}
    for handle in (long, *behind):
        assert recorder.kinds(handle) == ["task_added", "task_started", "task_succeeded"]
        assert pids[handle] == handle.attempts[0].pid


def test_what_waits_behind_a_running_task_has_not_started(make_manager, recorder, gate):
    manager = make_manager(max_workers=1, observer=recorder)
    batch = sent_ahead(manager, gate, 1, [(gate.address, number) for number in range(10)])
    gate.wait_for_arrival()
    assert batch[0].running()
    assert [recorder.kinds(handle) for handle in batch[1:]] == [["task_added"]] * 9
    gate.open()
    manager.close()
    assert all(recorder.kinds(handle)[1:] == ["task_started", "task_succeeded"] for handle in batch)


def test_a_cancelled_task_that_waited_in_a_pipe_never_started(make_manager, recorder, gate):
    manager = make_manager(max_workers=1, observer=recorder)
    batch = sent_ahead(manager, gate, 1, [(gate.address, number) for number in range(10)])
    gate.wait_for_arrival()
    assert batch[1].cancel()
    gate.open()
    manager.close()
    assert recorder.kinds(batch[1]) == ["task_added", "task_cancelled"]


def test_a_start_that_came_to_nothing_is_not_told_twice(make_manager, recorder):
    manager = make_manager(max_workers=1, observer=recorder)
    pid = manager.run(plain.own_pid).result(timeout=PATIENCE_S)
    os.kill(pid, signal.SIGSTOP)
    handle = manager.run(plain.square, 3)  # goes to that worker, which never comes to it
    os.kill(pid, signal.SIGKILL)
    assert handle.result(timeout=PATIENCE_S) == 9
    manager.close()
    assert recorder.kinds(handle) == ["task_added", "task_started", "task_succeeded"]
    assert len(handle.attempts) == 1


def test_all_observers_are_told(make_manager):
    several = [Recorder() for _ in range(3)]
    manager = make_manager(observer=several)
    handle = manager.run(plain.nothing)
    manager.close()
    assert [observer.kinds(handle) for observer in several] == [["task_added", "task_started", "task_succeeded"]] * 3


def test_observers_are_called_in_one_thread_which_is_nobody_elses(make_manager, recorder):
    manager = make_manager(observer=recorder)
    for number in range(20):
        manager.run(failing.fail_if_negative, number - 10)
    manager.close()
    assert len(recorder.threads) == 1
    assert threading.get_ident() not in recorder.threads


def test_an_event_is_frozen(make_manager, recorder):
    make_manager(observer=recorder).run(plain.nothing)
    (event,) = recorder.wait_for("task_succeeded")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.attempt = 5


class Raising(Observer):
    """Raises in every method."""

    def _raise(self, event):
        raise RuntimeError("this observer is broken")

    on_task_added = on_task_started = on_task_succeeded = on_task_failed = on_task_retrying = _raise
    on_process_started = on_process_exited = on_manager_closed = on_task_cancelled = _raise


def test_a_raising_observer_harms_nobody(make_manager, recorder):
    manager = make_manager(observer=[Raising(), recorder])
    handle = manager.run(plain.square, 3)
    failed = manager.run_task(Task(failing.fail, retry=2))
    assert handle.result(timeout=PATIENCE_S) == 9
    assert isinstance(failed.exception(timeout=PATIENCE_S), Flaky)
    assert manager.close().is_clean
    assert recorder.kinds(handle) == ["task_added", "task_started", "task_succeeded"]
    assert recorder.seen[-1][0] == "manager_closed"


class Blocking(Recorder):
    """Sits in its first event until told to go on."""

    def __init__(self):
        super().__init__()
        self.is_blocked = threading.Event()
        self.may_go_on = threading.Event()

    def on_task_added(self, event):
        self.is_blocked.set()
        self.may_go_on.wait(PATIENCE_S)
        self.note("task_added", event)


def test_a_slow_observer_slows_no_task(make_manager):
    slow = Blocking()
    manager = make_manager(observer=slow)
    handles = [manager.run(plain.square, number) for number in range(100)]
    failed = manager.run_task(Task(failing.fail, retry=2))
    assert slow.is_blocked.wait(PATIENCE_S)
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [number**2 for number in range(100)]
    assert isinstance(failed.exception(timeout=PATIENCE_S), Flaky)
    assert not any(kind.startswith("task") for kind, _ in slow.seen)
    slow.may_go_on.set()
    manager.close()
    for handle in handles:
        assert slow.kinds(handle) == ["task_added", "task_started", "task_succeeded"]


def test_an_observer_may_use_the_manager_and_wait_for_it(make_manager):
    answers = []
    has_answered = threading.Event()

    class Asking(Observer):
        def on_task_failed(self, event):
            assert event.handle.done()
            answers.append(manager.run(plain.square, 7).result(timeout=PATIENCE_S))
            has_answered.set()

    manager = make_manager(observer=Asking())
    manager.run(failing.fail)
    assert has_answered.wait(PATIENCE_S)
    assert answers == [49]


# -- ready-made ones --------------------------------------------------------------------------------------


def test_a_callback_observer_calls_plain_functions(make_manager):
    failed, succeeded = [], []
    observer = CallbackObserver(on_task_failed=failed.append, on_task_succeeded=succeeded.append)
    manager = make_manager(observer=observer)
    manager.run(failing.fail)
    manager.run(plain.square, 2)
    manager.close()
    assert [type(event.error) for event in failed] == [Flaky]
    assert [event.result for event in succeeded] == [4]


def test_a_callback_observer_refuses_names_that_are_no_event():
    with pytest.raises(TypeError):
        CallbackObserver(on_task_exploded=print)


@pytest.fixture
def lines():
    """What reaches loguru, as records."""
    from loguru import logger

    records = []
    sink = logger.add(lambda message: records.append(message.record), level="DEBUG")
    yield records
    logger.remove(sink)


def test_a_loguru_observer_writes_events(make_manager, lines):
    manager = make_manager(observer=LoguruObserver())
    manager.run_task(Task(failing.fail, args=("out of paper",), name="printing", retry=2, meta={"desk": 4}))
    manager.run_task(Task(plain.square, args=(2,), name="counting"))
    manager.close()
    errors = [line for line in lines if line["level"].name == "ERROR"]
    warnings = [line for line in lines if line["level"].name == "WARNING"]
    assert len(errors) == 1
    assert "printing" in errors[0]["message"]
    assert "out of paper" in errors[0]["message"]
    assert errors[0]["extra"]["task"] == "printing"
    assert any("printing" in line["message"] for line in warnings)
    assert any("counting" in line["message"] for line in lines)


def test_a_loguru_observer_takes_a_logger(make_manager, lines):
    from loguru import logger

    manager = make_manager(observer=LoguruObserver(logger.bind(service="billing")))
    manager.run(failing.fail)
    manager.close()
    assert any(line["extra"].get("service") == "billing" for line in lines)


def test_managers_do_not_mix_their_events(make_manager):
    here, there = Recorder(), Recorder()
    first = make_manager(max_workers=1, observer=here)
    second = make_manager(max_workers=1, observer=there)
    handles = first.run(plain.square, 2), second.run(plain.square, 3)
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [4, 9]
    first.close()
    second.close()
    assert (here.kinds(handles[1]), there.kinds(handles[0])) == ([], [])


def test_a_manager_without_observers_works():
    with Manager(max_workers=1, observer=[]) as manager:
        assert manager.run(plain.square, 2).result(timeout=PATIENCE_S) == 4


def test_the_close_is_told_where_no_thread_can_be_started(monkeypatch, make_manager, recorder):
    # As while the interpreter exits, from Python 3.12 on.
    def start(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    make_manager(observer=recorder).close()
    assert [kind for kind, _ in recorder.seen] == ["manager_closed"]


def test_the_close_of_a_manager_that_a_script_leaves_unused_is_told(tmp_path):
    ended = run(
        """
        from procbackground import Manager
        from procbackground.observers import Observer

        class Printing(Observer):
            def on_manager_closed(self, event):
                print("closed")

        if __name__ == "__main__":
            manager = Manager(1, observer=Printing())
        """,
        folder=tmp_path,
    )
    assert (ended.stdout, ended.stderr) == ("closed\n", "")


@pytest.mark.parametrize("observer", [print, 5, lambda event: None, {"on_task_failed": print}])
def test_what_has_no_method_of_an_observer_is_refused(observer):
    with pytest.raises((TypeError, ValueError), match="observer"):
        Manager(observer=observer)
