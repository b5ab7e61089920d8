"""Large arguments and results: they come out right, writable, and a retry finds them as they were."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial

import pytest

from procbackground import Manager, SerializationError, Task, current
from procbackground._wire import copies
from tests.support import scripts
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate

np = pytest.importorskip("numpy")

ELEMENTS = 1 << 18  # 2 MiB of int64: well over what goes in band


def echo(value):
    return value


def write_then_die_once(array):
    total = int(array.sum())
    array[:] = 7
    if current().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return total


def write_into(array):
    array[0] = -1
    return array


def make_strided(count):
    return np.arange(2 * count)[::2]


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_arrays_cross_both_ways(make_manager, method):
    import multiprocessing

    manager = make_manager(max_workers=1, mp_context=multiprocessing.get_context(method))
    array = np.arange(ELEMENTS)
    for _ in range(3):
        result = manager.run(echo, array).result(timeout=PATIENCE_S)
        assert np.array_equal(result, array)
        result[0] = 99  # the receiver's own
    assert array[0] == 0


def test_the_child_may_write_into_its_arguments(manager):
    array = np.arange(ELEMENTS)
    result = manager.run(write_into, array).result(timeout=PATIENCE_S)
    assert result[0] == -1
    assert array[0] == 0


def test_a_retry_finds_the_arguments_as_they_were(manager):
    array = np.arange(ELEMENTS)
    handle = manager.run_task(Task(write_then_die_once, args=(array,), retry=2))
    assert handle.result(timeout=PATIENCE_S) == int(array.sum())
    assert len(handle.attempts) == 2


def test_the_arguments_are_a_snapshot(make_manager, gate):

    manager = make_manager(max_workers=1)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    array = np.arange(ELEMENTS)
    handle = manager.run(echo, array)
    array[:] = 0
    gate.open()
    assert handle.result(timeout=PATIENCE_S)[1] == 1


@pytest.mark.parametrize(
    "value",
    [
        b"x" * (3 << 20),
        "y" * (3 << 20),
        {"a": b"z" * (1 << 20), "b": list(range(200_000))},
    ],
    ids=["bytes", "text", "mixed"],
)
def test_what_is_no_array_crosses_too(manager, value):
    assert manager.run(echo, value).result(timeout=PATIENCE_S) == value


def test_small_large_and_strided_arrays_mix(manager):
    arrays = [np.arange(3), np.arange(ELEMENTS), make_strided(ELEMENTS), np.empty((0, 4))]
    arrays.append(np.asfortranarray(np.ones((700, 400))))
    for array, result in zip(arrays, manager.run(echo, arrays).result(timeout=PATIENCE_S), strict=True):
        assert np.array_equal(array, result)
    strided = manager.run(make_strided, ELEMENTS).result(timeout=PATIENCE_S)
    assert np.array_equal(strided, make_strided(ELEMENTS))


def test_many_large_arguments_behind_each_other(manager):
    arrays = [np.full(ELEMENTS, number) for number in range(20)]
    handles = [manager.run(echo, array) for array in arrays]
    for array, handle in zip(arrays, handles, strict=True):
        assert np.array_equal(handle.result(timeout=PATIENCE_S), array)


def test_no_descriptor_is_kept_for_a_finished_task():
    fds = set(os.listdir("/proc/self/fd"))
    with Manager(max_workers=1) as manager:
        manager.run(echo, 1).result(timeout=PATIENCE_S)
        during = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            result = manager.run(echo, np.arange(ELEMENTS)).result(timeout=PATIENCE_S)
        del result
        # The thread that judged it lets go of it a moment after it has told us.
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= during + 1, "no descriptor is kept")
    assert set(os.listdir("/proc/self/fd")) <= fds | {str(max(map(int, fds)) + 1)}


def test_what_waits_does_not_take_the_descriptors_that_workers_need(tmp_path):
    source = f"""
    import resource
    from procbackground import Manager

    def size(data):
        return len(data)

    if __name__ == "__main__":
        resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
        with Manager(max_workers=2) as manager:
            sizes = [(1 << 20) + number for number in range(150)]
            handles = [manager.run(size, bytes(each)) for each in sizes]  # all before the first worker is there
            assert [handle.result(timeout={PATIENCE_S}) for handle in handles] == sizes
    """
    done = scripts.run(source, "file", tmp_path)
    assert done.returncode == 0, done.stderr


class Box:
    def __init__(self, content):
        self.content = content

    def total(self, factor=1):
        return int(self.content.sum()) * factor

    def write(self):
        self.content[:] = 7
        return current().attempt


def total(array, factor=1):
    return int(array.sum()) * factor


def make_box(count):
    return Box(np.arange(count))


def make_closure(count):
    array = np.arange(count)
    return lambda: array


def raise_with(count):
    raise ValueError(np.arange(count))


def memory_files() -> dict[int, int]:
    """Return the sizes of the files of parcels that this process has open, by inode."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            if "procbackground-parcel" in os.readlink(f"/proc/self/fd/{name}"):
                facts = os.stat(f"/proc/self/fd/{name}")
                found[facts.st_ino] = facts.st_size
        except OSError:
            pass  # the listing's own
    return found


in_memory_files = pytest.mark.skipif(
    not hasattr(os, "memfd_create") or os.environ.get("PROCBACKGROUND_PLATFORM") == "portable",
    reason="temporary files have other names",
)


@pytest.fixture
def held_manager(make_manager, gate):
    """A manager whose only worker stops at the gate."""
    manager = make_manager(max_workers=1)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    return manager


# -- out of band, wherever it is ------------------------------------------------------------------------------


@in_memory_files
def test_large_buffers_in_functions_go_out_of_band(held_manager, gate):
    array = np.arange(ELEMENTS)
    expected = int(array.sum())
    handles = [
        held_manager.run(partial(total, array)),
        held_manager.run(Box(array).total),
        held_manager.run(lambda: total(array)),
        held_manager.run(total, Box(array).content),
        held_manager.run_task(Task(lambda factor: total(array, factor), args=(1,))),
    ]
    assert all(len(handle._job.recipe.blob) < 10_000 for handle in handles)
    assert len(memory_files()) == 1  # they have their copy in common
    gate.open()
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [expected] * len(handles)


def test_a_map_of_a_function_with_a_large_buffer(manager):
    array = np.arange(ELEMENTS)
    expected = [int(array.sum()) * row for row in range(20)]
    assert list(manager.map(partial(total, array), range(20), chunksize=3)) == expected
    assert list(manager.map(lambda row: total(array, row), range(20))) == expected


class CountingBox(Box):
    """Counts how often it is pickled, in the parent."""

    def __init__(self, content):
        super().__init__(content)
        self.pickled = 0

    def __getstate__(self):
        self.pickled += 1
        return self.__dict__


@pytest.mark.parametrize("content", [np.ones(ELEMENTS), bytes(8 * ELEMENTS)], ids=["array", "bytes"])
def test_a_map_pickles_a_large_function_once_and_compares_nothing(manager, monkeypatch, content):
    compared = []
    monkeypatch.setattr(copies, "_is_equal", lambda *_: compared.append(1) or True)
    box = CountingBox(content)
    lengths = [8 * ELEMENTS if isinstance(content, bytes) else ELEMENTS] * 20
    assert list(manager.map(lambda row: len(box.content), range(20), chunksize=3)) == lengths
    assert (box.pickled, compared) == (1, [])
    assert list(manager.map(lambda row: len(box.content), range(5), chunksize=1)) == lengths[:5]
    assert (box.pickled, compared) == (2, [])


def test_rows_of_a_map_do_not_see_what_others_write_into_its_function(make_manager):
    manager = make_manager(max_workers=1)
    box = Box(np.zeros(ELEMENTS))

    def add(row):
        box.content[0] += 1
        return int(box.content[0])

    assert list(manager.map(add, range(4), chunksize=1)) == [1] * 4
    assert box.content[0] == 0


def test_a_function_with_a_large_buffer_has_its_own_copy(manager):
    box = Box(np.zeros(ELEMENTS))
    for _ in range(2):
        assert manager.run(box.write).result(timeout=PATIENCE_S) == 1
    assert manager.run(box.total).result(timeout=PATIENCE_S) == 0
    assert box.content[0] == 0


def test_results_with_large_buffers_anywhere(manager):
    expected = np.arange(ELEMENTS)
    box = manager.run(make_box, ELEMENTS).result(timeout=PATIENCE_S)
    assert np.array_equal(box.content, expected)
    box.content[0] = 1  # the receiver's own
    assert np.array_equal(manager.run(make_closure, ELEMENTS).result(timeout=PATIENCE_S)(), expected)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # its argument is what counts
        manager.run(raise_with, ELEMENTS).result(timeout=PATIENCE_S)
    assert np.array_equal(caught.value.args[0], expected)


def test_a_large_buffer_beside_what_cannot_be_pickled_is_still_named(manager):
    with pytest.raises(SerializationError, match=r"lock, at \.__self__\.content\[1\]"):
        manager.run(Box([np.arange(ELEMENTS), threading.Lock()]).total).result(timeout=PATIENCE_S)


# -- copied once ---------------------------------------------------------------------------------------------


@in_memory_files
def test_what_is_submitted_again_is_not_copied_again(held_manager, gate):
    array = np.arange(ELEMENTS)
    handles = [held_manager.run(total, array) for _ in range(20)]
    assert sum(memory_files().values()) < 1.1 * array.nbytes
    gate.open()
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [int(array.sum())] * 20
    del handles
    wait_until(lambda: not memory_files(), "the copy is gone with its last task")


@in_memory_files
@pytest.mark.parametrize("at", [0, ELEMENTS // 3, ELEMENTS // 2, ELEMENTS - 1])
def test_each_submit_is_a_snapshot_of_its_own(held_manager, gate, at):
    array = np.zeros(ELEMENTS, dtype=np.int64)
    handles = []
    for value in range(3):
        array[at] = value
        handles += [held_manager.run(total, array), held_manager.run(total, array.copy())]
    array[at] = 99
    assert len(memory_files()) == 3
    gate.open()
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [0, 0, 1, 1, 2, 2]


def test_tasks_with_one_copy_do_not_see_what_others_write(manager):
    array = np.arange(ELEMENTS)
    handles = [manager.run(write_into, array) for _ in range(6)] + [manager.run(total, array) for _ in range(6)]
    assert [int(handle.result(timeout=PATIENCE_S)[0]) for handle in handles[:6]] == [-1] * 6
    assert [handle.result(timeout=PATIENCE_S) for handle in handles[6:]] == [int(array.sum())] * 6


@in_memory_files
def test_old_and_new_buffers_in_one_task(held_manager, gate):
    arrays = [np.full(ELEMENTS, number) for number in range(4)]
    handles = [held_manager.run(echo, arrays[:end]) for end in range(1, 5)]
    handles.append(held_manager.run(echo, [*reversed(arrays), np.empty(0), b"x" * (2 << 20)]))
    assert sum(memory_files().values()) < 1.1 * 4 * arrays[0].nbytes + (2 << 20)
    gate.open()
    *firsts, last = [handle.result(timeout=PATIENCE_S) for handle in handles]
    for end, found in enumerate(firsts, 1):
        assert all(np.array_equal(*pair) for pair in zip(arrays[:end], found, strict=True))
    assert all(np.array_equal(*pair) for pair in zip(reversed(arrays), last[:4], strict=True))
    assert (last[4].size, last[5]) == (0, b"x" * (2 << 20))


@in_memory_files
def test_joblib_copies_an_array_once_per_call(manager):
    joblib = pytest.importorskip("joblib")
    pytest.importorskip("procbackground.joblib")
    array = np.arange(ELEMENTS)
    seen = set()

    def calls():
        for factor in range(20):
            seen.update(memory_files())
            yield joblib.delayed(total)(array, factor)

    with joblib.parallel_config(backend="procbackground", manager=manager, n_jobs=2):
        parallel = joblib.Parallel(batch_size=1)
        assert parallel(calls()) == [int(array.sum()) * factor for factor in range(20)]
        assert len(seen) == 1
        wait_until(lambda: not memory_files(), "the copy is gone with the call, though the array is not")
        array[:] = 1
        assert parallel(calls()) == [ELEMENTS * factor for factor in range(20)]


@in_memory_files
def test_forked_workers_hold_no_copies_and_use_none(make_manager):
    manager = make_manager(max_workers=1, mp_context="fork")
    array = np.arange(ELEMENTS)
    handles = [manager.run(echo, array) for _ in range(3)]  # the worker is forked while they have a copy
    assert all(np.array_equal(handle.result(timeout=PATIENCE_S), array) for handle in handles)
    assert manager.run(memory_files).result(timeout=PATIENCE_S) == {}
