"""Catalogue: what two versions are compared by, in the order of the table.

Read by `__main__` and `table`. A measure that `measures` has is taken from there, with the work of one run made
to last a few seconds; the others are in `measures.ours`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.measures import MEASURES, Measure, Metric, Point, Sizes

_OURS = "benchmarks.measures.ours:"
_TASKS_PER_S = Metric("tasks_per_s", "throughput", "tasks/s", higher_is_better=True)
_CALL_US = Metric("call_us", "one call", "µs")


def _known(name: str, full: Sizes, metrics: Sequence[str], rounds: int = 1, as_name: str = "") -> Measure:
    """Return the measure of that name with the work of a comparison, and only the metrics that are compared.

    A run that is over at once is made `rounds` times within a repetition. Rounds are points of a curve that is
    flat: so the sides take turns in them, and `pairs` takes their median.
    """
    measure = MEASURES[name]
    return replace(
        measure,
        name=as_name or name,
        metrics=tuple(metric for metric in measure.metrics if metric.key in metrics),
        full={**measure.full, **full},
        points=tuple(Point(number, {}, quick=number == 1) for number in range(1, rounds + 1)) if rounds > 1 else (),
        contenders=None,
        is_on_request=False,
    )


def _added(name: str, title: str, run: str, metric: Metric, full: Sizes, quick: Sizes) -> Measure:
    return Measure(name, title, explanation="", run=_OURS + run, metrics=(metric,), full=full, quick=quick)


_ALL = (
    _known("submit_5k", {"bursts": 41}, ["tasks_per_s"]),
    _known("submit_100k", {"bursts": 3}, ["tasks_per_s"]),
    _added(
        name="submit_threads",
        title="100,000 no-op submits by four threads",
        run="submit_from_threads",
        metric=_TASKS_PER_S,
        full={"tasks": 100_000, "threads": 4, "bursts": 3},
        quick={"tasks": 400, "threads": 4, "bursts": 1},
    ),
    _added(
        name="submit_call",
        title="The call of submit, all workers held",
        run="submit_call",
        metric=_CALL_US,
        full={"tasks": 100_000},
        quick={"tasks": 300},
    ),
    _known("latency", {"rounds": 20_000, "limit_s": 2.0}, ["p50_us", "p99_us"]),
    _known("fresh", {"tasks": 600}, ["ms_per_task"]),
    _known("kill_recovery", {"rounds": 10}, ["p50_ms"]),
    _known("map_chunk64", {"items": 2_000_000}, ["items_per_s"]),
    _known("map_adaptive", {"items": 1_000_000}, ["items_per_s"]),
    _known("stream_memory", {"tasks": 150_000}, ["tasks_per_s"], as_name="stream"),
    _known("payload_64m", {"rounds": 9}, ["gb_per_s"]),
    _known("memory_per_queued_task", {}, ["bytes_per_task"]),
    _known("cpu_batch", {}, ["efficiency_percent"]),
    _known("cold_start", {}, ["first_result_ms", "together_ms"], rounds=5),
    _known("loop_iteration", {"iterations": 2_000_000}, ["over_body_us"]),
    _added(
        name="failing",
        title="Tasks that fail in each of three attempts",
        run="failing",
        metric=_TASKS_PER_S,
        full={"tasks": 50, "limit_s": 2.0},
        quick={"tasks": 10, "limit_s": 0.1},
    ),
    _added(
        name="observed",
        title="100,000 no-op submits with a counting observer",
        run="observed",
        metric=_TASKS_PER_S,
        full={"tasks": 100_000},
        quick={"tasks": 300},
    ),
    _added(
        name="stats_call",
        title="The call of stats() while 1,000 tasks wait",
        run="stats_call",
        metric=_CALL_US,
        full={"waiting": 1_000, "calls": 30_000},
        quick={"waiting": 10, "calls": 300},
    ),
)

COMPARED: Mapping[str, Measure] = {measure.name: measure for measure in _ALL}
NEEDING_NUMPY = frozenset({"payload_64m"})
