"""One-off tasks: what `run`, `submit` and `run_task` promise, and what `stats` and `processes` report of them."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import threading
import time

import pytest

import procbackground
from procbackground import Manager, Task, TaskType, UnknownTaskTypeError
from tests.support.facts import child_pids, wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.recorder import Recorder
from tests.support.tasks import failing, plain, surroundings
from tests.support.tasks.plain import Multiplier


def test_run_returns_a_handle_with_the_result(manager):
    assert manager.run(pow, 2, 10).result(timeout=PATIENCE_S) == 1024


def test_submit_is_run(manager):
    assert manager.submit(pow, 2, exp=10).result(timeout=PATIENCE_S) == 1024


def test_run_task_runs_a_task_with_its_arguments(manager):
    task = Task(plain.keywords, kwargs={"a": 1, "b": [2]})
    assert manager.run_task(task).result(timeout=PATIENCE_S) == {"a": 1, "b": [2]}


def test_a_task_runs_in_another_process(manager):
    assert manager.run(os.getpid).result(timeout=PATIENCE_S) != os.getpid()


def test_what_is_larger_than_a_pipe_costs_no_worker(make_manager):
    manager = make_manager(max_workers=1)
    pids = {manager.run(plain.own_pid).result(timeout=PATIENCE_S) for _ in range(3)}
    for size in (65_536, 262_144, 1_000_000) * 7:  # a pipe holds 64 KiB
        value = os.urandom(size)
        assert manager.run(plain.echo, value).result(timeout=PATIENCE_S) == value
    pids.add(manager.run(plain.own_pid).result(timeout=PATIENCE_S))
    assert len(pids) == 1
    assert manager.stats().respawned == 0


@pytest.mark.parametrize("name", ["fn", "self", "task", "timeout", "retry", "priority", "deadline", "name"])
def test_no_option_hides_among_the_users_own_keywords(manager, name):
    assert manager.run(plain.keywords, **{name: 1}).result(timeout=PATIENCE_S) == {name: 1}


@pytest.mark.parametrize(
    "value",
    [
        None,
        False,
        0,
        "",
        "text",
        b"bytes",
        1.5,
        [1, [2]],
        {"a": (1, 2)},
        {3, 4},
        range(5),
        int,
        len,
        TaskType.LOOP,
    ],
    ids=repr,
)
def test_values_come_back_as_they_went(manager, value):
    assert manager.run(plain.echo, value).result(timeout=PATIENCE_S) == value


@pytest.mark.parametrize("size", [4095, 65_536, 65_537, 131_072, 1_000_003, 32 << 20])
def test_payloads_of_any_size_cross_both_ways(manager, size):
    sent = os.urandom(min(size, 4096)) + bytes(size)
    came = manager.run(plain.echo, sent).result(timeout=PATIENCE_S)
    assert came == sent


def test_arrays_cross_both_ways(manager):
    numpy = pytest.importorskip("numpy")
    sent = numpy.arange(300_000, dtype="int64")
    came = manager.run(operator.mul, sent, 2).result(timeout=PATIENCE_S)
    assert (came == sent * 2).all()


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (functools.partial(plain.add, 5), 12),
        (Multiplier(3).times, 21),
        (Multiplier(4), 28),
        (Multiplier.double, 14),
        (Multiplier.name_and, ("Multiplier", 7)),
        (lambda x: x + 1, 8),
        (str, "7"),
        ("abcdefgh".__getitem__, "h"),
    ],
    ids=[
        "partial",
        "bound method",
        "callable object",
        "static method",
        "class method",
        "lambda",
        "class",
        "builtin",
    ],
)
def test_anything_callable_can_be_a_task(manager, fn, expected):
    assert manager.run(fn, 7).result(timeout=PATIENCE_S) == expected


def test_many_tasks_all_come_back(manager):
    handles = [manager.run(plain.square, number) for number in range(1000)]
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [number**2 for number in range(1000)]


# -- Task -----------------------------------------------------------------------------------------------


def test_a_task_is_frozen():
    task = Task(pow, args=(2, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.priority = 5  # type: ignore[misc]


def test_a_task_has_the_documented_defaults():
    task = Task(pow)
    assert (task.args, dict(task.kwargs), task.type, dict(task.meta)) == ((), {}, TaskType.ONE_OFF, {})
    assert (task.priority, task.interval, task.isolate) == (0, 0, False)
    assert (task.retry, task.timeout, task.deadline, task.stalled_threshold, task.memory_limit) == (None,) * 5


def test_a_task_is_reusable(manager):
    task = Task(plain.add, args=(1, 2))
    handles = [manager.run_task(task) for _ in range(3)]
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [3, 3, 3]
    assert len(set(map(id, handles))) == 3


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (plain.add, "add"),
        (Multiplier.times, "Multiplier.times"),
        (Multiplier(2).times, "Multiplier.times"),
        (functools.partial(plain.add, 1), "add"),
    ],
    ids=["function", "function of a class", "bound method", "partial"],
)
def test_a_task_is_named_after_its_function(fn, name):
    assert Task(fn).name == name


def test_a_given_name_counts():
    assert Task(plain.add, name="sum").name == "sum"


def test_what_cannot_be_called_is_no_task():
    with pytest.raises(TypeError):
        Task(42)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": -1}, {"deadline": 0}, {"interval": -1}])
def test_nonsensical_durations_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Task(pow, **options)


@pytest.mark.parametrize("size", ["much", "-5MB", 0, -1])
def test_nonsensical_sizes_are_refused(size):
    with pytest.raises(ValueError, match="size"):
        Task(pow, memory_limit=size)


def test_an_unknown_task_type_is_refused(manager):
    with pytest.raises(UnknownTaskTypeError):
        manager.run_task(Task(pow, args=(2, 2), type="now and then"))  # type: ignore[arg-type]
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4


def test_meta_is_never_sent_to_the_child(manager):
    task = Task(plain.add, args=(1, 2), meta={"lock": threading.Lock()})  # it could not be sent
    assert manager.run_task(task).result(timeout=PATIENCE_S) == 3


def test_a_handle_knows_its_task(manager):
    task = Task(plain.add, args=(1, 2))
    handle = manager.run_task(task)
    assert handle.task is task
    assert handle.result(timeout=PATIENCE_S) == 3


def test_a_handle_of_run_has_a_task_too(manager):
    handle = manager.run(plain.keywords, a=1)
    assert (handle.task.fn, handle.task.args, dict(handle.task.kwargs)) == (plain.keywords, (), {"a": 1})
    assert handle.task.name == "keywords"
    assert handle.result(timeout=PATIENCE_S) == {"a": 1}


# -- processes ------------------------------------------------------------------------------------------


def test_a_warm_process_is_reused(make_manager):
    manager = make_manager(max_workers=1)
    pids = {manager.run(os.getpid).result(timeout=PATIENCE_S) for _ in range(20)}
    assert len(pids) == 1


def test_no_more_than_max_workers_run_at_once(make_manager, gate):
    manager = make_manager(max_workers=2)
    handles = [manager.run(stop_at_gate, gate.address) for _ in range(5)]
    for _ in range(4):
        pid = gate.wait_for_arrival()
        at_work = [process for process in manager.processes() if process.task is not None]
        assert len(at_work) <= 2
        assert manager.stats().running <= 2
        gate.release(pid)
    gate.open()
    for handle in handles:
        handle.result(timeout=PATIENCE_S)


def test_max_workers_run_side_by_side(make_manager, gate):
    manager = make_manager(max_workers=3)
    handles = [manager.run(stop_at_gate, gate.address) for _ in range(3)]
    assert len({gate.wait_for_arrival() for _ in range(3)}) == 3
    gate.open()
    for handle in handles:
        handle.result(timeout=PATIENCE_S)


def test_an_isolated_attempt_has_a_process_of_its_own(make_manager):
    manager = make_manager(max_workers=1)
    before = manager.run(os.getpid).result(timeout=PATIENCE_S)
    isolated = [manager.run_task(Task(os.getpid, isolate=True)).result(timeout=PATIENCE_S) for _ in range(3)]
    after = manager.run(os.getpid).result(timeout=PATIENCE_S)
    assert len(set(isolated)) == 3
    assert not set(isolated) & {before, after}


def test_isolated_tasks_keep_to_max_workers(make_manager, gate):
    manager = make_manager(max_workers=1)
    handles = [manager.run_task(Task(stop_at_gate, args=(gate.address,), isolate=True)) for _ in range(3)]
    for _ in range(3):
        pid = gate.wait_for_arrival()
        assert len([process for process in manager.processes() if process.task is not None]) == 1
        assert not gate.has_arrivals()
        gate.release(pid)
    for handle in handles:
        handle.result(timeout=PATIENCE_S)


def test_max_tasks_per_child_renews_the_process(make_manager):
    manager = make_manager(max_workers=1, max_tasks_per_child=2)
    pids = [manager.run(os.getpid).result(timeout=PATIENCE_S) for _ in range(6)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]


def test_the_initializer_runs_in_every_process_before_its_first_task(make_manager, gate):
    manager = make_manager(initializer=surroundings.initialize, initargs=(1, "two"))
    blocked = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    assert manager.run(surroundings.initialized).result(timeout=PATIENCE_S) == [(1, "two")]
    gate.release(pid)
    blocked.result(timeout=PATIENCE_S)
    assert [manager.run(surroundings.initialized).result(timeout=PATIENCE_S) for _ in range(4)] == [[(1, "two")]] * 4


def test_a_failing_initializer_fails_the_tasks_and_starts_no_storm(make_manager):
    recorder = Recorder()
    manager = make_manager(initializer=failing.fail, initargs=("bad start",), observer=recorder)
    handles = [manager.run(pow, 2, 2) for _ in range(10)]
    for handle in handles:
        with pytest.raises(procbackground.InitializerError, match="bad start"):
            handle.result(timeout=PATIENCE_S)
    manager.close(timeout=PATIENCE_S)
    assert len(recorder.events("process_started")) + len(recorder.events("process_exited")) <= 12


@pytest.mark.parametrize("how", ["raises", "exits"])
def test_a_manager_whose_workers_cannot_start_takes_no_further_task(make_manager, how):
    initializer, initargs = (failing.fail, ("bad start",)) if how == "raises" else (os._exit, (3,))
    manager = make_manager(max_workers=1, initializer=initializer, initargs=initargs)
    first = manager.run(pow, 2, 2)
    assert isinstance(first.exception(timeout=PATIENCE_S), procbackground.InitializerError)
    for give in (lambda: manager.run(pow, 2, 2), lambda: manager.run_task(Task(pow, args=(2, 2), isolate=True))):
        with pytest.raises(procbackground.InitializerError):
            give()


def test_an_unused_manager_starts_no_process():
    before = child_pids()
    with Manager(max_workers=8) as manager:
        assert manager.processes() == []
        assert child_pids() == before


@pytest.mark.parametrize("count", [0, -1])
def test_max_workers_must_be_positive(count):
    with pytest.raises(ValueError, match="max_workers"):
        Manager(max_workers=count)


def test_processes_tells_what_each_one_does(manager, gate):
    started = time.time()
    handle = manager.run_task(Task(stop_at_gate, args=(gate.address,), name="held"))
    pid = gate.wait_for_arrival()
    (info,) = [process for process in manager.processes() if process.pid == pid]
    assert info.task is handle.task
    assert info.attempt == 1
    assert started - 1 <= info.since <= time.time() + 1
    assert info.rss > 1_000_000
    assert info.cpu_percent >= 0
    gate.open()
    handle.result(timeout=PATIENCE_S)


def test_an_idle_process_has_no_task(make_manager):
    manager = make_manager(max_workers=1)
    pid = manager.run(os.getpid).result(timeout=PATIENCE_S)
    wait_until(lambda: any(one.pid == pid and one.task is None for one in manager.processes()), "it is idle")


# -- order ----------------------------------------------------------------------------------------------


def test_a_higher_priority_goes_first_and_equal_ones_in_order(make_manager, gate, recorder):
    manager = make_manager(max_workers=1, observer=recorder)
    blocker = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    wanted = [(0, "a"), (5, "b"), (-1, "c"), (0, "d"), (5, "e")]
    handles = [manager.run_task(Task(plain.nothing, name=name, priority=level)) for level, name in wanted]
    gate.open()
    for handle in [blocker, *handles]:
        handle.result(timeout=PATIENCE_S)
    names = [event.task.name for event in recorder.wait_for("task_started", 6)]
    assert names[1:] == ["b", "e", "a", "d", "c"]


def test_arguments_are_a_snapshot(make_manager, gate):
    manager = make_manager(max_workers=1)
    blocker = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    numbers = [1, 2, 3]
    handle = manager.run(sum, numbers)
    numbers.append(100)
    gate.open()
    blocker.result(timeout=PATIENCE_S)
    assert handle.result(timeout=PATIENCE_S) == 6


def test_run_task_waits_while_max_pending_are_queued(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending=2)
    blocker = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    handles = []

    def produce() -> None:
        for number in range(10):
            handles.append(manager.run(plain.square, number))  # noqa: PERF401  # one at a time is the point

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: manager.stats().queued == 2, "the queue is full")
    producer.join(0.2)  # time enough for a producer that does not wait
    assert producer.is_alive()
    assert len(handles) == 2
    assert manager.stats().queued == 2
    gate.open()
    producer.join(PATIENCE_S)
    blocker.result(timeout=PATIENCE_S)
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [number**2 for number in range(10)]


def test_a_waiting_producer_is_told_when_the_manager_closes(make_manager, gate):
    manager = make_manager(max_workers=1, max_pending=1, grace=1.0)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    manager.run(plain.nothing)
    told = []

    def produce() -> None:
        try:
            manager.run(plain.nothing)
        except procbackground.ManagerClosedError as error:
            told.append(error)

    producer = threading.Thread(target=produce)
    producer.start()
    manager.close(timeout=0)
    producer.join(PATIENCE_S)
    assert len(told) == 1


# -- wait, counts ---------------------------------------------------------------------------------------


def test_wait_of_an_idle_manager_returns_at_once(manager):
    assert manager.wait() is True


def test_wait_blocks_until_every_one_off_is_done(make_manager, gate):
    manager = make_manager(max_workers=1)
    handles = [manager.run(stop_at_gate, gate.address) for _ in range(3)]
    gate.wait_for_arrival()
    assert manager.wait(timeout=0.01) is False
    gate.open()
    assert manager.wait(timeout=PATIENCE_S) is True
    assert all(handle.done() for handle in handles)


def test_wait_from_many_threads_returns_in_each(manager, gate):
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    answers = []
    waiting = [threading.Thread(target=lambda: answers.append(manager.wait(PATIENCE_S))) for _ in range(5)]
    for thread in waiting:
        thread.start()
    gate.open()
    for thread in waiting:
        thread.join(PATIENCE_S)
    assert answers == [True] * 5


def test_count_of_counts_tasks_that_have_not_ended(make_manager, gate):
    manager = make_manager(max_workers=1)
    assert manager.count_of(TaskType.ONE_OFF) == 0
    handles = [manager.run(stop_at_gate, gate.address) for _ in range(3)]  # one runs, two are queued
    assert manager.count_of(TaskType.ONE_OFF) == 3
    assert manager.count_of(TaskType.LOOP) == 0
    gate.open()
    for handle in handles:
        handle.result(timeout=PATIENCE_S)
    assert manager.wait(timeout=PATIENCE_S)
    assert manager.count_of(TaskType.ONE_OFF) == 0


def test_stats_count_everything_once(make_manager, gate):
    manager = make_manager(max_workers=1)
    handles = [manager.run(plain.square, 3) for _ in range(4)]
    handles += [manager.run(failing.fail) for _ in range(2)]
    handles.append(manager.run_task(Task(failing.mishap_before, args=(3, "raises"), retry=3)))
    handles.append(manager.run(failing.exit_hard, 1))
    assert manager.wait(timeout=PATIENCE_S)
    blocker = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    doomed = manager.run(plain.nothing)
    stats = manager.stats()
    assert (stats.queued, stats.running) == (1, 1)
    doomed.cancel()
    gate.open()
    blocker.result(timeout=PATIENCE_S)
    assert manager.wait(timeout=PATIENCE_S)
    stats = manager.stats()
    assert (stats.added, stats.succeeded, stats.failed, stats.cancelled) == (10, 6, 3, 1)
    assert (stats.queued, stats.running, stats.retried) == (0, 0, 2)
    assert stats.respawned >= 1
