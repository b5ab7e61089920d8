"""Scheduler and nodes in network namespaces of their own, whose links are cut: no connection is closed then.

The links:

    this process ── bridge ─┬─ scheduler
                            ├─ node 1
                            └─ node 2
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest

from procbackground import EngineLostError, Manager
from tests.cluster.nodes import Cluster
from tests.support.facts import wait_until
from tests.support.tasks import counting

PATIENCE_S = 60.0
MIB = 1 << 20
LOST_S = "3s"  # without a heartbeat, until dask gives up a node
SILENT_S = "12s"  # until it gives up a connection, the least that it allows


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def why_not() -> str:
    """Return why there can be no namespaces here, or nothing."""
    if shutil.which("ip") is None:
        return "needs iproute2"
    name = f"pb{os.getpid()}t"
    try:
        ip("netns", "add", name)
        ip("netns", "del", name)
        ip("link", "add", name, "type", "veth", "peer", "name", f"{name}x")
        ip("link", "del", name)
    except (subprocess.CalledProcessError, OSError):
        return "network namespaces are not allowed here"
    return ""


def has(*discipline: str) -> bool:
    """Whether the kernel has such a queueing discipline."""
    name = f"pb{os.getpid()}s"
    ip("netns", "add", name)
    command = ["ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "lo", "root", *discipline]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False
    finally:
        ip("netns", "del", name)


REASON = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(REASON), reason=REASON or "namespaces can be made"),
]


class Net:
    """A bridge with our own address, and places behind it."""

    def __init__(self) -> None:
        number = os.getpid() % 200
        self._name = f"pb{os.getpid()}"
        self._base = f"10.213.{number}"
        self._places: list[str] = []
        ip("link", "add", self._name, "type", "bridge")
        ip("addr", "add", f"{self._base}.1/24", "dev", self._name)
        ip("link", "set", self._name, "up")

    def add(self) -> tuple[tuple[str, ...], str]:
        """Add a place; return the command that runs another one there, and its address."""
        number = len(self._places) + 2
        place = f"{self._name}n{number}"
        inner = f"{place}i"
        self._places.append(place)
        ip("netns", "add", place)
        ip("link", "add", place, "type", "veth", "peer", "name", inner)
        ip("link", "set", inner, "netns", place)
        ip("link", "set", place, "master", self._name)
        ip("link", "set", place, "up")
        address = f"{self._base}.{number}"
        for command in (("addr", "add", f"{address}/24", "dev", inner), ("link", "set", inner, "up"),
                        ("link", "set", "lo", "up")):  # fmt: skip
            ip("-n", place, *command)
        return ("ip", "netns", "exec", place), address

    def cut(self, index: int) -> None:
        """Cut the link of a place: what is sent to or from it is lost, and nobody is told."""
        ip("link", "set", self._places[index], "down")

    def slow_down(self, index: int) -> None:
        """Let a place send a megabyte a second."""
        place = self._places[index]
        shape = ("tbf", "rate", "8mbit", "burst", "16000", "latency", "1s")
        command = ["ip", "netns", "exec", place, "tc", "qdisc", "add", "dev", f"{place}i", "root", *shape]
        subprocess.run(command, check=True, capture_output=True)

    def bytes_from(self, index: int) -> int:
        """Return how much a place has sent."""
        return int(Path(f"/sys/class/net/{self._places[index]}/statistics/rx_bytes").read_text())

    def mend(self, index: int) -> None:
        ip("link", "set", self._places[index], "up")

    def remove(self) -> None:
        for place in self._places:
            subprocess.run(["ip", "netns", "del", place], check=False, capture_output=True)
            subprocess.run(["ip", "link", "del", place], check=False, capture_output=True)
        ip("link", "del", self._name)


SCHEDULER, FIRST, SECOND = 0, 1, 2  # indices of places


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    yield net
    net.remove()


@pytest.fixture
def cluster(net: Net, tmp_path: Path) -> Iterator[Cluster]:
    environment = {
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": LOST_S, "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": SILENT_S,
    }  # fmt: skip
    within, host = net.add()
    cluster = Cluster(tmp_path, within=within, host=host, environment=environment)
    try:
        for _ in range(2):
            within, host = net.add()
            cluster.add_node(within=within, host=host, waits=False)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        for index in range(3):
            net.mend(index)
        cluster.stop()


@pytest.fixture
def run(cluster: Cluster, make_manager: Callable[..., Manager], tmp_path: Path) -> Iterator[Any]:
    """Runs a hundred tasks, of which some have ended, some run and some wait when it returns."""
    with pytest.warns(RuntimeWarning, match="encrypted"):
        manager = make_manager(cluster)
    with dask.config.set({"distributed.comm.timeouts.tcp": SILENT_S}):
        log = tmp_path / "log"
        handles = [manager.run(counting.count, str(log), number, 0.1) for number in range(100)]
        wait_until(lambda: manager.stats().succeeded >= 20, "some have ended", PATIENCE_S)
        yield manager, handles, log


def assert_all_came(handles: list[Any], log: Path, most_again: int) -> None:
    """Every task has its result, those whose end was reported before did not run again, and few others did."""
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(100))
    begins = Counter(counting.lines(log, "begins"))
    assert set(begins) == set(range(100))
    assert sum(begins.values()) - 100 <= most_again


def test_link_that_is_cut_for_a_while_costs_nothing(net, run):
    manager, handles, log = run
    ended = [number for number, handle in enumerate(handles) if handle.done()]
    net.cut(FIRST)
    mended = threading.Timer(5.0, net.mend, (FIRST,))  # longer than dask waits: the node is given up and comes back
    mended.start()
    assert_all_came(handles, log, most_again=8)
    mended.join()
    begins = Counter(counting.lines(log, "begins"))
    assert all(begins[number] == 1 for number in ended)
    assert manager.run(pow, 2, 5).result(PATIENCE_S) == 32


def test_link_that_is_cut_for_good_costs_no_task(net, run):
    _, handles, log = run
    ended = [number for number, handle in enumerate(handles) if handle.done()]
    net.cut(SECOND)
    assert_all_came(handles, log, most_again=8)
    begins = Counter(counting.lines(log, "begins"))
    assert all(begins[number] == 1 for number in ended)


def test_node_that_loses_power_costs_no_task(net, run, cluster):
    _, handles, log = run
    net.cut(FIRST)
    for pid in cluster.nodes[0].pids():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    assert_all_came(handles, log, most_again=8)


def test_way_to_the_scheduler_that_is_cut_for_good_ends_every_handle(net, run):
    manager, handles, _ = run
    net.cut(SCHEDULER)
    began = time.monotonic()
    errors = [handle.exception(PATIENCE_S) for handle in handles]
    assert time.monotonic() - began < 30
    assert {type(error) for error in errors} == {type(None), EngineLostError}
    began = time.monotonic()
    manager.close(timeout=1)
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("lost", ["node", "scheduler"])
def test_large_result_whose_way_is_cut_while_it_is_fetched_ends_in_time(net, cluster, make_manager, tmp_path, lost):
    if not has("tbf", "rate", "8mbit", "burst", "16000", "latency", "1s"):
        pytest.skip("this kernel can shape no links")
    with pytest.warns(RuntimeWarning, match="encrypted"):
        manager = make_manager(cluster)
    with dask.config.set({"distributed.comm.timeouts.tcp": SILENT_S}):
        assert manager.run(pow, 2, 2).result(PATIENCE_S) == 4
        log = str(tmp_path / "log")
        senders = (FIRST, SECOND) if lost == "node" else (SCHEDULER,)
        before = [net.bytes_from(index) for index in senders]
        for index in senders:
            net.slow_down(index)
        handle = manager.run(counting.count_and_return, log, 7, 10 * MIB)

        def sender() -> int | None:
            sent = [net.bytes_from(index) - first for index, first in zip(senders, before, strict=True)]
            return next((index for index, much in zip(senders, sent, strict=True) if much > MIB), None)

        wait_until(lambda: sender() is not None, "a part of the result is on its way", PATIENCE_S)
        cut = sender()
        assert cut is not None
        net.cut(cut)
        began = time.monotonic()
        if lost == "node":
            assert handle.result(PATIENCE_S) == bytes(10 * MIB)
            assert counting.lines(log, "begins") == [7, 7]
        else:
            assert isinstance(handle.exception(PATIENCE_S), EngineLostError)
            assert time.monotonic() - began < 30


# Of each, the first that the kernel has. A token bucket delays what is over its rate, and drops what its queue cannot
# hold.
SHAPES = {
    "slow": (("netem", "delay", "50ms", "10ms"), ("tbf", "rate", "64kbit", "burst", "1600", "latency", "5s")),
    "lossy": (("netem", "loss", "2%"), ("tbf", "rate", "32kbit", "burst", "1600", "limit", "1500")),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_slow_and_lossy_links_lose_nothing(net, run, shape):
    discipline = next((each for each in SHAPES[shape] if has(*each)), None)
    if discipline is None:
        pytest.skip("this kernel can shape no links")
    _, handles, log = run
    device = ("dev", net._places[FIRST], "root")
    subprocess.run(["tc", "qdisc", "add", *device, *discipline], check=True, capture_output=True)
    assert_all_came(handles, log, most_again=0)
    told = subprocess.run(["tc", "-s", "qdisc", "show", *device], check=True, capture_output=True, text=True).stdout
    found = re.search(r"dropped (\d+), overlimits (\d+)", told)
    assert found, told
    dropped, delayed = map(int, found.groups())
    if shape == "lossy":
        assert dropped > 0
    elif discipline[0] == "tbf":
        assert delayed > 0
