"""Steps that several measures share: warming a pool, timing a call, occupying workers."""

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import tasks
from benchmarks.contenders.protocol import Contender
from benchmarks.contest import expect

R = TypeVar("R")

WARM_UP_TASKS = 200
HOLD_START_S = 2.0  # a blocker that has not started by then sits behind another one (mpire chooses at submit)


def warm(pool: Contender, workers: int) -> None:
    """Start every worker, let each import the tasks, and see that answers are right and in order."""
    pool.run_each(tasks.sleep_for, [(0.02,)] * (2 * workers))
    arguments = [(number,) for number in range(WARM_UP_TASKS)]
    expect(pool.run_each(tasks.echo, arguments) == list(range(WARM_UP_TASKS)), "echoes in the warm-up")


def timed(work: Callable[..., R], *args: Any) -> tuple[float, R]:
    """Return the seconds that the call took, and its result; garbage of earlier steps is collected first."""
    gc.collect()
    started_s = time.perf_counter()
    result = work(*args)
    return time.perf_counter() - started_s, result


@contextmanager
def meeting_folder() -> Iterator[Path]:
    """Lend a folder through which tasks and measure meet; leaving it releases every blocker."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            yield folder
        finally:
            (folder / "release").touch()
            time.sleep(0.05)  # blockers look every 10 ms; the folder must outlive their last look


def pid_announced_in(folder: Path, name: str, patience_s: float) -> int | None:
    """Wait until a task has announced itself as `name`; return its pid, or None when patience ends."""
    ends_s = time.monotonic() + patience_s
    while time.monotonic() < ends_s:
        if (folder / name).exists():
            return int((folder / name).read_text())
        time.sleep(0.002)
    return None


def occupy(pool: Contender, workers: int, folder: Path) -> list[Any]:
    """Hold `workers` workers busy until `folder` is released; return the handles of the blocking tasks."""
    handles: list[Any] = []
    held: set[int] = set()
    for attempt in range(3 * workers):
        if len(held) == workers:
            break
        handles.append(pool.submit(tasks.hold, os.fspath(folder), f"blocker-{attempt}"))
        pid = pid_announced_in(folder, f"blocker-{attempt}", HOLD_START_S)
        if pid is not None:
            held.add(pid)
    expect(len(held) == workers, f"only {len(held)} of {workers} workers could be occupied")
    return handles
