"""dask's local scheduler with a manager, or a view on one, as its pool."""

from __future__ import annotations

import os
import signal

import pytest

from procbackground import WorkerDiedError

dask = pytest.importorskip("dask")
bag = pytest.importorskip("dask.bag")


def increment(x: int) -> int:
    return x + 1


def pid_of(_: object) -> int:
    return os.getpid()


def add(*numbers: int) -> int:
    return sum(numbers)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise LookupError("refused")


def test_a_graph_is_computed_in_our_workers(manager):
    leaves = [dask.delayed(increment)(number) for number in range(10)]
    total = dask.delayed(add)(*leaves)
    pids = dask.delayed([dask.delayed(pid_of)(leaf) for leaf in leaves])
    with dask.config.set(scheduler="processes", pool=manager):
        computed, where = dask.compute(total, pids)
    assert computed == 55
    assert set(where) <= {process.pid for process in manager.processes()}


def test_a_bag_is_computed(manager):
    numbers = bag.from_sequence(range(100), npartitions=5)
    even = numbers.map(increment).filter(lambda number: number % 2 == 0).sum()
    assert even.compute(scheduler="processes", pool=manager) == sum(range(2, 101, 2))


def test_a_view_is_a_pool_too(manager):
    with dask.config.set(scheduler="processes", pool=manager.options(retry=2, timeout=60)):
        assert dask.delayed(increment)(1).compute() == 2


def test_errors_and_deaths_are_told(manager):
    with dask.config.set(scheduler="processes", pool=manager):
        with pytest.raises(LookupError, match="refused"):
            dask.delayed(refuse)().compute()
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            dask.delayed(die)().compute()
        assert dask.delayed(increment)(1).compute() == 2
