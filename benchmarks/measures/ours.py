"""Ours: what only procbackground has, or what only a comparison of two versions of it asks.

Named by `compare.catalogue`. Everything here uses the public API alone, because the versions differ inside.
"""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from benchmarks import tasks
from benchmarks.contest import Contest, Readings, expect
from benchmarks.measures.steps import meeting_folder, occupy, timed, warm
from procbackground import Observer

ATTEMPTS = 3  # the adaptor's policy
CALLS_PER_LOOK = 100  # the clock is read once for so many calls, or reading it would be a part of what is read
OBSERVER_PATIENCE_S = 60.0


def submit_from_threads(contest: Contest) -> Readings:
    """Submit no-ops from several threads at once, each gathering its own results; the median of several bursts."""
    count, threads = contest.count("tasks"), contest.count("threads")
    arguments: list[tuple[()]] = [()] * (count // threads)
    durations_s = []
    with contest.open() as pool, ThreadPoolExecutor(threads) as callers:
        warm(pool, contest.workers)
        barrier = threading.Barrier(threads)

        def one_burst(_number: int) -> list[Any]:
            barrier.wait()  # so that every thread of the executor has its burst, and all begin together
            return pool.run_each(tasks.nothing, arguments)

        def all_bursts() -> list[list[Any]]:
            return list(callers.map(one_burst, range(threads)))

        all_bursts()
        for _ in range(contest.count("bursts")):
            took_s, answers = timed(all_bursts)
            expect(answers == [[None] * len(arguments)] * threads, "no-ops answered something")
            durations_s.append(took_s)
    return Readings({"tasks_per_s": threads * len(arguments) / median(durations_s)})


def submit_call(contest: Contest) -> Readings:
    """Time the call of `submit` itself while every worker is held, so that nothing else of the library has work."""
    looks = contest.count("tasks") // CALLS_PER_LOOK
    took_s = []
    handles = []
    with contest.open() as pool, meeting_folder() as folder:
        warm(pool, contest.workers)
        blockers = occupy(pool, contest.workers, folder)
        submit, clock = pool.submit, time.perf_counter
        gc.collect()
        for _ in range(looks):
            began_s = clock()
            submitted = [submit(tasks.nothing) for _ in range(CALLS_PER_LOOK)]
            took_s.append(clock() - began_s)
            handles.append(submitted)
        (folder / "release").touch()
        for blocker in blockers:
            pool.result_of(blocker)
        answers = [pool.result_of(handle) for submitted in handles for handle in submitted]
        expect(answers == [None] * (looks * CALLS_PER_LOOK), "no-ops answered something")
    return Readings({"call_us": 1e6 * median(took_s) / CALLS_PER_LOOK})


def stats_call(contest: Contest) -> Readings:
    """Time the call of `Manager.stats` while tasks wait behind held workers."""
    waiting, looks = contest.count("waiting"), contest.count("calls") // CALLS_PER_LOOK
    took_s = []
    with contest.open() as pool, meeting_folder() as folder:
        warm(pool, contest.workers)
        occupy(pool, contest.workers, folder)
        handles = [pool.submit(tasks.nothing) for _ in range(waiting)]
        stats, clock = pool.manager.stats, time.perf_counter
        gc.collect()
        for _ in range(looks):
            began_s = clock()
            for _ in range(CALLS_PER_LOOK):
                counters = stats()
            took_s.append(clock() - began_s)
        expect(counters.queued + counters.running == waiting + contest.workers, "tasks that have not ended")
        (folder / "release").touch()
        for handle in handles:
            pool.result_of(handle)
    return Readings({"call_us": 1e6 * median(took_s) / CALLS_PER_LOOK})


def failing(contest: Contest) -> Readings:
    """Submit tasks of which every attempt fails, and gather their errors, burst after burst until time is up.

    Every retry begins in a process that was just started, so this is mostly the price of two of these. The manager's
    own counter says whether each task was retried. The limit is one of time, because versions may differ by far here.
    """
    count, limit_s = contest.count("tasks"), contest.sizes["limit_s"]
    durations_s: list[float] = []
    with contest.open() as pool:
        warm(pool, contest.workers)

        def errors() -> list[BaseException]:
            handles = [pool.submit(tasks.fail) for _ in range(count)]
            return [handle.exception() for handle in handles]

        while sum(durations_s) < limit_s:
            took_s, raised = timed(errors)
            expect(all(type(error) is ValueError for error in raised), "tasks failed with something else")
            durations_s.append(took_s)
        expect(pool.manager.stats().retried == (ATTEMPTS - 1) * count * len(durations_s), "number of retries")
    return Readings({"tasks_per_s": count / median(durations_s)})


class Counter(Observer):
    """Counts what becomes of tasks, and says when `target` of them have succeeded."""

    def __init__(self) -> None:
        self.added = self.started = self.succeeded = 0
        self.target = 0
        self.has_reached_target = threading.Event()

    def on_task_added(self, event: object) -> None:
        self.added += 1

    def on_task_started(self, event: object) -> None:
        self.started += 1

    def on_task_succeeded(self, event: object) -> None:
        self.succeeded += 1
        if self.succeeded == self.target:
            self.has_reached_target.set()

    def wait_for(self, target: int) -> bool:
        """Wait until `target` tasks have succeeded; it must have been set as `self.target` before they could."""
        return self.has_reached_target.wait(OBSERVER_PATIENCE_S) and self.succeeded == target


def observed(contest: Contest) -> Readings:
    """Submit no-ops to a manager with a counting observer; done is when the observer has heard of the last one."""
    count = contest.count("tasks")
    counter = Counter()
    with contest.make(contest.workers, observer=counter) as pool:
        warm(pool, contest.workers)
        arguments: list[tuple[()]] = [()] * count
        # Events come after results, so the warm-up's may still be under way: the manager says how many they are.
        counter.target = target = pool.manager.stats().added + count

        def until_counted() -> bool:
            pool.run_each(tasks.nothing, arguments)
            return counter.wait_for(target)

        took_s, all_were_counted = timed(until_counted)
        expect(all_were_counted, "observed successes")
    expect((counter.added, counter.started) == (target, target), "observed tasks and attempts")
    return Readings({"tasks_per_s": count / took_s})
