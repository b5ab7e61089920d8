"""Which requests go to a cluster together, and what its scheduler knows of them: decided without a cluster."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from procbackground._wire import attempts as w
from procbackground.engines._bundles import MOST_BYTES, MOST_TOGETHER, Bundle, in_bundles, key_of


def request(number: int, expected_s: float = 0.001, payload: bytes = b"") -> w.Request:
    return w.Request(
        number, "task", b"", payload, False, 0, 1, False, False, False, w.NEVER, w.NEVER, None, 0.0, None, None,
        expected_s=expected_s,
    )  # fmt: skip


def sizes(requests: list[w.Request], free: int = 0) -> list[int]:
    return [len(bundle) for bundle in in_bundles(requests, free)]


def test_short_requests_go_together_as_long_as_they_are_little_work():
    assert sizes([request(number, 0.015) for number in range(7)]) == [3, 3, 1]


def test_requests_that_take_no_time_go_together_up_to_a_number():
    assert max(sizes([request(number, 0.0) for number in range(500)])) <= MOST_TOGETHER


def test_threads_that_wait_get_one_request_each():
    assert sizes([request(number) for number in range(20)], free=4) == [1, 1, 1, 1, 16]
    assert sizes([request(number) for number in range(3)], free=8) == [1, 1, 1]


@pytest.mark.parametrize("expected_s", [0.021, w.NEVER])
def test_long_and_unknown_requests_go_alone_and_others_pass_them(expected_s):
    bundles = in_bundles([request(1), request(2, expected_s), request(3)], 0)
    assert [[each.number for each in bundle] for bundle in bundles] == [[2], [1, 3]]


def test_large_arguments_do_not_go_together():
    assert sizes([request(number, payload=bytes(MOST_BYTES - 1)) for number in range(3)]) == [1, 1, 1]


def test_nothing_is_lost_or_doubled_by_cutting():
    requests = [request(number, number % 17 / 1000) for number in range(300)]
    cut = [each.number for bundle in in_bundles(requests, 5) for each in bundle]
    assert sorted(cut) == list(range(300))


def test_future_of_dask_is_let_go_with_its_last_request_and_once():
    unwanted: deque[Any] = deque()
    bundle, future = Bundle([request(1), request(2)], unwanted), object()
    bundle.came(future)
    bundle.end(1)
    assert bundle.future is future
    assert not unwanted
    bundle.end(2)
    bundle.end(2)
    assert bundle.future is None
    assert list(unwanted) == [future]


def test_future_of_dask_is_let_go_where_all_has_ended_before_it_came():
    unwanted: deque[Any] = deque()
    bundle, future = Bundle([request(1)], unwanted), object()
    bundle.end(1)
    bundle.came(future)
    assert list(unwanted) == [future]


class FakeScheduler:
    """What the plugin uses of dask's scheduler."""

    def __init__(self) -> None:
        self.tasks: dict[Any, Any] = {}
        self.workers: dict[str, Any] = {"node": SimpleNamespace(resources={}, used_resources={})}
        self.sent: list[tuple[str, int]] = []
        self.released: list[str] = []

    def client_releases_keys(self, keys: list[str], client: str) -> None:
        assert client == "client"
        self.released += keys

    def add_resources(self, address: str, resources: dict[str, float]) -> None:
        self.workers[address].resources |= resources

    def bulk_schedule_unrunnable_after_adding_worker(self, node: Any) -> dict[str, str]:
        return {}

    def transitions(self, recommendations: dict[str, str], stimulus: str) -> None:
        assert not recommendations

    def worker_send(self, address: str, message: dict[str, Any]) -> None:
        self.sent.append((address, message["number"]))


@pytest.fixture
def side():
    pytest.importorskip("distributed")
    from procbackground.engines._dask_scheduler import SchedulerSide

    side = SchedulerSide("m", "client", 0.0)
    side._scheduler = FakeScheduler()
    return side


def runs_at(address: str | None) -> SimpleNamespace:
    return SimpleNamespace(processing_on=None if address is None else SimpleNamespace(address=address))


def test_scheduler_knows_what_has_ended_of_a_bundle(side):
    side.log_event("m", ([(7, 7), (7, 9)], [], b""))
    side.log_event("another", ([(7, 8)], [], b""))
    assert side.over(7) == {7, 9}
    assert side.over(8) == set()


def test_scheduler_has_dask_forget_a_bundle_with_its_last_report(side):
    side.log_event("m", ([(7, 7)], [], b""))
    assert side._scheduler.released == []
    side.log_event("m", ([(7, 9)], [7], b""))
    assert side._scheduler.released == [key_of("m", 7)]


def test_withdrawn_request_is_over_and_stopped_where_its_bundle_runs(side):
    side.declare("node", {}, None)
    side._scheduler.tasks = {key_of("m", 7): runs_at("node"), key_of("m", 20): runs_at(None)}
    side.withdraw([(7, 8), (20, 21), (30, 31)])
    assert side._scheduler.sent == [("node", 8)]
    assert [side.over(bundle) for bundle in (7, 20, 30)] == [{8}, {21}, {31}]


def test_node_is_sent_something_from_its_declaration_until_it_is_gone(side):
    side._scheduler.tasks = {key_of("m", 7): runs_at("node")}
    side.withdraw([(7, 8)])
    assert side._scheduler.sent == []
    side.declare("node", {}, None)
    side.withdraw([(7, 8)])
    side.remove_worker(side._scheduler, "node")
    side.withdraw([(7, 8)])
    assert side._scheduler.sent == [("node", 8)]


def test_scheduler_forgets_bundles_that_dask_has_forgotten_at_the_second_look(side):
    side._scheduler.tasks = {key_of("m", 1): runs_at("node")}
    for bundle in (1, 2):
        side.log_event("m", ([(bundle, bundle)], [], b""))
    side._sweep()
    assert side.over(1) == {1}
    assert side.over(2) == {2}
    side.log_event("m", ([(2, 3)], [], b""))
    assert side.over(2) == {2, 3}
    side._sweep()
    side._sweep()
    assert side.over(1) == {1}
    assert side.over(2) == set()
