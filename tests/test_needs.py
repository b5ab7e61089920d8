"""What a task needs, `cores`, `memory` and `slots`: it has them while it runs, and nobody else has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from procbackground import Manager, QueueFullError, Task, TaskTimeoutError, WorkerDiedError
from procbackground._testing import View, free_memory_bytes
from tests.support import scripts
from tests.support.facts import wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import gated, leaving, needing, plain
from tests.test_child_setup import blas_threads

METHODS = ["forkserver", pytest.param("spawn", marks=pytest.mark.slow), "fork"]


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def no_devices(monkeypatch):
    """An environment in which CUDA_VISIBLE_DEVICES is not set."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


pytestmark = pytest.mark.usefixtures("no_devices")

# -- slots ---------------------------------------------------------------------------------------------------


def test_tasks_that_run_at_once_have_different_slots(make_manager, gate):
    manager = make_manager(max_workers=4, slots={"gpu": 2})
    view = manager.options(slots={"gpu": 1})
    handles = [view.run(needing.stop_with_slots, gate.address) for _ in range(3)]
    arrivals = [gate.next_arrival(), gate.next_arrival()]
    assert sorted(each.label["gpu"] for each in arrivals) == [(0,), (1,)]
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9  # needs none
    assert not gate.has_arrivals()
    gate.release(arrivals[0].pid)
    third = gate.next_arrival()
    assert (third.pid, third.label) == (arrivals[0].pid, arrivals[0].label)  # the process is kept for its slot
    gate.open()
    for given in (handle.result(timeout=PATIENCE_S) for handle in handles):
        assert given["devices"] == str(given["slots"]["gpu"][0])


def test_devices_are_set_before_anything_is_imported(make_manager, method):
    manager = make_manager(slots={"gpu": 2}, mp_context=method)
    given = manager.options(slots={"gpu": 2}).run(needing.given).result(timeout=PATIENCE_S)
    assert given["slots"] == {"gpu": (0, 1)}
    assert given["devices"] == "0,1"
    if method != "fork":  # which has what its parent has imported
        assert given["devices at import"] == "0,1"


def test_main_module_finds_its_devices_when_it_is_imported(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import os\n"
        "from procbackground import Manager, current\n"
        "DEVICES = os.environ.get('CUDA_VISIBLE_DEVICES')\n"
        "def devices():\n"
        "    return DEVICES, current().slots\n"
        "if __name__ == '__main__':\n"
        "    with Manager(2, slots={'gpu': 2}) as manager:\n"
        "        print(manager.run(devices).result())\n"
        "        print(manager.options(slots={'gpu': 1}).run(devices).result())\n"
    )
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True,
        env={name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"},
    )  # fmt: skip
    assert ran.stdout.splitlines() == ["(None, {})", "('0', {'gpu': (0,)})"]


def test_numbers_count_among_the_devices_that_the_environment_names(make_manager, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc,7")
    manager = make_manager(slots={"gpu": 3})
    given = manager.options(slots={"gpu": 2}).run(needing.given).result(timeout=PATIENCE_S)
    assert given["devices"] == "5,GPU-abc"
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES names 3"):
        Manager(slots={"gpu": 4})


def test_devices_that_are_hidden_stay_so(make_manager):
    manager = make_manager(slots={"gpu": 1}, env={"CUDA_VISIBLE_DEVICES": "-1"})
    given = manager.options(slots={"gpu": 1}).run(needing.given).result(timeout=PATIENCE_S)
    assert (given["slots"], given["devices"]) == ({"gpu": (0,)}, "-1")


def test_other_names_set_no_variable(make_manager):
    manager = make_manager(slots={"licence": 3, "disk": 1})
    given = manager.options(slots={"licence": 2, "disk": 1}).run(needing.given).result(timeout=PATIENCE_S)
    assert given["slots"] == {"disk": (0,), "licence": (0, 1)}
    assert given["devices"] is None


def test_a_task_without_needs_has_no_slots(make_manager):
    manager = make_manager(slots={"gpu": 1})
    assert manager.run(needing.given).result(timeout=PATIENCE_S)["slots"] == {}


def test_slots_come_back_after_a_death_and_the_retry_has_some_again(make_manager, gate):
    manager = make_manager(slots={"gpu": 1}, retry=2)
    view = manager.options(slots={"gpu": 1})
    handle = view.run(needing.tell_slots_then_die, gate.address)
    assert gate.wait_for_label() == {"gpu": (0,)}
    assert handle.result(timeout=PATIENCE_S)["slots"] == {"gpu": (0,)}
    first, second = handle.attempts
    assert first.pid != second.pid
    assert view.run(needing.given).result(timeout=PATIENCE_S)["slots"] == {"gpu": (0,)}


@pytest.mark.parametrize("how", ["kill", "cancel", "timeout"])
def test_slots_and_places_come_back_however_an_attempt_ends(make_manager, gate, how):
    manager = make_manager(max_workers=2, slots={"gpu": 2}, grace=0.5)
    view = manager.options(slots={"gpu": 2}, cores=2)
    held = view.options(timeout=0.5 if how == "timeout" else None).run(needing.stop_with_slots, gate.address)
    pid = gate.wait_for_arrival()
    waiting = view.run(needing.given)
    small = manager.run(plain.square, 3)
    if how == "kill":
        os.kill(pid, signal.SIGKILL)
        assert isinstance(held.exception(timeout=PATIENCE_S), WorkerDiedError)
    elif how == "cancel":
        assert held.cancel()
    else:
        assert isinstance(held.exception(timeout=PATIENCE_S), TaskTimeoutError)
    assert waiting.result(timeout=PATIENCE_S)["slots"] == {"gpu": (0, 1)}
    assert small.result(timeout=PATIENCE_S) == 9


def test_isolated_task_has_a_process_and_slots_to_itself(make_manager):
    manager = make_manager(slots={"gpu": 1})
    view = manager.options(slots={"gpu": 1})
    pids = [view.run(needing.given).result(timeout=PATIENCE_S)["pid"]]
    pids += [view.options(isolate=True).run(needing.given).result(timeout=PATIENCE_S)["pid"] for _ in range(2)]
    assert len(set(pids)) == 3


def test_map_and_stream_have_slots_too(make_manager):
    manager = make_manager(slots={"gpu": 1})
    view = manager.options(slots={"gpu": 1})
    assert list(view.map(needing.slots_of_row, range(20))) == [(number, {"gpu": (0,)}) for number in range(20)]
    tasks = (Task(needing.given, slots={"gpu": 1}) for _ in range(5))
    assert len({handle.result()["pid"] for handle in manager.stream(tasks)}) == 1


def test_row_that_fails_is_tried_again_with_slots(make_manager):
    view = make_manager(slots={"gpu": 1}, retry=2).options(slots={"gpu": 1})
    assert list(view.map(needing.fail_first, range(4))) == [(2, {"gpu": (0,)})] * 4


def test_journal_gives_results_of_tasks_with_slots_at_once(make_manager, tmp_path):
    pids = set()
    for _ in range(2):
        manager = make_manager(slots={"gpu": 1}, journal=tmp_path / "journal.sqlite")
        pids.add(manager.options(slots={"gpu": 1}).run(needing.given).result(timeout=PATIENCE_S)["pid"])
        manager.close()
    assert len(pids) == 1


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="what is promised of Linux")
def test_processes_with_slots_end_with_the_parent_that_is_killed(gate, tmp_path):
    body = """
        manager = Manager(max_workers=2, slots={"gpu": 1})
        manager.options(slots={"gpu": 1}).run(gated.start_grandchild, address, True)
        time.sleep(60)
    """
    with scripts.running(scripts.parent(gate, body), tmp_path) as process:
        worker, child = gate.next_arrival()
        process.kill()
        wait_until_gone([worker, child])


@pytest.mark.parametrize("act", [leaving.leave, leaving.leave_and_raise])
def test_what_a_task_with_slots_has_started_ends_with_its_attempt(make_manager, gate, act):
    manager = make_manager(slots={"gpu": 1})
    handle = manager.options(slots={"gpu": 1}).run(act, gate.address, "forked twice")
    left = gate.wait_for_label()
    handle.exception(timeout=PATIENCE_S)
    wait_until_gone([left])


def test_close_ends_processes_that_are_kept_for_slots(make_manager):
    manager = make_manager(slots={"gpu": 2})
    manager.options(slots={"gpu": 1}).run(needing.given).result(timeout=PATIENCE_S)
    assert manager.close().leftovers == ()


def test_initializer_runs_in_these_processes_too(make_manager, tmp_path):
    manager = make_manager(slots={"gpu": 1}, initializer=os.chdir, initargs=(str(tmp_path),))
    assert manager.options(slots={"gpu": 1}).run(os.getcwd).result(timeout=PATIENCE_S) == str(tmp_path)


# -- cores ---------------------------------------------------------------------------------------------------


def test_task_of_several_cores_takes_their_places(make_manager, gate):
    manager = make_manager(max_workers=3)
    broad = manager.options(cores=2).run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    others = [manager.run(gated.stop_then_do, gate.address) for _ in range(2)]
    gate.wait_for_arrival()
    wait_until(lambda: manager.stats().queued == 1, "one of them waits")
    assert manager.stats().running == 2
    gate.release(pid)
    broad.result(timeout=PATIENCE_S)
    gate.wait_for_arrival()
    gate.open()
    for handle in others:
        handle.result(timeout=PATIENCE_S)


def test_threads_follow_the_cores(make_manager, method):
    manager = make_manager(max_workers=3, mp_context=method)
    assert manager.options(cores=3).run(needing.given).result(timeout=PATIENCE_S)["threads"] == "3"
    capped = make_manager(max_workers=3, mp_context=method, threads_per_task=1)
    assert capped.options(cores=2).run(needing.given).result(timeout=PATIENCE_S)["threads"] == "2"
    assert capped.run(needing.given).result(timeout=PATIENCE_S)["threads"] == "1"


def test_what_the_user_sets_goes_before_the_cores(make_manager):
    manager = make_manager(env={"OMP_NUM_THREADS": "7"})
    assert manager.options(cores=2).run(needing.given).result(timeout=PATIENCE_S)["threads"] == "7"


def test_numpy_has_as_many_threads_as_the_task_has_cores(make_manager):
    pytest.importorskip("threadpoolctl")
    manager = make_manager(max_workers=2, threads_per_task=1, preload=["numpy"])
    assert set(manager.run(blas_threads).result(timeout=PATIENCE_S)) == {1}
    counts = manager.options(cores=2).run(blas_threads).result(timeout=PATIENCE_S)
    assert set(counts) == {min(2, len(os.sched_getaffinity(0)))}


def test_large_task_begins_though_small_ones_never_stop_coming(make_manager):
    manager = make_manager(max_workers=2)
    enough = threading.Event()

    def produce() -> None:
        while not enough.is_set():
            list(manager.map(plain.square_after, [0.02] * 4, range(4)))

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: manager.stats().succeeded > 4, "small ones run")
    try:
        assert manager.options(cores=2).run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    finally:
        enough.set()
        for thread in threads:
            thread.join(PATIENCE_S)


# -- memory --------------------------------------------------------------------------------------------------


def test_reservations_together_are_not_more_than_is_free(make_manager, gate):
    manager = make_manager(max_workers=2)
    view = manager.options(memory=free_memory_bytes() * 6 // 10)
    first, second = (view.run(stop_at_gate, gate.address) for _ in range(2))
    pid = gate.wait_for_arrival()
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    assert not gate.has_arrivals()
    assert not second.running()
    gate.release(pid)
    first.result(timeout=PATIENCE_S)
    gate.wait_for_arrival()
    gate.open()
    second.result(timeout=PATIENCE_S)


def test_reservations_that_fit_run_at_once(make_manager, gate):
    manager = make_manager(max_workers=2)
    handles = [manager.options(memory="10MiB").run(stop_at_gate, gate.address) for _ in range(2)]
    pids = {gate.wait_for_arrival(), gate.wait_for_arrival()}
    assert len(pids) == 2
    assert pids <= set(View(manager).worker_pids)
    gate.open()
    for handle in handles:
        handle.result(timeout=PATIENCE_S)


def test_tasks_that_wait_for_slots_fill_the_queue_though_workers_are_idle(make_manager, gate):
    manager = make_manager(max_workers=2, slots={"gpu": 1}, max_pending=2, when_full="raise")
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    view = manager.options(slots={"gpu": 1})
    handles = [view.run(needing.stop_with_slots, gate.address)]
    gate.wait_for_arrival()
    handles += [view.run(needing.given) for _ in range(2)]
    assert View(manager).idle == 1
    with pytest.raises(QueueFullError, match="2 tasks wait"):
        view.run(needing.given)
    gate.open()
    assert [handle.result(timeout=PATIENCE_S)["slots"] for handle in handles] == [{"gpu": (0,)}] * 3


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cores": 3}, r"cores=3 can never be met: the manager has 2 places"),
        ({"slots": {"gpu": 3}}, r"slots=\{'gpu': 3\} can never be met: the manager has 2"),
        ({"slots": {"tpu": 1}}, r"declares no slot 'tpu' \(but 'gpu': 2\)"),
        ({"memory": "1000TiB"}, r"memory=\d+ can never be met: the machine, .* has \d+ bytes"),
    ],
)
@pytest.mark.parametrize("inline", [False, True])
def test_needs_that_can_never_be_met_are_refused_at_once(make_manager, fields, message, inline):
    manager = make_manager(slots={"gpu": 2}, inline=inline)
    with pytest.raises(ValueError, match=message):
        manager.options(**fields)
    with pytest.raises(ValueError, match=message):
        manager.run_task(Task(plain.nothing, **fields))
    assert manager.stats().added == 0


def test_a_slot_of_a_manager_without_slots_is_refused_with_what_to_write(make_manager):
    expected = r"declares no slot 'gpu', as Manager\(slots=\{'gpu': 1\}\) does$"
    with pytest.raises(ValueError, match=expected):
        make_manager().run_task(Task(plain.nothing, slots={"gpu": 1}))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"cores": 0}, ValueError, "cores must be 1 or more, not 0"),
        ({"cores": 1.5}, TypeError, "cores takes an int, such as cores=2, not 1.5"),
        ({"memory": "lots"}, ValueError, "not a size: 'lots'"),
        ({"slots": ["gpu"]}, TypeError, r"slots takes a dict of numbers by name, such as slots=\{'gpu': 1\}"),
        ({"slots": {"gpu": 0}}, ValueError, r"slots\['gpu'\] must be 1 or more"),
        ({"slots": {0: 1}}, TypeError, "slots: 0 is no name"),
        ({"cores": 2, "type": "loop"}, ValueError, "a loop has no cores, memory or slots"),
    ],
)
def test_needs_that_are_none_are_refused_by_the_task(fields, error, message):
    with pytest.raises(error, match=message):
        Task(plain.nothing, **fields)


@pytest.mark.parametrize(
    ("slots", "error"), [({"gpu": 0}, ValueError), ({"gpu": "4"}, TypeError), ("gpu", TypeError), ({"": 1}, TypeError)]
)
def test_slots_that_are_none_are_refused_by_the_manager(slots, error):
    with pytest.raises(error, match="slots"):
        Manager(slots=slots)


# -- inline --------------------------------------------------------------------------------------------------


def test_inline_tasks_have_slots_too_and_wait_for_those_of_other_threads(make_manager, gate):
    manager = make_manager(slots={"gpu": 1}, inline=True)
    view = manager.options(slots={"gpu": 1}, cores=2, memory="1MiB")
    seen = []

    def hold() -> None:
        seen.append(view.run(needing.stop_with_slots, gate.address).result()["slots"])

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert gate.next_arrival().label == {"gpu": (0,)}
    threads[1].join(0.1)
    assert not gate.has_arrivals()
    gate.release(os.getpid())
    assert gate.next_arrival().label == {"gpu": (0,)}
    gate.open()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert seen == [{"gpu": (0,)}] * 2


nested_view = None  # arguments are pickled, also inline


def run_in_nested_view() -> dict[str, tuple[int, ...]]:
    return nested_view.run(needing.given).result()["slots"]


def test_inline_task_that_runs_another_shares_its_slots_with_it(make_manager, monkeypatch):
    view = make_manager(slots={"gpu": 1}, inline=True).options(slots={"gpu": 1})
    monkeypatch.setattr(sys.modules[__name__], "nested_view", view)
    assert view.run(run_in_nested_view).result() == {"gpu": (0,)}
