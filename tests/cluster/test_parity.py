"""Tests of managers on one machine, run once more on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from procbackground import Manager
from tests import (
    test_bulk,
    test_cancel,
    test_checkpoints,
    test_context_variables,
    test_exceptions,
    test_limits,
    test_loops,
    test_map,
    test_retry,
    test_stream,
    test_tasks,
)
from tests.cluster.nodes import Cluster

pytestmark = pytest.mark.slow  # since they are many

MODULES = (
    test_tasks, test_retry, test_stream, test_bulk, test_cancel, test_checkpoints, test_context_variables,
    test_exceptions, test_limits, test_loops, test_map,
)  # fmt: skip
# The only tests of these modules that do not hold for a cluster, and why.
ON_ANY_NODE = "the next task may run on another node, in a process of that"
OTHER_MACHINES = "the manager knows of no processes on other machines"
TOO_MANY = "five thousand single tasks in two places: a round trip takes ten milliseconds"
ON_ITS_WAY = "the report of its start may be on its way yet"
DIFFERENT = {
    "test_a_running_attempt_is_listed_without_an_end": ON_ITS_WAY,
    "test_a_stalled_task_is_never_killed": ON_ANY_NODE,
    "test_a_thousand_tasks_of_which_a_fifth_fail_are_all_accounted_for": OTHER_MACHINES,
    "test_a_killed_attempt_says_what_it_was_seen_to_hold": OTHER_MACHINES,
    "test_what_forks_share_counts_once": OTHER_MACHINES,
    "test_the_peak_of_a_tree_that_died_counts_what_forks_share_once": OTHER_MACHINES,
    "test_a_look_that_fails_is_not_the_last": OTHER_MACHINES,
    "test_nobody_looks_at_memory_without_a_reason": OTHER_MACHINES,
    "test_pages_of_files_that_are_mapped_are_not_held": OTHER_MACHINES,
    "test_watching_costs_less_than_a_hundredth_of_a_core": OTHER_MACHINES,
    "test_threads_that_share_a_map_share_its_values": TOO_MANY,
    "test_a_warm_process_is_reused": ON_ANY_NODE,
    "test_what_is_larger_than_a_pipe_costs_no_worker": ON_ANY_NODE,
    "test_max_tasks_per_child_renews_the_process": ON_ANY_NODE,
    "test_isolated_tasks_keep_to_max_workers": OTHER_MACHINES,
}

for _module in MODULES:
    for _name, _value in vars(_module).items():
        if type(_value).__name__ == "FixtureFunctionDefinition" and _name not in ("make_manager", "manager"):
            globals()[_name] = _value
        if _name.startswith("test_") and _name not in DIFFERENT and callable(_value):
            globals()[_name] = _value


def test_the_list_of_differences_names_tests_that_exist():
    assert all(any(hasattr(module, name) for module in MODULES) for name in DIFFERENT)


@pytest.fixture
def make_manager(shared_cluster: Cluster) -> Iterator[Callable[..., Manager]]:
    from procbackground.engines import DaskEngine

    made: list[Manager] = []

    def make(**options: Any) -> Manager:
        manager = Manager(**{"max_workers": 2, "engine": DaskEngine(shared_cluster.address), **options})
        made.append(manager)
        return manager

    yield make
    for manager in made:
        assert manager.close(timeout=10).left == ()
