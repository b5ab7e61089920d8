"""An idle manager uses no CPU: the context switches of all its threads and processes are counted."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.chaos import zygotes
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it counts in /proc")

WATCHED_S = 3.0
WORKERS = 8


def switches(pid: int, *, but: set[int]) -> Counter[tuple[int, int]]:
    """Return the context switches so far of each thread of `pid` except those in `but`."""
    found: Counter[tuple[int, int]] = Counter()
    for thread in map(int, os.listdir(f"/proc/{pid}/task")):
        if thread in but:
            continue
        try:
            status = Path(f"/proc/{pid}/task/{thread}/status").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since it was listed
        found[pid, thread] = sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)
    return found


@pytest.mark.slow
def test_a_manager_with_idle_workers_does_nothing(make_manager, gate):
    manager = make_manager(max_workers=WORKERS, timeout=60, retry=2)
    before = set(os.listdir("/proc/self/task"))  # this thread, the gate's, and what earlier tests left to itself
    handles = [manager.run(stop_at_gate, gate.address) for _ in range(WORKERS)]
    pids = {gate.wait_for_arrival() for _ in handles}
    gate.open()
    for handle in handles:
        handle.result(timeout=PATIENCE_S)
    processes = {process.pid for process in manager.processes()}
    assert pids <= processes
    watched = [*processes, *zygotes(), os.getpid()]

    def count() -> Counter[tuple[int, int]]:
        others = {int(thread) for thread in before}
        return sum((switches(pid, but=others if pid == os.getpid() else set()) for pid in watched), Counter())

    # Timers of tasks that came to nothing, and the spare that the last start called for, are over soon.
    seen = count()

    def is_quiet() -> bool:
        nonlocal seen
        time.sleep(0.2)
        before_s, seen = seen, count()
        return before_s == seen

    wait_until(is_quiet, "the last stirs are over")
    end_s = time.monotonic() + WATCHED_S
    wait_until(lambda: time.monotonic() >= end_s, "time has passed")
    assert (count() - seen).total() <= 5
    assert manager.run(pow, 2, 10).result(timeout=PATIENCE_S) == 1024
