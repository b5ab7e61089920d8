"""Computing: whether the library leaves the cores to the work."""

import time

from benchmarks import tasks
from benchmarks.contest import Contest, Readings, expect
from benchmarks.measures.steps import timed, warm

CALIBRATION_ROUNDS = 50_000
CALIBRATION_REPEATS = 9


def cpu_batch(contest: Contest) -> Readings:
    """Run a batch of computing tasks; the ideal is their serial time divided by the workers.

    The serial time is that of a part of the batch in this process, half of it before the pool opens and half
    after it has closed, so that a machine that slows down meanwhile slows both.
    """
    count, task_s = contest.count("tasks"), contest.sizes["task_s"]
    rounds = _rounds_that_take(task_s)
    serially = max(1, count // 8)
    serial_s, right_answers = timed(_burn_serially, rounds, serially)
    with contest.open() as pool:
        warm(pool, contest.workers)
        wall_s, answers = timed(pool.run_each, tasks.burn, [(rounds,)] * count)
    serial_s += timed(_burn_serially, rounds, serially)[0]
    expect(answers == right_answers[:1] * count, "computed results")
    ideal_s = serial_s / (2 * serially) * count / contest.workers
    return Readings({"efficiency_percent": 100 * ideal_s / wall_s, "wall_s": wall_s})


def _burn_serially(rounds: int, times: int) -> list[int]:
    return [tasks.burn(rounds) for _ in range(times)]


def _rounds_that_take(task_s: float) -> int:
    def seconds_once() -> float:
        started_s = time.perf_counter()
        tasks.burn(CALIBRATION_ROUNDS)
        return time.perf_counter() - started_s

    return int(CALIBRATION_ROUNDS * task_s / min(seconds_once() for _ in range(CALIBRATION_REPEATS)))
