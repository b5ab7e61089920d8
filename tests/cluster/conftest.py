"""Fixtures: clusters of dask, and managers that use them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from procbackground import Manager
from tests.cluster.nodes import Cluster, left_in_cluster
from tests.support.facts import helper_pids

if find_spec("distributed"):
    import distributed
else:
    collect_ignore_glob = ["test_[!i]*.py"]  # `test_installed` says so

CLOSE_S = 10.0
LEAK_PATIENCE_S = 5.0


def _own_threads() -> set[threading.Thread]:
    """Return the threads of procbackground. Those of dask's client and of its event loops stay with the process."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("procbackground")}


def _children() -> set[int]:
    """Return the pids of our children, but not of what runs below the nodes, and of the helpers of multiprocessing."""
    return {child.pid for child in psutil.Process().children()} - helper_pids()


class SharedCluster:
    """A cluster of two nodes with two places each, for all tests that leave it as it is."""

    def __init__(self, make_folder: Callable[[], Path]) -> None:
        self._make_folder = make_folder
        self._cluster: Cluster | None = None

    def get(self) -> Cluster:
        """Return the cluster; the first time, and after `drop`, a new one."""
        if self._cluster is None:
            self._cluster = Cluster(self._make_folder())
            for _ in range(2):
                self._cluster.add_node(waits=False)
            self._cluster.wait_for_nodes()
            self._client = distributed.Client(self._cluster.address, set_as_default=False)
        return self._cluster

    def what_is_left(self) -> list[str]:
        """Return what is not as in an idle cluster."""
        return left_in_cluster(self._client, len(self.get().nodes))

    def drop(self) -> None:
        """Stop the cluster, if there is one."""
        if self._cluster is not None:
            self._client.close()
            self._cluster.stop()
            self._cluster = None


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, _warm_helpers: None) -> Iterator[SharedCluster]:
    shared = SharedCluster(lambda: tmp_path_factory.mktemp("cluster"))
    yield shared
    shared.drop()


@pytest.fixture
def shared_cluster(shared: SharedCluster) -> Cluster:
    return shared.get()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest, _warm_helpers: None) -> Iterator[None]:
    """Fail a test that leaves a process, one of our threads or something in the shared cluster behind. Instead of the
    fixture for tests without dask."""
    shared: SharedCluster | None = None
    if "shared_cluster" in request.fixturenames:
        shared = request.getfixturevalue("shared")
        cluster = shared.get()  # before the look at processes
    before, threads = _children(), _own_threads()
    yield
    end = time.monotonic() + LEAK_PATIENCE_S
    while left := [*(_children() - before), *(_own_threads() - threads)]:
        if time.monotonic() > end:
            pytest.fail(f"left behind: {left}", pytrace=False)
        time.sleep(0.01)
    while shared is not None and (left := shared.what_is_left()):
        if time.monotonic() > end:
            shared.drop()  # what is left would take places from the next tests
            pytest.fail(f"left in the cluster: {left}\n\n{cluster.logs()}", pytrace=False)
        time.sleep(0.01)


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """A function that starts a cluster, to be damaged."""
    made: list[Cluster] = []

    def make(nodes: int = 2, *, nanny: bool = False, nthreads: int = 2, **options: Any) -> Cluster:
        folder = tmp_path / f"cluster-{len(made)}"
        folder.mkdir()
        cluster = Cluster(folder, **options)
        made.append(cluster)
        for _ in range(nodes):
            cluster.add_node(nanny=nanny, nthreads=nthreads, waits=False)
        cluster.wait_for_nodes()
        return cluster

    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture
def make_manager(shared_cluster: Cluster) -> Iterator[Callable[..., Manager]]:
    """A function that makes managers of the shared cluster, or of another one; they are closed afterwards."""
    made: list[Manager] = []

    def make(cluster: Cluster | None = None, **options: Any) -> Manager:
        from procbackground.engines import DaskEngine

        engine = DaskEngine((cluster or shared_cluster).address)
        manager = Manager(engine=engine, **options)
        made.append(manager)
        return manager

    yield make
    for manager in made:
        assert manager.close(timeout=CLOSE_S).left == ()


@pytest.fixture
def manager(make_manager: Callable[..., Manager]) -> Manager:
    return make_manager()
