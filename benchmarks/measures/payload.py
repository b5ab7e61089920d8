"""Payload: a numpy array to the worker and back."""

from statistics import median
from typing import Any

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
