"""Progress: many calls make few events, the last one always arrives, in order, and before the task is done."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from procbackground import Progress, Task, TaskType, WorkerDiedError, current
from procbackground._wire import progress as wire
from procbackground.observers import Observer
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.recorder import Recorder
from tests.support.tasks import reporting

REPORTS = [  # and what is kept of them
    ((1,), Progress(1)),
    ((0.25, 1), Progress(0.25, 1)),
    ((3, None, "three"), Progress(3, None, "three")),
    ((3, 4, ""), Progress(3, 4, "")),
    ((2**40, 2**50, "bytes"), Progress(2**40, 2**50, "bytes")),
    ((True, 2.5, 17), Progress(1.0, 2.5, "17")),
    ((-1, float("inf"), "größer 東"), Progress(-1, float("inf"), "größer 東")),
    ((1, 2, "x" * 100_000), Progress(1, 2, "x" * wire.TEXT_LIMIT)),
    ((2**70, 2**80), Progress(2.0**70, 2.0**80)),
]


def test_many_calls_are_few_events_and_the_last_arrives_while_the_task_blocks(make_manager, gate, recorder):
    manager = make_manager(observer=recorder)
    handle = manager.run(reporting.count_then_stop, 20_000, gate.address)
    gate.wait_for_arrival()
    wait_until(lambda: handle.progress == Progress(20_000, 20_000), "the last report is here")
    assert not handle.done()
    told = [event.done for event in recorder.wait_for("task_progress")]
    assert told == sorted(set(told))
    assert len(told) < 2_000


def test_the_last_report_arrives_while_the_task_holds_the_interpreter_lock(manager):
    handle = manager.run(reporting.count_then_hold_the_lock, 100)
    wait_until(lambda: handle.progress == Progress(100, 100), "the last report is here")
    assert not handle.done()


@pytest.mark.parametrize("how", ["killed", "exits", "raises"])
def test_the_last_report_comes_before_the_failure(make_manager, recorder, how):
    manager = make_manager(observer=recorder)
    handle = manager.run(reporting.count_then_die, 1000, how)
    error = handle.exception(timeout=PATIENCE_S)
    assert isinstance(error, ValueError if how == "raises" else WorkerDiedError)
    assert handle.progress == Progress(1000, 1000)
    manager.close()
    assert recorder.events("task_progress")[-1].done == 1000
    assert recorder.kinds(handle)[-2:] == ["task_progress", "task_failed"]


def test_each_of_many_short_tasks_has_its_own_last_report(make_manager):
    manager = make_manager(max_workers=1)
    handles = [manager.run(reporting.count_own, number) for number in range(300)]
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == list(range(300))
    assert [handle.progress for handle in handles] == [Progress(10 * number + 2) for number in range(300)]


def test_the_last_report_of_an_attempt_comes_before_its_retry(make_manager, recorder):
    manager = make_manager(observer=recorder)
    handle = manager.run_task(Task(reporting.count_then_die, args=(500, "killed"), retry=2))
    handle.exception(timeout=PATIENCE_S)
    manager.close()
    kinds = [kind for kind, _ in itertools.groupby(recorder.kinds(handle))]
    assert kinds == [
        "task_added", "task_started", "task_progress", "task_retrying", "task_started", "task_progress", "task_failed",
    ]  # fmt: skip
    attempts = [event.attempt for event in recorder.events("task_progress") if event.done == 500]
    assert attempts == [1, 2]


def test_a_failed_iteration_of_a_loop_comes_after_its_last_report(make_manager, recorder):
    manager = make_manager(observer=recorder)
    loop = manager.run_task(Task(reporting.count_then_die, args=(200, "raises"), type=TaskType.LOOP))
    recorder.wait_for("task_failed", 2)
    manager.cancel()
    seen = [(kind, event) for kind, event in recorder.seen if event.handle is loop]
    for (_, before), (kind, _) in itertools.pairwise(seen):
        if kind == "task_failed":
            assert before.done == 200


@pytest.mark.parametrize(("reported", "kept"), REPORTS)
def test_what_is_reported_is_what_arrives(manager, reported, kept):
    handle = manager.run(reporting.report, *reported)
    handle.result(timeout=PATIENCE_S)
    assert handle.progress == kept
    assert type(handle.progress.done) is type(kept.done)
    assert type(handle.progress.total) is type(kept.total)


@pytest.mark.parametrize("wrong", ["one", None, [1]])
def test_what_is_no_number_is_refused_in_the_task(manager, wrong):
    error = manager.run(reporting.report, wrong).exception(timeout=PATIENCE_S)
    assert isinstance(error, (TypeError, ValueError))
    assert manager.run(reporting.report, 1).exception(timeout=PATIENCE_S) is None


def test_a_report_from_a_fork_of_the_task_does_not_count(manager):
    handle = manager.run(reporting.report_in_fork)
    handle.result(timeout=PATIENCE_S)
    assert handle.progress == Progress(1)


def test_several_threads_of_a_task_may_report(manager):
    handle = manager.run(reporting.count_in_threads, 2000)
    handle.result(timeout=PATIENCE_S)
    assert handle.progress == Progress(2000, 2000, "all")


class Lateness(Observer):
    """Keeps how long each report of a monotonic time took to come."""

    def __init__(self):
        self.seconds = []

    def on_task_progress(self, event):
        self.seconds.append(time.monotonic() - event.done)


def test_a_report_is_here_within_a_tenth_of_a_second(make_manager):
    lateness = Lateness()
    manager = make_manager(observer=lateness)
    manager.run(reporting.report_now_and_then, 60, 0.013).result(timeout=PATIENCE_S)
    manager.close()
    assert len(lateness.seconds) >= 5
    # Not the slowest: the machine may be busy.
    assert sorted(lateness.seconds)[len(lateness.seconds) // 2] < 0.1


def test_a_rows_progress_is_that_of_its_handle(make_manager, gate, recorder):
    manager = make_manager(max_workers=1, observer=recorder)
    results = manager.map(reporting.beat_and_stop, [gate.address] * 10, range(10), chunksize=10)
    pid = gate.wait_for_arrival()
    wait_until(
        lambda: any(event.task.args[1] == event.done == 5 for event in recorder.events("task_progress")),
        "the row that runs reports its progress",
    )
    gate.release(pid, 5)
    assert list(results) == list(range(10))
    assert all(event.task.args[1] == event.done for event in recorder.events("task_progress"))


_held: dict[str, Recorder] = {}  # what tasks of an inline manager use, and could not be pickled


def count_and_wait(times: int) -> float:
    began_s = time.monotonic()
    reporting.count_up(times)
    took_s = time.monotonic() - began_s
    recorder = _held["recorder"]
    wait_until(lambda: recorder.events("task_progress")[-1].done == times, "the last report has come")
    return took_s


def test_inline_many_calls_are_few_events_and_the_last_arrives_while_the_task_blocks(make_manager, recorder):
    _held["recorder"] = recorder
    took_s = make_manager(inline=True, observer=recorder).run(count_and_wait, 20_000).result()
    assert len(recorder.events("task_progress")) <= 2 + took_s / wire.INTERVAL_S


def count_and_fail() -> None:
    reporting.count_up(3)
    raise ValueError


def report_before_and_after_being_cancelled() -> None:
    current().progress(1)
    _held["recorder"].wait_for("task_started", 3)[-1].handle.cancel()
    current().progress(2)


def test_inline_the_last_report_comes_before_the_end_and_none_after_it(make_manager, recorder):
    _held["recorder"] = recorder
    manager = make_manager(inline=True, observer=recorder, retry=2)
    failed = manager.run(count_and_fail)
    cancelled = manager.run(report_before_and_after_being_cancelled)
    manager.close()
    first, second = ["task_started", "task_progress", "task_progress"], ["task_started", "task_progress"]
    assert recorder.kinds(failed) == ["task_added", *first, "task_retrying", *second, "task_failed"]
    assert [each.done for each in recorder.events("task_progress") if each.handle is failed] == [1, 3, 3]
    assert recorder.kinds(cancelled) == ["task_added", *second, "task_cancelled"]
    assert not any(type(thread) is threading.Timer for thread in threading.enumerate())


@pytest.mark.parametrize(("reported", "kept"), REPORTS)
def test_inline_what_is_reported_is_what_arrives(make_manager, reported, kept):
    inline = make_manager(inline=True)
    handle = inline.run(reporting.report, *reported)
    assert handle.progress == kept
    assert type(handle.progress.done) is type(kept.done)
    assert isinstance(inline.run(reporting.report, "one").exception(), TypeError)
