"""Throughput and latency of tasks that do nothing: the price of the dispatch."""

import gc
import time
from statistics import median

from benchmarks import tasks
from benchmarks.contest import Contest, Readings, expect
from benchmarks.measures.steps import timed, warm

WARM_UP_BURST = 500
LATENCY_WARM_UP = 50


def submit(contest: Contest) -> Readings:
    """Submit no-ops one by one, keep every handle, gather every result; the median of several bursts."""
    count = contest.count("tasks")
    arguments: list[tuple[()]] = [()] * count
    durations_s = []
    with contest.open() as pool:
        warm(pool, contest.workers)
        pool.run_each(tasks.nothing, arguments[:WARM_UP_BURST])
        for _ in range(contest.count("bursts")):
            took_s, answers = timed(pool.run_each, tasks.nothing, arguments)
            expect(answers == [None] * count, "no-ops answered something")
            durations_s.append(took_s)
    seconds = median(durations_s)
    return Readings({"tasks_per_s": count / seconds, "seconds": seconds})


def latency(contest: Contest) -> Readings:
    """Make one round trip at a time; ends early once `limit_s` is used up."""
    rounds, limit_s = contest.count("rounds"), contest.sizes["limit_s"]
    trips_s: list[float] = []
    with contest.open() as pool:
        warm(pool, contest.workers)
        for number in range(min(LATENCY_WARM_UP, rounds)):
            pool.call(tasks.echo, number)
        gc.collect()
        ends_s = time.perf_counter() + limit_s
        for number in range(rounds):
            started_s = time.perf_counter()
            answer = pool.call(tasks.echo, number)
            ended_s = time.perf_counter()
            expect(answer == number, "round trip brought another task's answer")
            trips_s.append(ended_s - started_s)
            if ended_s > ends_s:
                break
    trips_s.sort()
    return Readings(
        {
            "p50_us": 1e6 * trips_s[len(trips_s) // 2],
            "p99_us": 1e6 * trips_s[len(trips_s) * 99 // 100],
        },
        note="" if len(trips_s) == rounds else f"only {len(trips_s)} round trips in {limit_s:g} s",
    )


def sleepers(contest: Contest) -> Readings:
    """Run sleeping tasks on many workers; no core is short, so all beyond the sleep is overhead."""
    workers, per_worker, sleep_s = (
        contest.count("pool"),
        contest.count("per_worker"),
        contest.sizes["sleep_s"],
    )
    count = workers * per_worker
    with contest.open(workers=workers) as pool:
        warm(pool, workers)
        took_s, answers = timed(pool.run_each, tasks.sleep_for, [(sleep_s,)] * count)
        expect(answers == [sleep_s] * count, "sleepers answered something else")
    return Readings(
        {
            "tasks_per_s": count / took_s,
            "seconds": took_s,
            "efficiency_percent": 100 * per_worker * sleep_s / took_s,
        }
    )
