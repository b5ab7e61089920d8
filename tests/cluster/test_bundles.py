"""Short tasks go to the cluster in bundles: each of them still is an attempt of its own."""

from __future__ import annotations

from collections import Counter

from procbackground import Task, WorkerDiedError
from procbackground.engines._bundles import SHORT_S
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import counting, failing, gated, plain

PLACES = 4  # of the shared cluster


def warm_up(manager, fn, *args):
    """Let the manager learn that calls of `fn` are short."""
    for handle in [manager.run(fn, *args) for _ in range(100)]:
        handle.result(PATIENCE_S)


def warm_up_until_known(manager, fn, *args):
    """Do the same until it has learnt that, which on a busy machine takes more calls."""
    recipes = manager._submitter._long_way_recipes

    def is_known() -> bool:
        warm_up(manager, fn, *args)
        return 0 <= recipes[fn].mean_s < SHORT_S

    wait_until(is_known, "calls are known to be short")


def test_short_tasks_go_to_dask_together(manager):
    warm_up_until_known(manager, plain.echo, 0)
    connection = manager._supervisor._loop.engine._connection
    most: list[int] = []
    submit = connection._submit
    connection._submit = lambda lists, priority: (most.extend(map(len, lists)), submit(lists, priority))
    handles = [manager.run(plain.echo, number) for number in range(400)]
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(400))
    assert max(most) > 1
    assert sum(most) == 400
    wait_until(lambda: not connection._tasks and not connection._bundles, "nothing of them is left")


def test_lost_node_costs_no_short_task_and_nothing_that_was_reported_runs_again(
    make_cluster, make_manager, recorder, tmp_path
):
    cluster = make_cluster()
    log = str(tmp_path / "log")
    manager = make_manager(cluster, observer=recorder)
    warm_up(manager, counting.count, str(tmp_path / "other"), 0)
    handles = [manager.run(counting.count, log, number) for number in range(1500)]
    recorder.wait_for("task_succeeded", 100 + 300)
    ended = {event.result for event in recorder.events("task_succeeded")[100:]}
    cluster.nodes[0].kill()
    assert [handle.result(PATIENCE_S * 2) for handle in handles] == list(range(1500))
    begins = Counter(counting.lines(log, "begins"))
    assert set(begins) == set(range(1500))
    assert all(begins[number] == 1 for number in ended)


def test_cancelled_task_of_a_bundle_never_begins(manager, gate, tmp_path):
    log = str(tmp_path / "log")
    warm_up_until_known(manager, counting.count, str(tmp_path / "other"), 0)
    holding = [manager.run(gated.stop_then_do, gate.address) for _ in range(PLACES)]
    for _ in holding:
        gate.wait_for_arrival()
    handles = [manager.run(counting.count, log, number) for number in range(200)]
    connection = manager._supervisor._loop.engine._connection
    wait_until(lambda: len(connection._bundles) == 200 + PLACES, "all are given to dask")
    assert len(connection._tasks) < 200
    assert all(handle.cancel() for handle in handles[1::2])
    manager.processes()  # the nodes answer after they have heard what was said before
    gate.open()
    assert [handle.result(PATIENCE_S) for handle in handles[::2]] == list(range(0, 200, 2))
    assert sorted(counting.lines(log, "begins")) == list(range(0, 200, 2))
    for handle in holding:
        handle.result(PATIENCE_S)


def test_short_tasks_do_not_wait_for_one_that_turns_out_long(manager):
    warm_up(manager, plain.pause, 0)
    seconds = [*[0] * 40, 300, 300, *[0] * 40]
    handles = [manager.run(plain.pause, each) for each in seconds]
    for handle, each in zip(handles, seconds, strict=True):
        if not each:
            handle.result(PATIENCE_S)
    assert [handle.cancel() for handle, each in zip(handles, seconds, strict=True) if each] == [True, True]


def test_death_within_a_bundle_costs_only_its_task(manager):
    warm_up(manager, failing.die_if_told, 0)
    items = [*range(100), "die", *range(100)]
    handles = [manager.run(failing.die_if_told, item) for item in items]
    errors = [handle.exception(PATIENCE_S) for handle in handles]
    assert [number for number, error in enumerate(errors) if error is not None] == [100]
    assert isinstance(errors[100], WorkerDiedError)


def test_large_results_of_a_bundle_come_whole(manager):
    warm_up(manager, plain.bytes_of_size, 10)
    sizes = [10, 100_000, 20, 300_000] * 20
    handles = [manager.run_task(Task(plain.bytes_of_size, args=(size,))) for size in sizes]
    assert [len(handle.result(PATIENCE_S)) for handle in handles] == sizes
