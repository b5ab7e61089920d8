"""Measures: what is measured, in the order of the report.

The catalogue names each measure's function without importing it; `schedule` reads sizes and points, `one_run`
imports the one function of its run, and `report/` reads titles, explanations and metrics.
"""

# ruff: noqa: RUF001 - the multiplication sign in texts for people is meant

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.contenders import BASELINE, OURS, Role

Sizes = Mapping[str, float]


@dataclass(frozen=True)
class Metric:
    """One number that a measure reads; `key` is its name in the readings and in the JSON."""

    key: str
    title: str
    unit: str
    higher_is_better: bool = False


@dataclass(frozen=True)
class Point:
    """One place on a growth curve: its x and the sizes that differ there."""

    x: float
    sizes: Sizes
    quick: bool = False
    contenders: frozenset[str] | None = None


@dataclass(frozen=True)
class Measure:
    """One table, and one plot.

    Attributes: `run` is `module:function`; `full` and `quick` are the sizes of the work; `points` turn the
    measure into a growth curve over `x_title`; `contenders` restricts who takes part; `needs_real_submit`
    keeps a batched call from being the best peer; `roles_sizes` are sizes that depend on who is measured;
    `spans_decades` asks for a logarithmic plot; `is_on_request` leaves the measure out unless it is named.
    """

    name: str
    title: str
    explanation: str
    run: str
    metrics: tuple[Metric, ...]
    full: Sizes
    quick: Sizes
    points: tuple[Point, ...] = ()
    x_title: str = ""
    contenders: frozenset[str] | None = None
    needs_real_submit: bool = False
    roles_sizes: Mapping[Role, Sizes] = field(default_factory=dict)
    spans_decades: bool = False
    time_limit_s: float = 120.0
    is_on_request: bool = False

    @property
    def is_growth(self) -> bool:
        """Whether this measure is a curve over a growing size."""
        return bool(self.points)

    def points_to_run(self, is_quick: bool) -> tuple[Point | None, ...]:
        """Return the points of this run; a measure that is no curve has the one point None."""
        return tuple(point for point in self.points if point.quick or not is_quick) or (None,)

    def sizes_for(self, role: Role, point: Point | None, is_quick: bool) -> dict[str, float]:
        """Return the sizes of the work, the more particular ones last."""
        general = self.quick if is_quick else self.full
        return {**general, **self.roles_sizes.get(role, {}), **(point.sizes if point else {})}


_HERE = "benchmarks.measures."
_TASKS_PER_S = Metric("tasks_per_s", "throughput", "tasks/s", higher_is_better=True)
_ITEMS_PER_S = Metric("items_per_s", "throughput", "items/s", higher_is_better=True)
_SECONDS = Metric("seconds", "wall time", "s")
_GROWTH_MIB = Metric("growth_mib", "growth of RSS", "MiB")
_GB_PER_S = Metric("gb_per_s", "both ways summed", "GB/s", higher_is_better=True)
_GROWERS = frozenset({OURS, BASELINE})
_ONLY_OURS = frozenset({OURS})
_POOLS = frozenset({OURS, BASELINE, "ppe-fork", "ppe-spawn", "mp-pool", "pebble", "deadpool", "loky", "mpire"})
_KIB, _MIB = 1024, 1024**2

_ALL = (
    Measure(
        name="submit_5k",
        title="5,000 no-op submits",
        explanation=(
            "Tasks that do nothing are submitted one by one to a warm pool, every handle is kept "
            "and every result gathered. The median of three bursts."
        ),
        run=_HERE + "throughput:submit",
        metrics=(_TASKS_PER_S,),
        full={"tasks": 5_000, "bursts": 3},
        quick={"tasks": 300, "bursts": 1},
        needs_real_submit=True,
        spans_decades=True,
    ),
    Measure(
        name="submit_100k",
        title="100,000 no-op submits",
        explanation="The same in one burst of 100,000.",
        run=_HERE + "throughput:submit",
        metrics=(_TASKS_PER_S,),
        full={"tasks": 100_000, "bursts": 1},
        quick={"tasks": 1_000, "bursts": 1},
        needs_real_submit=True,
        spans_decades=True,
        time_limit_s=240.0,
    ),
    Measure(
        name="latency",
        title="Round trip",
        explanation=("One task at a time, submit to result, in a warm pool; 1,500 round trips or three seconds."),
        run=_HERE + "throughput:latency",
        metrics=(Metric("p50_us", "p50", "µs"), Metric("p99_us", "p99", "µs")),
        full={"rounds": 1_500, "limit_s": 3.0},
        quick={"rounds": 60, "limit_s": 0.5},
        needs_real_submit=True,
        spans_decades=True,
    ),
    Measure(
        name="fresh",
        title="A fresh process for every task",
        explanation=(
            "Every task runs in a process that runs nothing else (checked by pid): `isolate=True`"
            " here, one task per child elsewhere. The floor forks, runs, exits and waits."
        ),
        run=_HERE + "processes:fresh",
        metrics=(Metric("ms_per_task", "time per task", "ms"),),
        full={"tasks": 100},
        quick={"tasks": 6},
        spans_decades=True,
    ),
    Measure(
        name="kill_recovery",
        title="SIGKILL of a busy worker until work goes on",
        explanation=(
            "All workers are busy when one is killed. Measured to the first moment of the killed "
            "task's retry, or of a later task where killed tasks are not retried; building a new "
            "pool counts where the old one is broken."
        ),
        run=_HERE + "processes:kill_recovery",
        metrics=(Metric("p50_ms", "p50", "ms"), Metric("worst_ms", "worst of the run", "ms")),
        full={"rounds": 8},
        quick={"rounds": 1},
        spans_decades=True,
    ),
    Measure(
        name="map_chunk64",
        title="Map of 100,000 tiny ints, chunks of 64",
        explanation="Every item is `n + 1`; the results are checked, in order.",
        run=_HERE + "mapping:chunk_64",
        metrics=(_ITEMS_PER_S,),
        full={"items": 100_000},
        quick={"items": 3_000},
        spans_decades=True,
    ),
    Measure(
        name="map_adaptive",
        title="Map of 100,000 tiny ints, best chunks",
        explanation=(
            "procbackground is given no chunk size; every peer gets the best of 64, 512 and 4,096. Each is the "
            "median of three passes."
        ),
        run=_HERE + "mapping:adaptive",
        metrics=(_ITEMS_PER_S,),
        full={"items": 100_000},
        quick={"items": 3_000},
        roles_sizes={Role.OURS: {"adapts": 1}, Role.PEER: {"adapts": 0}},
        spans_decades=True,
    ),
    Measure(
        name="payload_64m",
        title="64 MiB numpy array there and back",
        explanation=(
            "An int64 array goes to the worker and comes back; both sides read a number of every "
            "page within the time. The median of three rounds with different contents."
        ),
        run=_HERE + "payload:there_and_back",
        metrics=(_GB_PER_S, Metric("ms", "round trip", "ms")),
        full={"bytes": 64 * _MIB, "rounds": 3},
        quick={"bytes": 2 * _MIB, "rounds": 1},
        spans_decades=True,
    ),
    Measure(
        name="shared_200m",
        title="1,000 tasks that read one array of 200 MB",
        explanation=(
            "Each task reads a few numbers of the array: `Manager.share` here, joblib's own memory maps, and an "
            "`initializer` that gives each worker a copy for the executor. What a task costs over one that gets only "
            "a number; and the growth of the memory of all processes (PSS), with the first use of every page."
        ),
        run=_HERE + "payload:shared",
        metrics=(Metric("over_noop_us", "over a no-op", "µs"), Metric("growth", "memory", "× the array")),
        full={"bytes": 200_000_000, "tasks": 1_000},
        quick={"bytes": 2 * _MIB, "tasks": 20},
        contenders=frozenset({OURS, BASELINE, "joblib"}),
        spans_decades=True,
    ),
    Measure(
        name="memory_per_queued_task",
        title="Parent memory per queued task",
        explanation=(
            "100,000 tasks with one int argument wait behind blockers, their handles in a list; "
            "growth of the parent's resident set (RSS) per task."
        ),
        run=_HERE + "memory:per_queued_task",
        metrics=(Metric("bytes_per_task", "growth of RSS", "bytes"),),
        full={"tasks": 100_000},
        quick={"tasks": 2_000},
    ),
    Measure(
        name="idle",
        title="An idle pool",
        explanation=(
            "A warm pool that has nothing to do for 30 seconds: voluntary context switches of all its threads and "
            "processes, and the memory of all of them (PSS, in which shared pages count once), the parent's included."
        ),
        run=_HERE + "memory:idle",
        metrics=(Metric("pss_mib", "memory (PSS)", "MiB"), Metric("wake_ups", "wake-ups", "")),
        full={"watched_s": 30},
        quick={"watched_s": 1},
        contenders=_POOLS,
    ),
    Measure(
        name="stream_memory",
        title="A million tasks streamed",
        explanation=(
            "`Manager.stream` over a generator of tasks with one int argument; every result is added up, and the "
            "sum checked. Growth of the parent's resident set (RSS) from the first hundredth to its highest."
        ),
        run=_HERE + "memory:streamed",
        metrics=(_GROWTH_MIB, _TASKS_PER_S),
        full={"tasks": 1_000_000},
        quick={"tasks": 2_000},
        contenders=_ONLY_OURS,
    ),
    Measure(
        name="stream_10m",
        title="Ten million tasks streamed",
        explanation="The same with ten million; it takes minutes, and runs only when it is named.",
        run=_HERE + "memory:streamed",
        metrics=(_GROWTH_MIB, _TASKS_PER_S),
        full={"tasks": 10_000_000},
        quick={"tasks": 2_000},
        contenders=_ONLY_OURS,
        time_limit_s=900.0,
        is_on_request=True,
    ),
    Measure(
        name="cpu_batch",
        title="CPU batch, 200 × 20 ms",
        explanation="Pure computing; 100 % is the CPU time that the tasks used, divided by the number of workers.",
        run=_HERE + "computing:cpu_batch",
        metrics=(
            Metric("efficiency_percent", "of the ideal", "%", higher_is_better=True),
            Metric("wall_s", "wall time", "s"),
        ),
        full={"tasks": 200, "task_s": 0.02},
        quick={"tasks": 16, "task_s": 0.005},
    ),
    Measure(
        name="cold_start",
        title="Cold start",
        explanation="From constructing the pool to its first result; the library's import is apart.",
        run=_HERE + "processes:cold_start",
        metrics=(
            Metric("first_result_ms", "construct to first result", "ms"),
            Metric("import_ms", "import", "ms"),
            Metric("together_ms", "import and first result", "ms"),
        ),
        full={},
        quick={},
        spans_decades=True,
    ),
    Measure(
        name="loop_iteration",
        title="Loop iteration",
        explanation=(
            "A loop task counts its own iterations, then runs the same body under a plain `while` in the same process."
        ),
        run=_HERE + "looping:loop_iteration",
        metrics=(
            Metric("over_body_us", "over the bare body", "µs"),
            Metric("iteration_us", "per iteration", "µs"),
            Metric("bare_us", "bare body", "µs"),
        ),
        full={"iterations": 1_000_000},
        quick={"iterations": 20_000},
        contenders=_ONLY_OURS | {"raw-loop"},
    ),
    Measure(
        name="growth_tasks",
        title="Growth: number of tasks",
        explanation="No-op submits, all handles kept, one burst.",
        run=_HERE + "throughput:submit",
        metrics=(_TASKS_PER_S, _SECONDS),
        full={"bursts": 1},
        quick={"bursts": 1},
        points=(
            Point(1_000, {"tasks": 1_000}, quick=True),
            Point(10_000, {"tasks": 10_000}, quick=True),
            Point(100_000, {"tasks": 100_000}),
            Point(1_000_000, {"tasks": 1_000_000}, contenders=_ONLY_OURS),
        ),
        x_title="tasks",
        contenders=_GROWERS,
        time_limit_s=300.0,
    ),
    Measure(
        name="growth_workers",
        title="Growth: number of workers",
        explanation=("Ten sleeps of 50 ms per worker, so that no core is short: the ideal is 0.5 s at any size."),
        run=_HERE + "throughput:sleepers",
        metrics=(
            _TASKS_PER_S,
            _SECONDS,
            Metric("efficiency_percent", "of the ideal", "%", higher_is_better=True),
        ),
        full={"per_worker": 10, "sleep_s": 0.05},
        quick={"per_worker": 3, "sleep_s": 0.02},
        points=tuple(
            Point(workers, {"pool": workers}, quick=workers in (1, 4)) for workers in (1, 2, 4, 8, 16, 32, 64)
        ),
        x_title="workers",
        contenders=_GROWERS,
    ),
    Measure(
        name="growth_payload",
        title="Growth: size of the payload",
        explanation="A numpy array there and back, as in the 64 MiB measure.",
        run=_HERE + "payload:there_and_back",
        metrics=(_GB_PER_S, Metric("ms", "round trip", "ms")),
        full={"rounds": 3},
        quick={"rounds": 1},
        points=(
            Point(1 * _KIB, {"bytes": 1 * _KIB, "rounds": 100}, quick=True),
            Point(16 * _KIB, {"bytes": 16 * _KIB, "rounds": 100}),
            Point(64 * _KIB, {"bytes": 64 * _KIB, "rounds": 50}),
            Point(256 * _KIB, {"bytes": 256 * _KIB, "rounds": 30}),
            Point(1 * _MIB, {"bytes": 1 * _MIB, "rounds": 10}, quick=True),
            Point(4 * _MIB, {"bytes": 4 * _MIB, "rounds": 10}),
            Point(16 * _MIB, {"bytes": 16 * _MIB, "rounds": 5}),
            Point(64 * _MIB, {"bytes": 64 * _MIB}),
            Point(256 * _MIB, {"bytes": 256 * _MIB}),
        ),
        x_title="bytes",
        contenders=_GROWERS,
    ),
)

MEASURES: Mapping[str, Measure] = {measure.name: measure for measure in _ALL}
