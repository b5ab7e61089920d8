"""Memory: what the parent holds for each task that waits, and what a pool takes and does that is idle."""

import gc
import os
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks import tasks
from benchmarks.contest import Contest, Readings, expect
from benchmarks.measures.steps import meeting_folder, occupy, warm

SETTLE_S = 0.5  # feeder threads go on pickling for a moment after the last submit


def per_queued_task(contest: Contest) -> Readings:
    """Queue tasks with one int argument behind blockers, keep the handles, and see how the parent grew.

    The growth is of the parent's resident set (RSS), so the ints, the handles, the list, the queue and what
    the allocator wastes all count. Afterwards the tasks are run and their results checked.
    """
    count = contest.count("tasks")
    parent = psutil.Process()
    with contest.open() as pool, meeting_folder() as folder:
        warm(pool, contest.workers)
        blockers = occupy(pool, contest.workers, folder)
        gc.collect()
        rss_before_bytes = parent.memory_info().rss
        submit = pool.submit
        handles = [submit(tasks.echo, number) for number in range(count)]
        time.sleep(SETTLE_S)
        gc.collect()
        rss_after_bytes = parent.memory_info().rss
        (folder / "release").touch()
        for blocker in blockers:
            pool.result_of(blocker)
        expect([pool.result_of(handle) for handle in handles] == list(range(count)), "results of queued tasks")
    return Readings({"bytes_per_task": (rss_after_bytes - rss_before_bytes) / count})


def streamed(contest: Contest) -> Readings:
    """Stream tasks with one int argument, add up what they return, and see how far the parent grew meanwhile."""
    count = contest.count("tasks")
    parent = psutil.Process()
    with contest.open() as pool:
        warm(pool, contest.workers)
        total = done = rss_before_bytes = rss_most_bytes = 0
        look_every = max(1, count // 100)
        started_s = time.perf_counter()
        for value in pool.stream(tasks.echo, range(count)):
            total += value
            done += 1
            if done % look_every == 0:
                rss_bytes = parent.memory_info().rss
                rss_before_bytes = rss_before_bytes or rss_bytes
                rss_most_bytes = max(rss_most_bytes, rss_bytes)
        took_s = time.perf_counter() - started_s
    expect((done, total) == (count, count * (count - 1) // 2), "number and sum of the streamed results")
    return Readings({"growth_mib": (rss_most_bytes - rss_before_bytes) / 2**20, "tasks_per_s": count / took_s})


def idle(contest: Contest) -> Readings:
    """Let a warm pool alone: count the wake-ups of its threads and processes, and add up their memory (PSS).

    A wake-up is a voluntary context switch of any thread but this one, which sleeps meanwhile.
    """
    with contest.open() as pool:
        warm(pool, contest.workers)
        time.sleep(SETTLE_S)
        gc.collect()
        parent = psutil.Process()
        others = parent.children(recursive=True)
        before = _switches([parent, *others])
        time.sleep(contest.count("watched_s"))
        wake_ups = sum((_switches([parent, *others]) - before).values())
        parent_mib, *others_mib = (each.memory_full_info().pss / 2**20 for each in (parent, *others))
    note = f"parent {parent_mib:.1f} MiB, {len(others)} processes " + ", ".join(f"{mib:.1f}" for mib in others_mib)
    return Readings({"wake_ups": wake_ups, "pss_mib": parent_mib + sum(others_mib)}, note)


def _switches(processes: list[psutil.Process]) -> Counter[str]:
    found: Counter[str] = Counter()
    for process in processes:
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            if thread != str(threading.get_native_id()):
                path = Path(f"/proc/{process.pid}/task/{thread}")
                lines = (path / "status").read_text(encoding="ascii").splitlines()
                found[path.name] = next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))
    return found
