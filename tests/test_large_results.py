"""Large results and arguments that are kept: their memory stays, their descriptors do not."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest

from procbackground._wire.parcel import PARCEL_BYTES
from tests.support.gate import PATIENCE_S

numpy = pytest.importorskip("numpy")

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")

KEPT = 60


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def full(number: int):
    return numpy.full(PARCEL_BYTES // 8, number, dtype=numpy.int64)


_kept = []


def keep(array) -> int:
    """Keep an argument in the worker; return how many descriptors that has."""
    _kept.append(array)
    return len(os.listdir("/proc/self/fd"))


def test_results_that_are_kept_hold_no_descriptors(make_manager, few_descriptors):
    manager = make_manager(max_workers=1)
    arrays = [manager.run(full, number).result(timeout=PATIENCE_S) for number in range(KEPT)]
    for number, array in enumerate(arrays):
        assert (array[0], array[-1]) == (number, number)
        array += 1  # the memory is our own


def test_results_that_nobody_has_taken_hold_no_descriptors(make_manager, few_descriptors):
    manager = make_manager(max_workers=1)
    handles = [manager.run(full, number) for number in range(KEPT)]
    assert [handle.result(timeout=PATIENCE_S)[0] for handle in handles] == list(range(KEPT))


def test_arguments_that_a_worker_keeps_hold_no_descriptors(make_manager):
    manager = make_manager(max_workers=1)
    counts = {manager.run(keep, full(number)).result(timeout=PATIENCE_S) for number in range(10)}
    assert len(counts) == 1
