"""With an observer of task events a map keeps its chunks, and every row has its events, in order, at one handle."""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter

import pytest

from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, plain

ALL = ("task_added", "task_started", "task_succeeded")


def kinds_by_row(recorder):
    """Return the kinds of the events of each row, by the row's arguments; each row has one handle."""
    kinds, handles = {}, {}
    for kind, event in recorder.seen:
        if kind.startswith("task"):
            args = event.task.args
            assert handles.setdefault(args, event.handle) is event.handle
            kinds.setdefault(args, []).append(kind)
    return kinds


def die_once(path: str, number: int) -> int:
    """Kill this process at the number 7, the first time."""
    if number == 7 and not os.path.exists(path):
        with open(path, "w", encoding="ascii"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def stop_at(address, number: int) -> int:
    return stop_at_gate(address, number) if number == 500 else number


class Grumpy:
    """Cannot be pickled where its number is 3."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        if self.number == 3:
            raise ValueError("three is too much")
        return Grumpy, (self.number,)


def number_of(grumpy: Grumpy) -> int:
    return grumpy.number


@pytest.mark.parametrize("options", [{}, {"chunksize": 7}, {"chunksize": 1}, {"chunksize": 9, "buffersize": 3}])
def test_every_row_has_its_events(make_manager, recorder, options):
    manager = make_manager(observer=recorder)
    assert list(manager.map(plain.square, range(1000), **options)) == [number**2 for number in range(1000)]
    manager.close()
    kinds = kinds_by_row(recorder)
    assert sorted(kinds) == [(number,) for number in range(1000)]
    assert {tuple(each) for each in kinds.values()} == {ALL}
    for event in recorder.events("task_succeeded"):
        assert event.handle.done()
        assert event.handle.result() == event.result == event.task.args[0] ** 2
    for event in recorder.events("task_started"):
        assert event.pid == event.handle.attempts[0].pid


def test_quick_rows_still_travel_in_chunks(make_manager, recorder):
    manager = make_manager(observer=recorder)
    assert len(list(manager.map(plain.square, range(20_000)))) == 20_000
    assert manager.stats().added < 2_000
    manager.close()
    assert Counter(kind for kind, _ in recorder.seen)["task_succeeded"] == 20_000


def test_a_row_that_fails_is_retried_with_events_of_its_own(make_manager, recorder):
    manager = make_manager(observer=recorder, retry=2)
    results = manager.map(failing.fail_if_negative, [1, 2, -3, 4, 5], chunksize=5)
    assert list(itertools.islice(results, 2)) == [1, 2]
    with pytest.raises(failing.Flaky):
        next(results)
    manager.close()
    kinds = kinds_by_row(recorder)
    assert kinds.pop((-3,)) == [*ALL[:2], "task_retrying", "task_started", "task_failed"]
    assert {tuple(each) for each in kinds.values()} == {ALL}


def test_a_death_in_a_chunk_starts_no_row_twice_in_one_attempt(make_manager, recorder, tmp_path):
    manager = make_manager(observer=recorder, retry=2)
    path = str(tmp_path / "died")
    assert list(manager.map(die_once, [path] * 20, range(20), chunksize=10)) == list(range(20))
    manager.close()
    kinds = kinds_by_row(recorder)
    assert kinds.pop((path, 7)) == [*ALL[:2], "task_retrying", "task_started", "task_succeeded"]
    assert {tuple(each) for each in kinds.values()} == {ALL}
    assert len(kinds) == 19


def test_a_row_that_cannot_be_pickled_fails_alone(make_manager, recorder):
    manager = make_manager(observer=recorder)
    rows = [Grumpy(number) for number in range(6)]
    results = manager.map(number_of, rows, chunksize=6)
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    with pytest.raises(Exception, match="three is too much"):
        next(results)
    manager.close()
    kinds = kinds_by_row(recorder)
    assert kinds.pop((rows[3],)) == ["task_added", "task_failed"]
    assert len(kinds) == 5
    assert all(each[-1] in ("task_succeeded", "task_cancelled") for each in kinds.values())


@pytest.mark.parametrize("options", [{}, {"chunksize": 50}, {"chunksize": 50, "buffersize": 4}])
def test_a_map_that_is_left_ends_each_row_that_was_added(make_manager, recorder, options):
    manager = make_manager(observer=recorder)
    results = manager.map(failing.fail_if_negative, [1] * 200 + [-1] + [*range(2, 2000)], **options)
    with pytest.raises(failing.Flaky):
        list(results)
    manager.close()
    ends = Counter(kind for kind, _ in recorder.seen)
    ended = ends["task_succeeded"] + ends["task_failed"] + ends["task_cancelled"]
    assert ended == ends["task_added"]
    assert ends["task_failed"] == 1


def test_a_close_that_cuts_a_map_short_ends_each_row(make_manager, recorder, gate):
    manager = make_manager(observer=recorder, grace=0.2)
    manager.map(stop_at, [gate.address] * 5000, range(5000))
    gate.wait_for_arrival()
    manager.close(timeout=0)
    ends = Counter(kind for kind, _ in recorder.seen)
    assert ends["task_added"] == 5000
    assert ends["task_succeeded"] + ends["task_failed"] + ends["task_cancelled"] == 5000
    assert max(Counter(event.handle for kind, event in recorder.seen if kind == "task_started").values()) == 1


def test_a_slow_row_among_quick_ones_is_told_as_started_while_it_runs(make_manager, recorder, gate):
    manager = make_manager(observer=recorder)
    results = manager.map(stop_at, [gate.address] * 1000, range(1000), chunksize=1000)
    pid = gate.wait_for_arrival()

    def starts():
        return [event for event in recorder.events("task_started") if event.task.args[1] == 500]

    wait_until(lambda: len(starts()) == 1, "the row that runs was told as started")
    assert starts()[0].pid == pid
    gate.release(pid, 500)
    assert list(results) == list(range(1000))
    manager.close()
    assert {tuple(each) for each in kinds_by_row(recorder).values()} == {ALL}


def test_a_closed_manager_announces_nothing(make_manager, recorder):
    manager = make_manager(observer=recorder)
    manager.run(plain.nothing).result(timeout=PATIENCE_S)
    manager.close()
    with pytest.raises(RuntimeError):
        manager.map(plain.square, range(100))
    assert len(recorder.events("task_added")) == 1
