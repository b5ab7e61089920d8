"""Payload: a numpy array to the worker and back; and one that many tasks have in common."""

from statistics import median
from typing import Any

import psutil

from benchmarks import tasks
from benchmarks.contenders.protocol import Contender
from benchmarks.contest import Contest, Readings, expect
from benchmarks.measures.steps import timed, warm

BYTES_PER_INT64 = 8


def there_and_back(contest: Contest) -> Readings:
    """Send an int64 array, have the worker read a number of every page, get it back, read every page again.

    Reading every page is part of the time, so a library that maps pages lazily pays for them here as well.
    Every round sends other contents, so nobody is served from a cache.
    """
    import numpy  # only here: a fork of a parent with numpy in it would cost every other measure more

    size = contest.count("bytes")
    array = numpy.arange(size // BYTES_PER_INT64, dtype=numpy.int64)
    durations_s = []
    with contest.open() as pool:
        warm(pool, contest.workers)
        # Both workers must have imported numpy, and a first array is slower than the next ones.
        pool.run_each(tasks.return_array, [(array[:1024].copy(),)] * (4 * contest.workers))
        _round_trip(pool, array)
        for number in range(contest.count("rounds")):
            array = array + (number + 1)
            took_s, (answer, total) = timed(_round_trip, pool, array)
            expect(total == tasks.sum_of_pages(array) and numpy.array_equal(answer, array), "returned array")
            durations_s.append(took_s)
            del answer
    seconds = median(durations_s)
    return Readings({"gb_per_s": 2 * size / seconds / 1e9, "ms": 1e3 * seconds, "seconds": seconds})


def _round_trip(pool: Contender, array: Any) -> tuple[Any, int]:
    answer = pool.call(tasks.return_array, array)
    return answer, tasks.sum_of_pages(answer)


def shared(contest: Contest) -> Readings:
    """Share an array, have every worker read all of it, then time tasks that read a little of it.

    Memory is the PSS of this process and all below it, where pages that several have mapped count once.
    """
    import numpy

    array = numpy.arange(contest.count("bytes") // BYTES_PER_INT64, dtype=numpy.int64)
    size, last, total = array.nbytes, int(array[-1]) + int(array[array.size // 2]), int(array.sum())
    count = contest.count("tasks")
    with contest.open() as pool:
        warm(pool, contest.workers)
        pool.run_each(tasks.read_all, [(array[:1024].copy(),)] * (4 * contest.workers))  # all import numpy
        memory_bytes = _memory_bytes()
        given = pool.share(array)
        sums = pool.run_each(tasks.read_all, [(given,)] * (2 * contest.workers))
        grown_bytes = _memory_bytes() - memory_bytes
        expect(sums == [total] * len(sums), "sums of the shared array")
        bare_s, _ = timed(pool.run_each, tasks.echo, [(number,) for number in range(count)])
        took_s, found = timed(pool.run_each, tasks.read_some, [(given, number) for number in range(count)])
        expect(found == [last + number for number in range(count)], "items of the shared array")
    return Readings({"over_noop_us": 1e6 * (took_s - bare_s) / count, "growth": grown_bytes / size})


def _memory_bytes() -> int:
    parent = psutil.Process()
    return sum(each.memory_full_info().pss for each in (parent, *parent.children(recursive=True)))
