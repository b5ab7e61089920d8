"""Shared values: one copy for all workers, read-only, and nothing of it left when nobody needs it."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import resource
import signal
import sys
import threading
from functools import partial
from pathlib import Path

import psutil
import pytest

from procbackground import Manager, ManagerClosedError, SerializationError, Shared, Task, TaskType, current
from procbackground._wire.shares import KEPT_VALUES
from tests.support import scripts
from tests.support.facts import wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate, tell_gate

np = pytest.importorskip("numpy")

ELEMENTS = 1 << 18  # 2 MiB of int64
NAME = "procbackground-share"
needs_maps = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mappings are counted in /proc")
needs_memfd = pytest.mark.skipif(
    not hasattr(os, "memfd_create") or os.environ.get("PROCBACKGROUND_PLATFORM") == "portable",
    reason="temporary files have other names",
)


def mappings(pid: int | str = "self") -> int:
    """Return how many shared values a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text().count(NAME)


def descriptors(pid: int | str = "self") -> int:
    """Return how many shared values a process has descriptors of."""
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            count += NAME in os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            pass  # the listing's own
    return count


def total(array, factor=1):
    return int(array.sum()) * factor


def kind_and_flag(array):
    return type(array).__name__, bool(array.flags.writeable)


def write_into(array):
    array[0] = 1


def force_into(array):
    array.flags.writeable = True


def identity(value):
    return os.getpid(), id(value)


def echo(value):
    return value


def pid_and_mappings(*values):
    return os.getpid(), mappings()


def die_once(array):
    if current().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return total(array)


def read_then_stop(address, array):
    total(array)
    return stop_at_gate(address, "mapped")


def iterate(address, array):
    tell_gate(address, total(array))
    current().wait(PATIENCE_S)


def find_in(box):
    return total(box["deep"][0].content)


_kept = []


def keep(array):
    _kept.append(array)
    return os.getpid()


def sum_of_kept():
    return total(_kept[0])


class Box:
    def __init__(self, content):
        self.content = content

    def total(self, factor):
        return total(self.content, factor)


class Unloadable:
    def __reduce__(self):
        return int, ("no number",)


ARRAY = np.arange(ELEMENTS)
TOTAL = int(ARRAY.sum())


@pytest.fixture
def shared(manager):
    return manager.share(ARRAY)


# -- every way in --------------------------------------------------------------------------------------------


def test_a_task_receives_the_value_itself(manager, shared):
    assert manager.run(kind_and_flag, shared).result(timeout=PATIENCE_S) == ("ndarray", False)


def test_it_may_be_anywhere_in_the_arguments_and_the_function(manager, shared):
    handles = [
        manager.run(total, shared),
        manager.run(total, array=shared),
        manager.run(find_in, {"deep": [Box(shared)]}),
        manager.run(partial(total, shared)),
        manager.run(Box(shared).total, 1),
        manager.run(lambda: total(shared)),
        manager.run_task(Task(total, args=(shared,), isolate=True)),
        manager.run_task(Task(partial(total, shared))),
    ]
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [TOTAL] * len(handles)


def test_maps_and_streams_take_it(manager, shared):
    rows = range(40)
    expected = [TOTAL * row for row in rows]
    assert list(manager.map(total, [shared] * len(rows), rows)) == expected
    assert list(manager.map(partial(total, shared), rows, chunksize=7)) == expected
    assert list(manager.map(lambda row: total(shared, row), rows, buffersize=8)) == expected
    handles = manager.stream((Task(total, args=(shared, row)) for row in rows), ordered=True)
    assert [handle.result() for handle in handles] == expected


def test_joblib_takes_it(manager, shared):
    joblib = pytest.importorskip("joblib")
    pytest.importorskip("procbackground.joblib")
    with joblib.parallel_config(backend="procbackground", manager=manager, n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(total)(shared, row) for row in range(20))
    assert found == [TOTAL * row for row in range(20)]


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_every_start_method_sees_it(make_manager, method):
    manager = make_manager(mp_context=method)
    shared = manager.share(ARRAY)
    assert [manager.run(total, shared).result(timeout=PATIENCE_S) for _ in range(3)] == [TOTAL] * 3


def test_a_retry_sees_it(manager, shared):
    handle = manager.run_task(Task(die_once, args=(shared,), retry=2))
    assert handle.result(timeout=PATIENCE_S) == TOTAL
    assert len(handle.attempts) == 2


def test_a_loop_sees_it(manager, shared, gate):
    manager.run_task(Task(iterate, args=(gate.address, shared), type=TaskType.LOOP))
    assert gate.wait_for_label() == TOTAL
    assert manager.cancel(timeout=PATIENCE_S)


def test_inline_tasks_see_it_read_only(make_manager):
    manager = make_manager(inline=True)
    shared = manager.share(ARRAY)
    assert manager.run(kind_and_flag, shared).result() == ("ndarray", False)
    assert manager.run(find_in, {"deep": [Box(shared)]}).result() == TOTAL
    assert manager.run(Box(shared).total, factor=3).result() == 3 * TOTAL
    assert manager.run(lambda row: total(shared, row), 2).result() == 2 * TOTAL
    assert list(manager.map(partial(total, shared), range(3))) == [0, TOTAL, 2 * TOTAL]


def test_another_manager_of_the_process_takes_it(manager, make_manager):
    other = make_manager()
    shared = other.share(ARRAY)
    assert manager.run(total, shared).result(timeout=PATIENCE_S) == TOTAL


def test_several_in_one_task(manager):
    shares = [manager.share(np.full(ELEMENTS, number)) for number in range(5)]
    found = manager.run(lambda arrays: [int(array[0]) for array in arrays], shares).result(timeout=PATIENCE_S)
    assert found == [0, 1, 2, 3, 4]


# -- what crosses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [b"x" * (1 << 20), bytearray(b"y" * (1 << 20)), "z" * (1 << 20), {"a": [1, 2, None]}, None, b""],
    ids=["bytes", "bytearray", "text", "objects", "None", "empty"],
)
def test_other_values_come_as_they_were(manager, value):
    found = manager.run(echo, manager.share(value)).result(timeout=PATIENCE_S)
    assert found == value
    assert type(found) is type(value)


def facts_of_view(view):
    return type(view).__name__, view.readonly, view.format, view.shape, view[1, 2]


def test_a_memoryview_comes_as_one(manager):
    view = memoryview(np.arange(12.0).reshape(3, 4))
    found = manager.run(facts_of_view, manager.share(view)).result(timeout=PATIENCE_S)
    assert found == ("memoryview", True, "d", (3, 4), 6.0)
    with pytest.raises(SerializationError, match="not contiguous"):
        manager.share(memoryview(np.arange(12)[::2]))


def test_arrays_of_all_layouts(manager):
    arrays = [np.asfortranarray(np.ones((70, 40))), np.arange(100)[::3], np.empty((0, 4)), np.array("text")]
    found = manager.run(echo, manager.share(arrays)).result(timeout=PATIENCE_S)
    assert all(np.array_equal(left, right) for left, right in zip(arrays, found, strict=True))


def shape_and_flag_of_frame(frame):
    return frame.shape, frame["a"].to_numpy().flags.writeable, int(frame["a"].sum())


def test_pandas_without_a_copy(manager):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": ARRAY, "b": ARRAY * 0.5})
    found = manager.run(shape_and_flag_of_frame, manager.share(frame)).result(timeout=PATIENCE_S)
    assert found == ((ELEMENTS, 2), False, TOTAL)


def is_mapped(table):
    """Return the sum, and whether the data lies in the mapping of a shared value."""
    address = table.column("a").chunk(0).buffers()[1].address
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(each, 16) for each in line.split()[0].split("-"))
        if begin <= address < end:
            return sum(table.column("a").to_pylist()), NAME in line
    return None


@needs_memfd
def test_arrow_without_a_copy(manager):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"a": np.arange(ELEMENTS)})
    assert manager.run(is_mapped, manager.share(table)).result(timeout=PATIENCE_S) == (TOTAL, True)


def test_it_is_a_snapshot(manager):
    array = np.arange(ELEMENTS)
    shared = manager.share(array)
    array[:] = 0
    assert manager.run(total, shared).result(timeout=PATIENCE_S) == TOTAL
    assert total(shared.value) == TOTAL


# -- read-only -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_into, force_into])
def test_a_write_raises(manager, shared, write):
    with pytest.raises(ValueError, match=r"read-only|WRITEABLE"):
        manager.run(write, shared).result(timeout=PATIENCE_S)
    assert manager.run(total, shared).result(timeout=PATIENCE_S) == TOTAL


def test_the_value_in_the_parent_is_read_only_and_always_the_same(shared):
    assert isinstance(shared, Shared)
    assert shared.value is shared.value
    assert shared.nbytes >= ARRAY.nbytes
    with pytest.raises(ValueError, match="read-only"):
        shared.value[0] = 1


class LoadedByTwo:
    """A value whose loading does not end before two threads are in it."""

    both_are_here = threading.Barrier(2)

    def __setstate__(self, state):
        self.both_are_here.wait(PATIENCE_S)

    def __getstate__(self):
        return True


def test_threads_that_load_the_value_at_once_get_the_same(manager):
    shared = manager.share(LoadedByTwo())
    values = []
    threads = [threading.Thread(target=lambda: values.append(shared.value)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    first, second = values
    assert first is second is shared.value


def test_other_arguments_beside_it_stay_writable(manager, shared):
    def write(array, own):
        own[:] = 1
        return total(own), array.flags.writeable, own.flags.writeable

    own = np.zeros(ELEMENTS)
    assert manager.run(write, shared, own).result(timeout=PATIENCE_S) == (ELEMENTS, False, True)
    assert own[0] == 0


# -- once ----------------------------------------------------------------------------------------------------


def test_a_worker_unpickles_it_once(make_manager):
    manager = make_manager(max_workers=1)
    shared = manager.share(ARRAY)
    assert len({manager.run(identity, shared).result(timeout=PATIENCE_S) for _ in range(5)}) == 1


@needs_memfd
def test_what_workers_keep_has_a_bound(make_manager):
    manager = make_manager(max_workers=1)
    shares = [manager.share([number]) for number in range(KEPT_VALUES + 5)]
    first = [manager.run(echo, share).result(timeout=PATIENCE_S) for share in shares]
    again = [manager.run(echo, share).result(timeout=PATIENCE_S) for share in shares]
    assert first == again == [[number] for number in range(KEPT_VALUES + 5)]
    assert manager.run(len, shares).result(timeout=PATIENCE_S) == len(shares)


def resident_bytes(pids):
    return sum(psutil.Process(pid).memory_full_info().pss for pid in pids)


@needs_memfd
@pytest.mark.usefixtures("memory_to_itself")  # before all others, so that it is let go last
def test_the_machine_holds_it_once(make_manager, gate):
    manager = make_manager(max_workers=2)
    held = [manager.run(read_then_stop, gate.address, np.ones(1 << 18)) for _ in range(2)]  # they import numpy
    pids = [os.getpid(), gate.wait_for_arrival(), gate.wait_for_arrival()]
    before = resident_bytes(pids)
    shared = manager.share(np.ones(24 << 20))
    tasks = [manager.run(read_then_stop, gate.address, shared) for _ in range(2)]  # both workers have to take one
    gate.release(pids[1])
    gate.release(pids[2])
    assert {gate.wait_for_arrival(), gate.wait_for_arrival()} == set(pids[1:])
    assert total(shared.value) == 24 << 20
    grown = resident_bytes(pids) - before
    gate.open()
    assert [handle.result(timeout=PATIENCE_S) for handle in (*held, *tasks)] == [None] * 4
    assert 0.9 * shared.nbytes < grown < 1.1 * shared.nbytes


# -- until nobody needs it -----------------------------------------------------------------------------------


@needs_memfd
def test_it_goes_with_the_last_reference(make_manager):
    manager = make_manager(max_workers=1)
    shared = manager.share(ARRAY)
    pid, count = manager.run(pid_and_mappings, shared).result(timeout=PATIENCE_S)
    assert count == 1
    assert descriptors() == 1
    del shared
    gc.collect()
    assert descriptors() == 0
    wait_until(lambda: mappings(pid) == 0, "the worker has let go of it")
    assert manager.run(pid_and_mappings).result(timeout=PATIENCE_S) == (pid, 0)


@needs_memfd
def test_queued_tasks_keep_it(make_manager, gate):
    manager = make_manager(max_workers=1)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    handle = manager.run(total, manager.share(ARRAY))
    gc.collect()
    assert descriptors() == 1
    gate.open()
    assert handle.result(timeout=PATIENCE_S) == TOTAL
    del handle
    wait_until(lambda: descriptors() == 0, "nothing needs it any more")


@needs_memfd
def test_a_cancelled_task_keeps_nothing(make_manager, gate):
    manager = make_manager(max_workers=1)
    for _ in range(50):
        manager.run(echo, 1).result(timeout=PATIENCE_S)  # short ones are sent ahead
    pid, _ = manager.run(pid_and_mappings).result(timeout=PATIENCE_S)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    handles = [manager.run(echo, manager.share(ARRAY)) for _ in range(3)]
    assert all(handle.cancel() for handle in handles)
    del handles
    gate.open()
    wait_until(lambda: descriptors() == 0, "nothing needs them any more")
    assert manager.run(pid_and_mappings).result(timeout=PATIENCE_S) == (pid, 0)


def quick_or_held(address, *values):
    if address is not None:
        stop_at_gate(address)
    return pid_and_mappings()


@needs_memfd
def test_tasks_that_were_sent_ahead_and_cancelled_keep_nothing(make_manager, gate):
    manager = make_manager(max_workers=1)
    for handle in [manager.run(quick_or_held, None) for _ in range(200)]:
        pid, _ = handle.result(timeout=PATIENCE_S)  # from now on they are sent ahead
    held = manager.run(quick_or_held, gate.address)
    gate.wait_for_arrival()
    array = np.arange(ELEMENTS)
    handles = [manager.run(quick_or_held, None, manager.share(number), array) for number in range(10)]
    kept = manager.run(quick_or_held, None, shared := manager.share(ARRAY))
    assert all(handle.cancel() for handle in handles)
    del handles, array
    gate.open()
    assert held.result(timeout=PATIENCE_S) == (pid, 0)
    assert kept.result(timeout=PATIENCE_S)[0] == pid
    wait_until(lambda: descriptors() == 1, "nothing needs the others any more")
    wait_until(lambda: manager.run(pid_and_mappings).result(timeout=PATIENCE_S) == (pid, 1), "the worker has one")
    assert manager.run(total, shared).result(timeout=PATIENCE_S) == TOTAL


@needs_memfd
def test_what_a_task_has_kept_stays_whole(make_manager):
    manager = make_manager(max_workers=1)
    shared = manager.share(ARRAY)
    pid = manager.run(keep, shared).result(timeout=PATIENCE_S)
    del shared
    wait_until(lambda: descriptors() == 0, "the parent has let go of it")
    assert manager.run(sum_of_kept).result(timeout=PATIENCE_S) == TOTAL
    assert mappings(pid) == 1


@needs_memfd
def test_a_worker_that_is_busy_lets_go_later(make_manager, gate):
    manager = make_manager(max_workers=1)
    pid, _ = manager.run(pid_and_mappings, manager.share(ARRAY)).result(timeout=PATIENCE_S)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    gc.collect()
    gate.open()
    wait_until(lambda: mappings(pid) == 0, "the worker has let go of it")


@needs_memfd
def test_a_close_frees_it():
    with Manager(max_workers=1) as manager:
        shared = manager.share(ARRAY)
        assert manager.run(total, shared).result(timeout=PATIENCE_S) == TOTAL
        unread = manager.share(ARRAY)
    assert descriptors() == 0
    for each in (shared, unread):
        with pytest.raises(ManagerClosedError, match="freed"):
            each.value  # noqa: B018


def test_a_freed_value_fails_at_the_handle(manager):
    with Manager(max_workers=1) as other:
        shared = other.share(ARRAY)
    with pytest.raises(SerializationError, match=r"argument 0 .*freed"):
        manager.run(total, shared).result(timeout=PATIENCE_S)
    with pytest.raises(SerializationError, match="freed"):
        manager.run(partial(total, shared)).result(timeout=PATIENCE_S)


def test_values_freed_while_they_wait_fail_at_the_handle(make_manager, gate):
    manager = make_manager(max_workers=1)
    manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    with Manager(max_workers=1) as other:
        handle = manager.run(total, other.share(ARRAY))
    gate.open()
    with pytest.raises(SerializationError, match="freed"):
        handle.result(timeout=PATIENCE_S)
    assert manager.run(echo, 1).result(timeout=PATIENCE_S) == 1


def test_a_closed_manager_shares_nothing():
    manager = Manager(max_workers=1)
    manager.close()
    with pytest.raises(ManagerClosedError):
        manager.share(ARRAY)


def test_sharing_starts_nothing():
    with Manager(max_workers=1) as manager:
        shared = manager.share(ARRAY)
        assert total(shared.value) == TOTAL
        assert manager.processes() == []


# -- faults --------------------------------------------------------------------------------------------------


def test_a_worker_killed_amid_its_use_costs_its_task_only(make_manager, gate):
    manager = make_manager(max_workers=1)
    shared = manager.share(ARRAY)
    handle = manager.run_task(Task(read_then_stop, args=(gate.address, shared), retry=2))
    os.kill(gate.wait_for_arrival(), signal.SIGKILL)
    gate.wait_for_arrival()
    gate.open()
    assert handle.result(timeout=PATIENCE_S) is None
    assert manager.run(total, shared).result(timeout=PATIENCE_S) == TOTAL


def shared_memory_bytes() -> int:
    """Return the machine's memory that files in memory take."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say")


@needs_memfd
@pytest.mark.usefixtures("memory_to_itself")  # before all others, so that it is let go last
def test_nothing_stays_after_the_parent_was_killed(gate, tmp_path):
    script = f"""
    import numpy
    from procbackground import Manager
    from tests.test_share import read_then_stop
    from tests.support.gate import Address

    if __name__ == "__main__":
        manager = Manager(max_workers=2)
        shared = manager.share(numpy.ones({64 << 20}))
        handles = [manager.run(read_then_stop, Address(*{tuple(gate.address)!r}), shared) for _ in range(2)]
        [handle.result() for handle in handles]
    """
    before = shared_memory_bytes()
    with scripts.running(script, tmp_path) as process:
        workers = [gate.wait_for_arrival() for _ in range(2)]
        assert shared_memory_bytes() - before > 400 << 20
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_until_gone(workers, PATIENCE_S)
        wait_until(lambda: shared_memory_bytes() - before < 100 << 20, "the memory is free")


@needs_memfd
def test_no_room_is_an_error_of_the_call(tmp_path):
    source = f"""
    import errno, os, resource
    import numpy
    from procbackground import Manager
    from tests.test_share import total

    if __name__ == "__main__":
        with Manager(max_workers=1) as manager:
            manager.run(total, numpy.ones(1)).result(timeout={PATIENCE_S})
            before = set(os.listdir("/proc/self/fd"))
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
            try:
                manager.share(numpy.ones(1 << 20))
            except OSError as error:
                assert error.errno == errno.EFBIG, error
                assert "8388" in str(error) and "cannot be shared" in str(error), error
            else:
                raise AssertionError("it was shared in spite of the limit")
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            try:
                manager.share(Endless())
            except OSError as error:
                assert error.errno == errno.ENOMEM and "are free" in str(error), error
            else:
                raise AssertionError("it was shared without memory")
            assert set(os.listdir("/proc/self/fd")) == before
            assert manager.run(total, manager.share(numpy.ones(9))).result(timeout={PATIENCE_S}) == 9
    """
    endless = """
    import pickle, mmap

    NORESERVE = 0x4000  # of Linux

    class Endless:
        # More than any machine has, and none of it touched.
        def __reduce_ex__(self, protocol):
            return len, (pickle.PickleBuffer(mmap.mmap(-1, 1 << 45, flags=mmap.MAP_PRIVATE | NORESERVE)),)
    """
    done = scripts.run(endless + source, "file", tmp_path)
    assert done.returncode == 0, done.stderr


@needs_memfd
def test_too_few_descriptors_are_an_error_of_the_call(manager):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert manager.run(total, np.ones(1)).result(timeout=PATIENCE_S) == 1
    made = []

    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with pytest.raises(OSError, match="50 are shared already") as caught:
            made.extend(manager.share([number]) for number in range(200))
        assert caught.value.errno == errno.EMFILE
        assert len(made) == 50
        assert manager.run(len, made).result(timeout=PATIENCE_S) == 50  # there are enough for work
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    made.clear()
    gc.collect()
    assert manager.run(total, manager.share(np.ones(3))).result(timeout=PATIENCE_S) == 3


def allow_no_more_descriptors():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    return os.getpid()


def test_a_worker_without_descriptors_is_replaced(make_manager):
    manager = make_manager(max_workers=1)
    shared = manager.share(ARRAY)
    pid = manager.run(allow_no_more_descriptors).result(timeout=PATIENCE_S)
    doomed = manager.run(identity, shared)
    handles = [manager.run(identity, shared) for _ in range(5)]
    with pytest.raises(SerializationError, match=r"arguments could not be loaded .*shared value has not arrived"):
        doomed.result(timeout=PATIENCE_S)
    assert pid not in {handle.result(timeout=PATIENCE_S)[0] for handle in handles}


def test_what_cannot_be_pickled_is_an_error_of_the_call(manager):
    with pytest.raises(SerializationError, match=r"value to be shared .*lock.* at \[1\]"):
        manager.share([1, threading.Lock()])
    with pytest.raises(SerializationError, match="Shared"):
        manager.share([manager.share(1)])


def test_what_cannot_be_loaded_fails_at_the_handle(manager):
    shared = manager.share(Unloadable())
    for _ in range(2):
        with pytest.raises(SerializationError, match="arguments could not be loaded"):
            manager.run(echo, shared).result(timeout=PATIENCE_S)


def test_it_crosses_in_tasks_only(manager, shared):
    with pytest.raises(TypeError, match="only cross in the function or the arguments"):
        pickle.dumps(shared)
    with pytest.raises(SerializationError, match="Shared"):
        Manager(initializer=echo, initargs=(shared,))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a fork of a process with threads warns")
def test_a_fork_cannot_use_it(manager, shared):
    assert total(shared.value) == TOTAL
    pid = os.fork()
    if not pid:
        code = 1
        try:
            shared.value  # noqa: B018
        except ManagerClosedError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert manager.run(total, shared).result(timeout=PATIENCE_S) == TOTAL


@needs_memfd
def test_a_forked_worker_keeps_none_of_the_memory(make_manager):
    manager = make_manager(max_workers=1, mp_context="fork")
    shares = [manager.share(ARRAY) for _ in range(3)]
    assert manager.run(descriptors).result(timeout=PATIENCE_S) == 0
    assert manager.run(total, shares[0]).result(timeout=PATIENCE_S) == TOTAL


def test_a_journal_knows_it_by_its_content(make_manager, tmp_path):
    for _ in range(2):
        manager = make_manager(journal=tmp_path / "journal.sqlite")
        handles = [manager.run(total, manager.share(ARRAY)), manager.run(partial(total, manager.share(ARRAY + 1)))]
        assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [TOTAL, TOTAL + ELEMENTS]
        attempts = [len(handle.attempts) for handle in handles]
        manager.close()
    assert attempts == [0, 0]
