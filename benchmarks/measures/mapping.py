"""Maps over tiny items: what is left of the dispatch when it is shared by a chunk."""

from statistics import median

from benchmarks import tasks
from benchmarks.contenders.protocol import Contender
from benchmarks.contest import Contest, Readings, expect
from benchmarks.measures.steps import timed, warm

FIXED_CHUNK = 64
PEERS_CHUNKS = (64, 512, 4096)
PASSES = 3


def chunk_64(contest: Contest) -> Readings:
    """Map with the same chunk size for everybody."""
    items = range(contest.count("items"))
    with contest.open() as pool:
        warm(pool, contest.workers)
        return Readings({"items_per_s": _items_per_s(pool, items, FIXED_CHUNK)})


def adaptive(contest: Contest) -> Readings:
    """Map without a chunk size where the library adapts it; else take the best of several chunk sizes.

    Each size gets the median of as many passes as procbackground gets for all.
    """
    items = range(contest.count("items"))
    with contest.open() as pool:
        warm(pool, contest.workers)
        if contest.count("adapts"):
            return Readings({"items_per_s": _median_items_per_s(pool, items, None)}, note="chooses its own chunks")
        speed, chunk = max((_median_items_per_s(pool, items, chunk), chunk) for chunk in PEERS_CHUNKS)
        return Readings({"items_per_s": speed}, note=f"best chunk {chunk}")


def _median_items_per_s(pool: Contender, items: range, chunk_size: int | None) -> float:
    return median(_items_per_s(pool, items, chunk_size) for _ in range(PASSES))


def _items_per_s(pool: Contender, items: range, chunk_size: int | None) -> float:
    took_s, answers = timed(pool.map, tasks.add_one, items, chunk_size)
    expect(answers == list(range(1, len(items) + 1)), "mapped items")
    return len(items) / took_s
