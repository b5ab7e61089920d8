"""A thousand tasks, some of which raise or kill their process: each is accounted for."""

from __future__ import annotations

from procbackground import WorkerDiedError
from tests.support.facts import is_gone
from tests.support.recorder import Recorder
from tests.support.tasks import failing, plain
from tests.support.tasks.failing import Flaky


def test_a_thousand_tasks_of_which_a_fifth_fail_are_all_accounted_for(make_manager):
    recorder = Recorder()
    manager = make_manager(observer=recorder)
    handles = []
    for number in range(1000):
        if number % 10 == 3:
            handles.append(manager.run(failing.exit_hard, 7))
        elif number % 10 == 6:
            handles.append(manager.run(failing.fail, f"number {number}"))
        else:
            handles.append(manager.run(plain.square, number))
    report = manager.close(timeout=60)
    assert report.is_clean
    results = deaths = errors = 0
    for number, handle in enumerate(handles):
        error = handle.exception(timeout=0)
        assert len(handle.attempts) == 1
        if number % 10 == 3:
            assert isinstance(error, WorkerDiedError)
            assert (error.exit_code, error.task) == (7, handle.task)
            deaths += 1
        elif number % 10 == 6:
            assert isinstance(error, Flaky)
            assert str(error) == f"number {number}"
            errors += 1
        else:
            assert error is None
            assert handle.result() == number**2
            results += 1
    assert (results, deaths, errors) == (800, 100, 100)
    stats = manager.stats()
    assert (stats.added, stats.succeeded, stats.failed, stats.cancelled) == (1000, 800, 200, 0)
    assert (stats.queued, stats.running) == (0, 0)
    assert len(recorder.events("task_succeeded")) == 800
    assert len(recorder.events("task_failed")) == 200
    started = [event.pid for event in recorder.events("process_started")]
    assert len(started) >= 101
    assert all(is_gone(pid) for pid in started)


def test_every_task_succeeds_in_the_end_with_a_policy(make_manager):
    manager = make_manager(retry=2)
    hows = ["raises", "exits", "is killed", "returns a lock"]
    handles = [manager.run(failing.mishap_before, 2, hows[number % 4]) for number in range(60)]
    assert [handle.result(timeout=60)[0] for handle in handles] == [2] * 60
    assert all(len({attempt.pid for attempt in handle.attempts}) == 2 for handle in handles)
    assert manager.stats().retried == 60
