"""Tests of large amounts of memory have the machine to themselves: a suite may run beside another one."""

from __future__ import annotations

import fcntl
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

STEADY_BYTES = 64 << 20  # that the free memory may change within `STEADY_S`
STEADY_S = 0.5
PATIENCE_S = 10.0


@pytest.fixture
def memory_to_itself() -> Iterator[None]:
    """Wait until no other suite on this machine holds memory for a test, and keep others from it meanwhile."""
    with open(Path(tempfile.gettempdir()) / "procbackground-tests-memory.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _wait_until_steady()
        yield


def _wait_until_steady() -> None:
    """Wait until others have stopped taking and freeing memory: the kernel counts what was freed with a delay."""
    pause_s = 0.05
    seen: deque[int] = deque(maxlen=round(STEADY_S / pause_s))
    end_s = time.monotonic() + PATIENCE_S
    while len(seen) < (seen.maxlen or 0) or max(seen) - min(seen) > STEADY_BYTES:
        if time.monotonic() > end_s:
            return  # the machine is busy otherwise
        seen.append(psutil.virtual_memory().available)
        time.sleep(pause_s)
