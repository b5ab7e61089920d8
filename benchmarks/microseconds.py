"""`python -m benchmarks.microseconds`: where the CPU time of a no-op goes, by thread and process.

Beside the flow of a measurement: it has no peer and no must, and is what one looks at before and after a change. Wall
time says who waits for whom; CPU time, which other work on the machine blurs less, says who works.
"""

import gc
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import psutil
from tenacity import stop_after_attempt

from benchmarks import tasks
from procbackground import Manager, Retry

SIZES = (5_000, 100_000)
BURSTS = 5
WORKERS = 2


class Costs(NamedTuple):
    """Microseconds of CPU time per task, and of wall time in the last field."""

    submitting: float
    gathering: float
    supervisor: float
    workers: float
    wall: float


def main() -> None:
    """Print the medians of some bursts of each size."""
    print(f"{'tasks':>8}" + "".join(f"{field:>12}" for field in Costs._fields) + "   µs per task")
    with Manager(max_workers=WORKERS, retry=Retry(stop=stop_after_attempt(3)), timeout=30) as manager:
        _burst(manager, SIZES[0])
        for size in SIZES:
            bursts = [_burst(manager, size) for _ in range(BURSTS)]
            medians = Costs(*(statistics.median(column) for column in zip(*bursts, strict=True)))
            print(f"{size:>8}" + "".join(f"{figure:>12.2f}" for figure in medians))


def _burst(manager: Manager, size: int) -> Costs:
    workers = [psutil.Process(process.pid) for process in manager.processes()]
    gc.collect()
    in_workers_s = _cpu_s(workers)
    began, whole_began_s, wall_began_s = time.thread_time(), time.process_time(), time.perf_counter()
    handles = [manager.submit(tasks.nothing) for _ in range(size)]
    submitted = time.thread_time()
    for handle in handles:
        handle.result()
    gathered, whole_s = time.thread_time(), time.process_time() - whole_began_s
    wall_s = time.perf_counter() - wall_began_s
    seconds = (
        submitted - began,
        gathered - submitted,
        whole_s - (gathered - began),
        _cpu_s(workers) - in_workers_s,
        wall_s,
    )
    return Costs(*(1e6 * each / size for each in seconds))


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


if __name__ == "__main__":
    main()
