"""Large arguments and results: they come out right, writable, and a retry finds them as they were."""

from __future__ import annotations

import os
import signal

import pytest

from procbackground import Manager, Task, current
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
