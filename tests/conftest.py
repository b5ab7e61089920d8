"""Fixtures: managers that are closed again, a gate, and a check that every test leaves nothing behind."""

from __future__ import annotations

import ctypes  # noqa: F401  # of libffi 3.8, which keeps its own file open once it is loaded
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from procbackground import Manager
from tests.support.facts import Living
from tests.support.gate import Gate
from tests.support.measured import follow_raw_threads
from tests.support.memory import memory_to_itself  # noqa: F401  # a fixture, for the tests that name it
from tests.support.recorder import Recorder

follow_raw_threads()

CLOSE_S = 10.0  # bounds the closing after a test; a passing test leaves next to nothing to close
LEAK_PATIENCE_S = 5.0  # how long an ended process may take to be collected by the forkserver


@pytest.fixture(scope="session", autouse=True)
def _warm_helpers() -> None:
    """Start multiprocessing's resource tracker, which stays for the session, and use up the head start of the first."""
    with Manager(max_workers=1) as manager:
        assert manager.run(pow, 2, 10).result(timeout=60) == 1024


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(_warm_helpers: None) -> Iterator[None]:
    """Fail a test that leaves a process, a thread or a descriptor behind."""
    before = Living.now()
    yield
    end = time.monotonic() + LEAK_PATIENCE_S
    while left := Living.now().more_than(before):
        if time.monotonic() > end:
            pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)
        time.sleep(0.01)


@pytest.fixture
def make_manager() -> Iterator[Callable[..., Manager]]:
    """A function that makes managers, of two workers unless told otherwise; they are closed afterwards."""
    made: list[Manager] = []

    def make(**options: Any) -> Manager:
        manager = Manager(**{"max_workers": 2, **options})
        made.append(manager)
        return manager

    yield make
    for manager in made:
        assert manager.close(timeout=CLOSE_S).leftovers == ()


@pytest.fixture
def manager(make_manager: Callable[..., Manager]) -> Manager:
    """A manager of two workers."""
    return make_manager()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Where tasks say where they are and stop."""
    gate = Gate()
    yield gate
    gate.close()


@pytest.fixture
def recorder() -> Recorder:
    """An observer that keeps what it is told."""
    return Recorder()
