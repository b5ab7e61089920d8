"""Tests of large amounts of memory have the machine to themselves: a suite may run beside another one."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory_to_itself() -> Iterator[None]:
    """Wait until no other suite on this machine holds memory for a test, and keep others from it meanwhile."""
    with open(Path(tempfile.gettempdir()) / "procbackground-tests-memory.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
