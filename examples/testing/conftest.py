"""Fixtures for code that takes a manager: a real one, which the tests of a run share, and an inline one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from procbackground import Manager


@pytest.fixture(scope="session")
def manager() -> Iterator[Manager]:
    """A manager whose workers stay warm from test to test. With pytest-xdist each of its processes has one.

    Two workers are enough to have things happen at once, and keep `-n auto` from crowding the machine.
    """
    with Manager(max_workers=2, timeout=30) as manager:
        yield manager


@pytest.fixture
def inline_manager() -> Iterator[Manager]:
    """A manager that runs tasks in this process: for a debugger, and for what a test has patched."""
    with Manager(inline=True) as manager:
        yield manager
