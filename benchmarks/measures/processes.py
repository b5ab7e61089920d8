"""Processes: what starting, replacing and warming them costs."""

import os
import signal
import time
from statistics import median

from benchmarks import tasks
from benchmarks.contenders.protocol import Contender
from benchmarks.contest import Contest, Readings, expect
from benchmarks.measures.steps import meeting_folder, occupy, pid_announced_in, timed, warm

VICTIM_START_S = 10.0
SETTLE_S = 0.1  # lets a library that prepares spare processes finish preparing; given to every contender
ANSWER_S = 3.0  # how long a pool may stay silent after a death before the measure builds a new one
NEW_POOLS = 3  # how often it may do so


def fresh(contest: Contest) -> Readings:
    """Run every task in a process that has run nothing else; the pids prove it."""
    count = contest.count("tasks")
    with contest.open(fresh=True) as pool:
        pool.run_each(tasks.own_pid, [(number,) for number in range(2 * contest.workers)])
        took_s, pids = timed(pool.run_each, tasks.own_pid, [(number,) for number in range(count)])
    expect(len(set(pids)) == count and os.getpid() not in pids, "tasks shared a process")
    return Readings({"ms_per_task": 1e3 * took_s / count})


def kill_recovery(contest: Contest) -> Readings:
    """Kill a busy worker by SIGKILL while every other worker is busy too; see when work goes on.

    A library that retries killed tasks is measured until the retry's body runs (the body returns the time at
    which it began); any other one until a task submitted after the kill runs, in a new pool if the old is
    broken. A broken pool is left alone, because closing it may wait for ever; the run ends by ending the
    interpreter.
    """
    gaps_ms = []
    new_pools = 0
    pool = contest.open()
    warm(pool, contest.workers)
    for number in range(contest.count("rounds")):
        with meeting_folder() as folder:
            occupy(pool, contest.workers - 1, folder)
            victim = pool.submit(tasks.hang_in_first_attempt, os.fspath(folder), f"victim-{number}")
            pid = pid_announced_in(folder, f"victim-{number}", VICTIM_START_S)
            if pid is None:
                raise TimeoutError("the victim did not start")
            time.sleep(SETTLE_S)
            killed_s = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            if pool.retries_killed_tasks:
                running_again_s = pool.result_of(victim, VICTIM_START_S)
            else:
                pool, running_again_s, pools_built = _next_sign_of_life(contest, pool)
                new_pools += pools_built
            expect(running_again_s >= killed_s, "the answer is older than the kill")
            gaps_ms.append(1e3 * (running_again_s - killed_s))
    how = "the killed task's retry" if pool.retries_killed_tasks else "a later task"
    return Readings(
        {"p50_ms": median(gaps_ms), "worst_ms": max(gaps_ms)},
        note=f"{how}, {'new pool' if new_pools else 'same pool'}",
    )


def _next_sign_of_life(contest: Contest, pool: Contender) -> tuple[Contender, float, int]:
    for pools_built in range(NEW_POOLS):
        try:
            return pool, pool.result_of(pool.submit(tasks.monotonic_now), ANSWER_S), pools_built
        except Exception:  # each library has its own way to say that the pool is broken, or says nothing
            pool = contest.open()
    return pool, pool.result_of(pool.submit(tasks.monotonic_now), ANSWER_S), NEW_POOLS


def cold_start(contest: Contest) -> Readings:
    """Go from nothing to the first result; importing the library is timed apart."""

    def first_result() -> Contender:
        pool = contest.open()
        expect(pool.call(tasks.echo, 42) == 42, "first answer")
        return pool

    took_s, pool = timed(first_result)
    pool.close()
    return Readings(
        {
            "first_result_ms": 1e3 * took_s,
            "import_ms": 1e3 * contest.import_s,
            "together_ms": 1e3 * (took_s + contest.import_s),
        }
    )
