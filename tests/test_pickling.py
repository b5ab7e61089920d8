"""Arguments, functions and results that are pickled, and the errors for those that cannot be."""

from __future__ import annotations

import functools
import os
import pickle
import threading

import pytest

from procbackground import Outcome, SerializationError, Task
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, gated, pickling, plain
from tests.support.tasks.pickling import Counted, LoadsOnlyElsewhere, LoadsOnlyIn, LoadsSlowly, Refuses
from tests.support.tasks.plain import Multiplier


def test_a_lambda_crosses(manager):
    assert manager.run(lambda x: x + 1, 4).result(timeout=PATIENCE_S) == 5


def test_a_closure_crosses(manager):
    factor = 6

    def times(x):
        return factor * x

    assert manager.run(times, 7).result(timeout=PATIENCE_S) == 42


def test_a_recursive_closure_crosses(manager):
    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    assert manager.run(factorial, 5).result(timeout=PATIENCE_S) == 120


def test_a_partial_of_a_lambda_crosses(manager):
    assert manager.run(functools.partial(lambda a, b: a - b, 9), 4).result(timeout=PATIENCE_S) == 5


def test_a_class_made_in_a_function_crosses_both_ways(manager):
    class Point:
        def __init__(self, x):
            self.x = x

        def doubled(self):
            return Point(2 * self.x)

    came = manager.run(Point(4).doubled).result(timeout=PATIENCE_S)
    assert came.x == 8


def test_a_lambda_as_argument_and_as_result_crosses(manager):
    came = manager.run(plain.echo, lambda x: x * 3).result(timeout=PATIENCE_S)
    assert came(5) == 15


def test_a_bound_methods_object_is_a_snapshot(make_manager, gate):
    manager = make_manager(max_workers=1)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    multiplier = Multiplier(3)
    handle = manager.run(multiplier.times, 2)
    multiplier.factor = 100
    gate.open()
    assert handle.result(timeout=PATIENCE_S) == 6


def test_the_same_method_of_a_changed_object_is_sent_anew(manager):
    multiplier = Multiplier(3)
    assert manager.run(multiplier.times, 2).result(timeout=PATIENCE_S) == 6
    multiplier.factor = 100
    assert manager.run(multiplier.times, 2).result(timeout=PATIENCE_S) == 200


def test_a_changed_closure_is_sent_anew(manager):
    factor = 1

    def times(x):
        return factor * x

    assert manager.run(times, 5).result(timeout=PATIENCE_S) == 5
    factor = 10
    assert manager.run(times, 5).result(timeout=PATIENCE_S) == 50


def test_arguments_are_pickled_once_and_by_the_caller(manager):
    counted = Counted()
    handle = manager.run_task(Task(failing.mishap_with, args=(3, counted), retry=3))
    assert handle.result(timeout=PATIENCE_S) == 3
    assert counted.pickled_by == [threading.get_ident()]


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((1, threading.Lock()), {}, ["argument", "1", "lock"]),
        (({"a": [0, threading.Lock()]},), {}, ["argument", "0", "lock", "['a'][1]"]),
        ((1,), {"guard": threading.Lock()}, ["argument", "guard", "lock"]),
        ((Refuses(),), {}, ["argument", "Refuses", "this object refuses"]),
        (((number for number in range(3)),), {}, ["argument", "generator"]),
    ],
    ids=["positional", "nested", "keyword", "own __reduce__", "generator"],
)
def test_an_argument_that_cannot_cross_is_named_at_the_handle(manager, args, kwargs, words):
    handle = manager.run(plain.echo, *args, **kwargs)  # raises nothing
    error = handle.exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    assert isinstance(error, pickle.PicklingError)
    for word in words:
        assert word in str(error)
    assert error.task is handle.task
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4


def test_a_function_that_cannot_cross_is_named_at_the_handle(manager):
    lock = threading.Lock()

    def guarded():
        return lock.locked()

    error = manager.run(guarded).exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    for word in ("function", "lock"):
        assert word in str(error)


def test_a_bound_method_that_cannot_cross_is_named(manager):
    error = manager.run(threading.Event().wait).exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    assert "function" in str(error)


def test_a_result_that_cannot_cross_is_named(manager):
    handle = manager.run(failing.return_a_lock)
    error = handle.exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    for word in ("result", "lock", "['inner'][1]"):
        assert word in str(error)
    assert (error.task, error.attempt, error.pid) == (handle.task, 1, handle.attempts[0].pid)
    assert handle.attempts[0].outcome == Outcome.NOT_SERIALIZED
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4


def test_a_result_that_cannot_cross_does_not_cost_the_process(make_manager):
    manager = make_manager(max_workers=1)
    pid = manager.run(os.getpid).result(timeout=PATIENCE_S)
    manager.run(failing.return_a_lock).exception(timeout=PATIENCE_S)
    assert manager.run(os.getpid).result(timeout=PATIENCE_S) == pid


def test_an_argument_that_does_not_load_in_the_child_fails_its_task_alone(manager):
    others = [manager.run(plain.square, number) for number in range(4)]
    error = manager.run(plain.echo, LoadsOnlyIn(os.getpid())).exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    assert "argument" in str(error)
    assert "this object does not load here" in str(error)
    assert [handle.result(timeout=PATIENCE_S) for handle in others] == [0, 1, 4, 9]


def test_a_result_that_does_not_load_in_the_parent_fails_its_task_alone(manager, gate):
    neighbour = manager.run(gated.stop_then_do, gate.address)
    pid = gate.wait_for_arrival()
    handle = manager.run(pickling.return_unloadable, os.getpid())
    queued = [manager.run(plain.square, number) for number in range(6)]
    error = handle.exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    assert "result" in str(error)
    assert "this object does not load here" in str(error)
    assert [other.result(timeout=PATIENCE_S) for other in queued] == [number**2 for number in range(6)]
    gate.release(pid, "fine")
    assert neighbour.result(timeout=PATIENCE_S) == "fine"


def test_a_result_that_loads_slowly_holds_up_nobody_else(manager):
    pickling.may_load.clear()
    pickling.is_loading.clear()
    slow = manager.run(pickling.return_slow_loader, os.getpid())
    try:
        # A lazy manager may load the value only in `result`, so somebody has to ask for it.
        asking = threading.Thread(target=slow.result, args=(PATIENCE_S,))
        asking.start()
        assert pickling.is_loading.wait(PATIENCE_S)
        others = [manager.run(plain.square, number) for number in range(6)]
        assert [other.result(timeout=10) for other in others] == [number**2 for number in range(6)]
    finally:
        pickling.may_load.set()
        asking.join(PATIENCE_S)
    assert slow.result(timeout=PATIENCE_S) == "loaded"


def test_slow_loading_arguments_are_the_childs_affair(manager):
    assert manager.run(plain.echo, LoadsSlowly(0)).result(timeout=PATIENCE_S) == "loaded"


def test_an_argument_too_deep_to_pickle_is_named(manager):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    error = manager.run(plain.echo, deep).exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    while deep:  # taken apart by hand: freeing it at once would recurse
        deep = deep.pop()


def test_what_loads_elsewhere_only_can_still_travel_to_the_child(manager):
    handle = manager.run(plain.kind_of, LoadsOnlyElsewhere(os.getpid()))
    assert handle.result(timeout=PATIENCE_S) == "LoadsOnlyElsewhere"


def test_many_bad_ones_do_not_disturb_the_good(manager):
    handles = []
    for number in range(60):
        fn = (plain.square, failing.return_a_lock, plain.echo)[number % 3]
        args = ((number,), (), (Refuses(),))[number % 3]
        handles.append(manager.run(fn, *args))
    for number, handle in enumerate(handles):
        if number % 3 == 0:
            assert handle.result(timeout=PATIENCE_S) == number**2
        else:
            assert isinstance(handle.exception(timeout=PATIENCE_S), SerializationError)


def test_an_error_of_a_failed_task_can_itself_be_pickled(manager):
    error = manager.run(failing.exit_hard, 3).exception(timeout=PATIENCE_S)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.exit_code, copy.pid, copy.attempt, str(copy)) == (3, error.pid, 1, str(error))


class Holder:
    def __init__(self, part):
        self.part = part

    def go(self):
        return 1


def test_managers_and_handles_are_refused_with_what_to_do_instead(manager):
    def error_of(task):
        return str(manager.run_task(task).exception(PATIENCE_S))

    is_refused = "Manager, at {} (a Manager belongs to the process that made it; a task can make one of its own)"
    assert is_refused.format(".__self__.part[0]") in error_of(Task(Holder([manager]).go))
    assert is_refused.format("closing over manager") in error_of(Task(lambda: manager.stats()))
    error = error_of(Task(plain.square, args=(manager.run(plain.square, 2),)))
    assert "argument 0 cannot be pickled: procbackground.handle.TaskHandle (a TaskHandle belongs to" in error
    assert "pass its result()" in error
