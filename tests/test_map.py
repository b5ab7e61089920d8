"""`map` as Python 3.14's `Executor.map`; an item fails alone, whatever the chunk size."""

from __future__ import annotations

import contextvars
import gc
import inspect
import itertools
import operator
import os
import sys
import threading
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from procbackground import ManagerClosedError, SerializationError, Task, TaskTimeoutError, WorkerDiedError
from procbackground._submit.map.adapting import AdaptingMapper
from procbackground._testing import View
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, gated, pickling, plain, surroundings
from tests.support.tasks.failing import Flaky

language = contextvars.ContextVar("language", default="en")


def taken_until_it_raises(iterator):
    """Return what `iterator` gives before it raises, and the error."""
    came = []
    try:
        for value in iterator:
            came.append(value)  # noqa: PERF402  # what came before the error counts
    except Exception as error:
        return came, error
    return came, None


@pytest.mark.parametrize("chunksize", [1, 2, 7, 100, 1000])
def test_results_come_in_order(manager, chunksize):
    squares = manager.map(plain.square, range(100), chunksize=chunksize)
    assert list(squares) == [number**2 for number in range(100)]


def test_slow_items_do_not_change_the_order(manager):
    pauses = [0.03, 0.0, 0.02, 0.0, 0.01, 0.0]
    assert list(manager.map(plain.pause, pauses)) == pauses


@pytest.mark.parametrize("chunksize", [1, 3])
def test_several_iterables_end_with_the_shortest(manager, chunksize):
    sums = manager.map(operator.add, range(5), itertools.count(10), chunksize=chunksize)
    assert list(sums) == [10, 12, 14, 16, 18]


def test_nothing_gives_nothing(manager):
    assert list(manager.map(plain.square, [])) == []


def test_a_lambda_can_be_mapped(manager):
    assert list(manager.map(lambda x: x + 1, range(20), chunksize=6)) == list(range(1, 21))


@pytest.mark.parametrize("value", [0, -1])
def test_the_chunk_size_must_be_positive(manager, value):
    with pytest.raises(ValueError, match="chunksize"):
        manager.map(plain.square, range(3), chunksize=value)


def test_tasks_start_before_anybody_asks_for_a_result(manager, gate):
    results = manager.map(lambda n, address=gate.address: gated.tell_and_return(address, n), range(2))
    assert {gate.wait_for_label(), gate.wait_for_label()} == {0, 1}
    assert list(results) == [0, 1]


def test_the_input_is_taken_at_once_without_a_buffer_size(manager):
    pulled = []
    results = manager.map(plain.square, (pulled.append(number) or number for number in range(50)))
    assert len(pulled) == 50
    assert len(list(results)) == 50


def test_an_input_that_raises_raises_in_map(manager):
    def numbers():
        yield 1
        raise KeyError("no more")

    with pytest.raises(KeyError):
        list(manager.map(plain.square, numbers()))
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4


# -- an item fails alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 5, 50])
def test_an_item_that_raises_fails_alone(manager, chunksize):
    came, error = taken_until_it_raises(
        manager.map(failing.fail_if_negative, [0, 1, 2, 3, 4, 5, 6, -7, 8, 9], chunksize=chunksize)
    )
    assert came == [0, 1, 2, 3, 4, 5, 6]
    assert isinstance(error, Flaky)
    assert str(error) == "-7 is negative"


@pytest.mark.parametrize("chunksize", [1, 5, 50])
def test_an_item_that_dies_fails_alone(manager, chunksize):
    items = [0, 1, 2, 3, 4, 5, 6, "die", 8, 9]
    came, error = taken_until_it_raises(manager.map(failing.die_if_told, items, chunksize=chunksize))
    assert came == [0, 1, 2, 3, 4, 5, 6]
    assert isinstance(error, WorkerDiedError)
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4


@pytest.mark.parametrize("chunksize", [1, 5])
def test_an_item_that_times_out_fails_alone(make_manager, chunksize):
    manager = make_manager(timeout=0.5, grace=0.5)
    items = [0.0, 0.001, 0.002, 3600.0, 0.003]
    came, error = taken_until_it_raises(manager.map(plain.pause, items, chunksize=chunksize))
    assert came == [0.0, 0.001, 0.002]
    assert isinstance(error, TaskTimeoutError)


@pytest.mark.parametrize("chunksize", [1, 5])
def test_a_heartbeat_does_not_give_an_item_more_time(make_manager, chunksize):
    manager = make_manager(timeout=0.5, grace=0.5)
    results = manager.map(surroundings.beat_for, [0.0, 0.01, 3600.0, 0.0], chunksize=chunksize)
    came, error = taken_until_it_raises(results)
    assert came == [None, None]
    assert isinstance(error, TaskTimeoutError)


@pytest.mark.parametrize("chunksize", [20, 200, None])
def test_items_that_turn_slow_amid_quick_ones_have_their_whole_time_each(make_manager, chunksize):
    """The quick ones share a look at the clock; these take longer together than one may."""
    manager = make_manager(max_workers=1, timeout=0.5)
    seconds = [0.0] * 100 + [0.0, 0.2] * 5 + [0.0] * 50
    assert list(manager.map(plain.pause, seconds, chunksize=chunksize)) == seconds


def test_slow_items_before_a_death_ran_once(manager, gate):
    """They are told before the next one begins, though quick ones came before them in the chunk."""
    items = [None] * 100 + [0, 1, 2, 3, 4, 5, "die"]
    gate.open()
    addresses = itertools.repeat(gate.address)
    results = manager.map(failing.tell_slowly_or_die, addresses, items, chunksize=200)
    came, error = taken_until_it_raises(results)
    assert came == [None] * 100 + [0, 1, 2, 3, 4, 5]
    assert isinstance(error, WorkerDiedError)
    assert [gate.wait_for_label() for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    assert not gate.has_arrivals()


def test_an_item_that_kills_while_it_is_loaded_fails_alone(manager):
    """Of a chunk like those that were done before: nothing tells which item it was."""
    items = [*range(50), *range(10), pickling.KillsOnLoad(), *range(10)]
    came, error = taken_until_it_raises(manager.map(failing.die_if_told, items, chunksize=25))
    assert came == [*range(50), *range(10)]
    assert isinstance(error, WorkerDiedError)


@pytest.mark.parametrize("items", [range(4), range(400)], ids=["at_the_end", "amid_the_chunk"])
def test_a_value_that_kills_while_it_is_pickled_is_charged_to_no_other(make_manager, tmp_path, items):
    """Nothing tells whose value it was: each item finds out for itself, and its own runs again."""
    results = make_manager(max_workers=1).map(
        pickling.kill_once_when_pickled, items, itertools.repeat(str(tmp_path / "killed")), chunksize=len(items)
    )
    assert list(results) == list(items)
    assert (tmp_path / "killed").exists()


@pytest.mark.parametrize("chunksize", [1, 7, None])
def test_an_input_is_not_asked_again_once_it_has_ended(manager, chunksize):
    asked = []

    class Numbers:
        def __iter__(self):
            return self

        def __next__(self):
            asked.append(len(asked))
            if len(asked) > 20:
                raise StopIteration
            return asked[-1]

    assert list(manager.map(plain.square, Numbers(), chunksize=chunksize)) == [number**2 for number in range(20)]
    assert chunksize is not None or len(asked) == 21


@pytest.mark.parametrize("chunksize", [1, 5])
def test_an_item_whose_result_cannot_cross_fails_alone(manager, chunksize):
    came, error = taken_until_it_raises(manager.map(failing.lock_if_none, [1, 2, None, 4], chunksize=chunksize))
    assert came == [1, 2]
    assert "lock" in str(error)


@pytest.mark.parametrize("chunksize", [1, 8, None])
def test_what_raises_and_what_cannot_cross_keep_their_places(manager, chunksize):
    came, error = taken_until_it_raises(manager.map(failing.refuse_or_raise, range(8), chunksize=chunksize))
    assert came == [0, 1]
    assert isinstance(error, SerializationError)


@pytest.mark.parametrize("chunksize", [1, 50, None])
def test_an_item_whose_result_does_not_load_here_fails_alone(manager, chunksize):
    """Others of its chunk were told before it, in partial answers; and it may be in one itself."""
    pids = [None] * 25 + [os.getpid()] + [None] * 24
    results = manager.map(pickling.return_unloadable_if_told, range(50), pids, chunksize=chunksize)
    came, error = taken_until_it_raises(results)
    assert came == list(range(25))
    assert isinstance(error, SerializationError)


@pytest.mark.parametrize("chunksize", [1, 4])
def test_failed_items_are_retried_alone(make_manager, gate, chunksize):
    manager = make_manager(retry=2)
    address = gate.address
    results = manager.map(lambda n: gated.tell_and_fail_first(address, n, fail=n == 2), range(6), chunksize=chunksize)
    assert list(results) == [0, 1, 2, 3, 4, 5]
    told = [gate.wait_for_label() for _ in range(7)]
    assert sorted(told) == [0, 1, 2, 2, 3, 4, 5]  # only the guilty one ran twice
    assert not gate.has_arrivals()


# -- timeout ----------------------------------------------------------------------------------------------


def test_a_timeout_is_raised_when_a_result_is_late(make_manager, gate):
    manager = make_manager(grace=0.5)
    assert list(manager.map(plain.square, range(2))) == [0, 1]  # a worker is there
    address = gate.address
    results = manager.map(lambda n: stop_at_gate(address) if n == 2 else n, range(4), timeout=2)
    came, error = taken_until_it_raises(results)
    assert came == [0, 1]
    assert isinstance(error, TimeoutError)


def test_a_timeout_that_is_not_needed_is_not_raised(manager):
    assert list(manager.map(plain.square, range(5), timeout=PATIENCE_S)) == [0, 1, 4, 9, 16]


# -- buffersize -------------------------------------------------------------------------------------------


def test_with_a_buffer_size_the_input_is_pulled_lazily(manager):
    pulled = []
    results = manager.map(plain.square, (pulled.append(number) or number for number in range(100)), buffersize=4)
    assert len(pulled) <= 4
    for taken in range(1, 11):
        assert next(results) == (taken - 1) ** 2
        assert len(pulled) <= taken + 4
    assert list(results) == [number**2 for number in range(10, 100)]
    assert len(pulled) == 100


@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_endless_input_can_be_mapped_with_a_buffer_size(manager, chunksize):
    results = manager.map(plain.square, itertools.count(), buffersize=8, chunksize=chunksize)
    assert list(itertools.islice(results, 50)) == [number**2 for number in range(50)]
    results.close()


@pytest.mark.parametrize("buffersize", [1, 2, 1000])
def test_results_come_in_order_with_any_buffer_size(manager, buffersize):
    squares = manager.map(plain.square, range(60), buffersize=buffersize)
    assert list(squares) == [number**2 for number in range(60)]


@pytest.mark.parametrize("value", [0, -1])
def test_a_buffer_size_must_be_positive(manager, value):
    with pytest.raises(ValueError, match="buffersize"):
        manager.map(plain.square, range(3), buffersize=value)


@pytest.mark.parametrize("value", ["4", 1.5])
def test_a_buffer_size_must_be_an_int(manager, value):
    with pytest.raises(TypeError, match="buffersize"):
        manager.map(plain.square, range(3), buffersize=value)


def test_a_lazy_input_that_raises_raises_when_it_is_reached(manager):
    def numbers():
        yield from range(6)
        raise KeyError("no more")

    came, error = taken_until_it_raises(manager.map(plain.square, numbers(), buffersize=2))
    assert isinstance(error, KeyError)
    assert came == [number**2 for number in range(len(came))]


# -- stopping half-way ------------------------------------------------------------------------------------


def test_an_abandoned_map_cancels_what_is_out(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.5)
    address = gate.address
    results = manager.map(
        lambda n: gated.tell_and_return(address, n) if n < 1 else failing.sleep_long(), range(20), chunksize=1
    )
    assert next(results) == 0
    results.close()
    assert manager.wait(timeout=PATIENCE_S)
    assert manager.stats().cancelled >= 18


def test_a_map_that_is_closed_before_anything_was_taken_cancels_what_is_out(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.5)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    results = manager.map(plain.square, range(20), chunksize=1)
    results.close()
    assert manager.stats().cancelled == 20
    assert list(results) == []


@pytest.mark.parametrize("chunksize", [1, 2, None])
def test_a_map_can_be_closed_while_another_thread_waits_for_a_value(make_manager, gate, chunksize):
    manager = make_manager(max_workers=1, grace=0.5)
    results = manager.map(plain.stop_if_told, range(6), [None, None] + [gate.address] * 4, chunksize=chunksize)
    assert [next(results), next(results)] == [0, 1]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(next, results)
        gate.wait_for_arrival()
        results.close()
        assert isinstance(waiting.exception(timeout=PATIENCE_S), CancelledError | StopIteration)
    assert manager.wait(timeout=PATIENCE_S)
    assert list(results) == []


def test_a_consumer_that_comes_while_another_thread_closes_gets_no_more(manager):
    results = manager.map(plain.square, range(100), chunksize=2)
    assert next(results) == 0
    closer = threading.Thread(target=results.close)
    with View(manager).finalizers_held() as is_closing:
        closer.start()
        assert is_closing.wait(PATIENCE_S)
        assert list(results) in ([], [1])  # the rest of the chunk that has come, at most
    closer.join(PATIENCE_S)
    assert list(results) == []


def test_what_was_given_when_the_wait_for_it_timed_out_is_cancelled(make_manager, gate, monkeypatch):
    """The wait is over at once here, as if all had been given just then."""
    manager = make_manager(max_workers=1, grace=0.5)
    results = manager.map(plain.stop_if_told, range(20), itertools.repeat(gate.address), timeout=PATIENCE_S)
    gate.wait_for_arrival()

    def is_late(mapper, rest):
        raise TimeoutError

    monkeypatch.setattr(AdaptingMapper, "_wait_for_more", is_late)
    with pytest.raises(TimeoutError):
        next(results)
    assert manager.wait(timeout=PATIENCE_S)
    assert manager.stats().cancelled >= 1


def leave_in_a_cycle(iterator):
    """Let the collector, and nothing else, find `iterator`."""
    cycle = [iterator]
    cycle.append(cycle)


@pytest.mark.parametrize("way", ["map", "stream"])
def test_a_map_or_stream_that_the_collector_ends_amid_a_submit_is_cancelled(request, make_manager, gate, way):
    """It runs where any object is made, so amid the taking in of a task, too: here at each call in turn."""
    manager = make_manager(max_workers=1, grace=0.5)
    addresses = [None] + [gate.address] * 3
    has_collected = True
    place = 0
    gc.freeze()  # so that each collection is quick
    request.addfinalizer(gc.unfreeze)
    while has_collected:
        added = manager.stats().added
        if way == "map":
            results = manager.map(plain.stop_if_told, range(4), addresses, chunksize=1)
        else:
            results = iter(manager.stream(Task(plain.stop_if_told, args=args) for args in enumerate(addresses)))
        next(results)
        gate.wait_for_arrival()
        wait_until(lambda added=added: manager.stats().added == added + 4, "all are added, by another thread")
        leave_in_a_cycle(results)
        del results
        has_collected = collect_at(place, lambda: manager.run(plain.square, 3))
        gc.collect()
        place += 1
        assert manager.wait(timeout=PATIENCE_S)
        assert manager.stats().cancelled == 3 * place
    assert place > 10


def collect_at(place, act):
    """Have the collector run at one of the calls of `act`; return whether there are so many."""
    events = itertools.count()

    def collect(frame, event, arg):
        if event in ("call", "c_call") and next(events) == place:
            gc.collect()

    sys.setprofile(collect)
    try:
        act()
    finally:
        sys.setprofile(None)
    return next(events) > place


def test_an_abandoned_map_of_which_many_items_died_is_cancelled(make_manager):
    """Each death leaves a rest, which has a chunk, which leaves a rest."""
    deaths = 60
    manager = make_manager(max_workers=1)
    assert len(list(manager.map(failing.die_if_told, range(20_000)))) == 20_000
    results = manager.map(failing.die_if_told, ["die"] * deaths + list(range(20_000)))
    wait_until(lambda: manager.stats().failed >= deaths, "all have died that were told to")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + deaths)
    try:
        results.close()
    finally:
        sys.setrecursionlimit(limit)
    assert manager.wait(timeout=PATIENCE_S)


# -- taking -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 7, None])
def test_values_come_once_and_in_order_however_they_are_taken(manager, chunksize):
    results = manager.map(plain.square, range(1000), chunksize=chunksize)
    taken = [next(results), next(results)]
    for value in results:
        taken.append(value)
        if len(taken) == 10:
            break
    taken += itertools.islice(results, 40)
    taken += itertools.chain.from_iterable(itertools.islice(zip(results, results, strict=False), 100))
    taken += results
    assert taken == [number**2 for number in range(1000)]
    assert list(results) == []
    assert next(results, "over") == "over"


@pytest.mark.parametrize("chunksize", [1, 16, 2500, None])
def test_threads_that_share_a_map_share_its_values(manager, chunksize):
    results = manager.map(plain.square, range(5000), chunksize=chunksize)
    with ThreadPoolExecutor(4) as threads:
        shares = [share.result(timeout=PATIENCE_S) for share in [threads.submit(list, results) for _ in range(4)]]
    assert sorted(itertools.chain.from_iterable(shares)) == [number**2 for number in range(5000)]
    assert all(share == sorted(share) for share in shares)


def test_arguments_are_gone_once_their_values_are_taken(manager):
    known = []

    def labels():
        for number in range(100, 140):
            label = pickling.Label(number)
            known.append(weakref.ref(label))
            yield label
            del label

    results = manager.map(pickling.read_label, labels(), chunksize=10)
    assert [next(results) for _ in range(11)] == list(range(100, 111))
    assert [label() for label in known[:20]] == [None] * 20


def test_maps_side_by_side_do_not_mix(manager):
    maps = [manager.map(plain.add, range(30), [offset] * 30, chunksize=4) for offset in (0, 100, 200)]
    answers = [[] for _ in maps]

    def take(index):
        answers[index] = list(maps[index])

    threads = [threading.Thread(target=take, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert answers == [[number + offset for number in range(30)] for offset in (0, 100, 200)]


def test_a_map_uses_every_worker(manager):
    pids = set()

    def has_used_two():
        pids.update(manager.map(plain.own_pid_after_a_moment, range(8)))
        return len(pids) >= 2

    wait_until(has_used_two, "two processes have worked")


# -- chunks that size themselves --------------------------------------------------------------------------

SLOW_S = 0.02  # far more than a chunk is meant to take


def test_slow_rows_amid_quick_ones_are_shared(manager):
    """The chunks have become large by then: whoever has the slow rows leaves them to all."""
    seconds = [0.0] * 20_000 + [SLOW_S] * 20 + [0.0] * 5_000

    def are_shared():
        answers = list(manager.map(plain.pause_and_say_who, range(len(seconds)), seconds))
        assert [number for number, _ in answers] == list(range(len(seconds)))
        return len({pid for _, pid in answers[20_000:20_020]}) == 2

    wait_until(are_shared, "two processes have run slow rows")  # on a busy machine the second may start late


def test_a_map_begins_with_what_the_one_before_has_learned(manager):
    assert list(manager.map(plain.square, range(20_000))) == [number**2 for number in range(20_000)]
    assert View(manager).rows_learned(plain.square) > 8
    assert View(manager).first_chunk_rows(plain.square, range(20_000)) > 8
    assert list(manager.map(plain.square, range(20_000))) == [number**2 for number in range(20_000)]


@pytest.mark.parametrize("numbers", [range(0), range(5, 6), range(20_000, -7, -3), range(2**64, 2**64 + 20_000)])
def test_a_range_can_be_mapped_though_it_is_never_a_list(manager, numbers):
    assert list(manager.map(plain.square, numbers)) == [number**2 for number in numbers]


def test_a_number_of_a_range_fails_alone(make_manager):
    came, error = taken_until_it_raises(make_manager(retry=2).map(failing.fail_at_19_000, range(20_000)))
    assert came == list(range(19_000))
    assert isinstance(error, Flaky)


class ActsWhenPickled:
    """Notes its number and calls `act` with it when it is pickled, which is as that number."""

    def __init__(self, number, act):
        self.number, self.act = number, act

    def __reduce__(self):
        self.act(self.number)
        return int, (self.number,)


def test_a_map_that_is_refused_amid_its_giving_gives_no_more(manager):
    pickled = []

    def close_at_second(number):
        pickled.append(number)
        if len(pickled) == 2:
            manager.shutdown(wait=False)

    with pytest.raises(ManagerClosedError):
        manager.map(plain.square, [ActsWhenPickled(number, close_at_second) for number in range(1000)])
    assert manager.wait(timeout=PATIENCE_S)
    manager.close(timeout=PATIENCE_S)  # what follows from the first has had its time
    assert pickled == [0, 1]


def test_what_a_map_has_learned_does_not_keep_slow_rows_together(manager, gate):
    numbers = range(20_000)
    assert list(manager.map(plain.stop_if_told, numbers, itertools.repeat(None))) == list(numbers)
    results = manager.map(plain.stop_if_told, range(4), itertools.repeat(gate.address))
    assert gate.wait_for_arrival() != gate.wait_for_arrival()  # two at once
    gate.open()
    assert list(results) == [0, 1, 2, 3]


def test_rows_that_a_chunk_left_still_fail_alone(make_manager, gate):
    manager = make_manager(retry=2)
    address = gate.address
    slow, failing = 20_000, {20_003, 20_007}

    def work(number):
        if number >= slow:
            plain.pause(SLOW_S)
        return gated.tell_and_fail_first(address, number, fail=number in failing) if number >= slow else number

    assert list(manager.map(work, range(slow + 10))) == list(range(slow + 10))
    told = [gate.wait_for_label() for _ in range(12)]
    assert sorted(told) == sorted([*range(slow, slow + 10), *failing])
    assert not gate.has_arrivals()


def test_a_row_that_pickles_no_more_fails_alone_behind_rows_that_were_left(make_manager):
    manager = make_manager(max_workers=1)
    list(manager.map(pickling.read_label, map(pickling.Label, range(100, 20_000))))
    labels = [pickling.Label(number) for number in range(120)]
    results = manager.map(pickling.read_label, labels)
    labels[60].number = threading.Lock()  # by now it was sent, and is to be again: it raises
    came, error = taken_until_it_raises(results)
    assert came == list(range(60))
    assert isinstance(error, SerializationError)


def test_a_map_under_context_variables_learns_for_the_next_one(make_manager):
    manager = make_manager(context=[language])
    assert list(manager.map(plain.square, range(20_000))) == [number**2 for number in range(20_000)]
    assert View(manager).rows_learned(plain.square) > 8


def test_a_map_that_is_closed_amid_rows_that_were_left_runs_no_more_of_them(make_manager):
    manager = make_manager(grace=0.5)
    results = manager.map(plain.pause_and_say_who, range(10_000), [0.0] * 5_000 + [SLOW_S] * 5_000)
    for number, _ in results:
        if number == 5_010:
            break
    results.close()
    assert manager.wait(timeout=PATIENCE_S)
    assert list(results) == []


# -- return_exceptions --------------------------------------------------------------------------------------

SHAPES = [{}, {"chunksize": 1}, {"chunksize": 3}, {"buffersize": 2}, {"buffersize": 2, "chunksize": 3}]
EVERY_SHAPE = pytest.mark.parametrize("options", SHAPES, ids=str)


def kinds(values):
    return [type(value).__name__ if isinstance(value, BaseException) else value for value in values]


@EVERY_SHAPE
def test_errors_of_items_come_in_their_places(manager, options):
    rows = [1, 2, -3, 4, "five", 6]
    came = kinds(manager.map(failing.fail_if_negative, rows, return_exceptions=True, **options))
    assert came == [1, 2, "Flaky", 4, "TypeError", 6]


@EVERY_SHAPE
def test_a_death_and_what_does_not_pickle_come_in_their_places(manager, options):
    rows = ["a", "die", threading.Lock(), "b"]
    came = kinds(manager.map(failing.die_if_told, rows, return_exceptions=True, **options))
    assert came == ["a", "WorkerDiedError", "SerializationError", "b"]


def test_a_timeout_of_an_item_comes_in_its_place_with_a_views_options(make_manager):
    view = make_manager(grace=0.2).options(timeout=0.5)
    came = kinds(view.map(plain.pause, [0.0, 60.0, 0.0], return_exceptions=True, chunksize=3))
    assert came == [0.0, "TaskTimeoutError", 0.0]


@pytest.mark.parametrize("options", [{}, {"chunksize": 1}, {"chunksize": 7}], ids=str)
def test_every_item_of_a_map_that_is_cut_short_has_an_outcome(make_manager, gate, options):
    manager = make_manager(max_workers=1, grace=0.2)
    results = manager.map(stop_at_gate, [gate.address] * 50, return_exceptions=True, **options)
    gate.wait_for_arrival()
    manager.close(timeout=0)
    assert kinds(results) == ["CancelledError"] * 50


@EVERY_SHAPE
def test_what_is_wrong_with_the_iteration_is_raised_all_the_same(make_manager, gate, options):
    manager = make_manager(max_workers=1, grace=0.2)
    with pytest.raises(TimeoutError):
        list(manager.map(stop_at_gate, [gate.address], timeout=0.2, return_exceptions=True, **options))

    def numbers():
        yield 1
        raise KeyError("no more")

    with pytest.raises(KeyError):
        list(manager.map(plain.square, numbers(), return_exceptions=True, **options))


def test_rows_that_are_given_where_no_thread_can_be_started_are_run_before_the_end(make_manager, monkeypatch):
    """As while the interpreter exits, under Python 3.12 and later: the supervisor's own thread gives them then."""
    start = threading.Thread.start

    def refuse_for_user_code(thread):
        if thread.name.endswith("-user-code"):
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_for_user_code)
    for _ in range(20):
        manager = make_manager(max_workers=1)
        results = manager.map(plain.square, range(12))
        manager.close()
        assert list(results) == [number**2 for number in range(12)]
