"""Contenders: who is measured, in the order of the tables.

The registry names each adaptor without importing it, because importing it imports the library; `schedule`
reads who takes part in what, and `one_run` imports the one adaptor of its run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Role(Enum):
    """How a contender counts: as us, as a rival, or as the least that the system asks for."""

    OURS = "ours"
    PEER = "peer"
    FLOOR = "floor"


@dataclass(frozen=True)
class ContenderSpec:
    """One row of the tables.

    Attributes: `adaptor` is `module:class` and gets `options` as keyword arguments; `library` is the module
    whose import is timed; `distribution` is what carries its version, None for the standard library; `lacks`
    maps a measure to the reason why the contender has no row there; `only` restricts it to some measures;
    `has_real_submit` is False where a burst of tasks is one call for the library.
    """

    name: str
    title: str
    adaptor: str
    library: str
    distribution: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    role: Role = Role.PEER
    has_real_submit: bool = True
    lacks: Mapping[str, str] = field(default_factory=dict)
    only: frozenset[str] | None = None

    def why_not(self, measure: str) -> str | None:
        """Return why this contender does not take part in `measure`, or None if it does."""
        if self.only is not None and measure not in self.only:
            return "a floor of other measures"
        return self.lacks.get(measure)


OURS = "procbackground"
BASELINE = "ppe-forkserver"

_HERE = "benchmarks.contenders."
_NO_LIMIT_OF_TASKS = {"fresh": "no limit of tasks per process"}


def _standard_executor(start_method: str, lacks: Mapping[str, str]) -> ContenderSpec:
    return ContenderSpec(
        name=f"ppe-{start_method}",
        title=f"ProcessPoolExecutor ({start_method})",
        adaptor=_HERE + "process_pool_executor:StandardExecutor",
        library="concurrent.futures.process",
        options={"start_method": start_method},
        lacks=lacks,
    )


_ALL = (
    ContenderSpec(
        name=OURS,
        title="procbackground",
        adaptor=_HERE + "procbackground_manager:ProcbackgroundManager",
        library="procbackground.manager",
        distribution="procbackground",
        role=Role.OURS,
    ),
    _standard_executor("forkserver", lacks={}),
    _standard_executor("fork", lacks={"fresh": "max_tasks_per_child does not go with fork"}),
    _standard_executor("spawn", lacks={}),
    ContenderSpec(
        name="mp-pool",
        title="multiprocessing.Pool (fork)",
        adaptor=_HERE + "multiprocessing_pool:StandardPool",
        library="multiprocessing.pool",
        options={"start_method": "fork"},
    ),
    ContenderSpec(
        name="pebble",
        title="pebble (fork)",
        adaptor=_HERE + "pebble_pool:PebblePool",
        library="pebble",
        distribution="pebble",
        options={"start_method": "fork"},
    ),
    ContenderSpec(
        name="deadpool",
        title="deadpool (forkserver)",
        adaptor=_HERE + "deadpool_executor:DeadpoolExecutor",
        library="deadpool",
        distribution="deadpool-executor",
        options={"start_method": "forkserver"},
        lacks={
            "map_chunk64": "its map has no chunks: every item is a task",
            "map_adaptive": "its map has no chunks: every item is a task",
        },
    ),
    ContenderSpec(
        name="loky",
        title="loky",
        adaptor=_HERE + "loky_executor:LokyExecutor",
        library="loky",
        distribution="loky",
        lacks=_NO_LIMIT_OF_TASKS,
    ),
    ContenderSpec(
        name="joblib",
        title="joblib (no submit, batches)",
        adaptor=_HERE + "joblib_parallel:JoblibParallel",
        library="joblib",
        distribution="joblib",
        has_real_submit=False,
        lacks={
            **_NO_LIMIT_OF_TASKS,
            "kill_recovery": "no submit: one death ends the whole call",
            "memory_per_queued_task": "no submit: nothing can be queued",
        },
    ),
    ContenderSpec(
        name="mpire",
        title="mpire (fork)",
        adaptor=_HERE + "mpire_pool:MpirePool",
        library="mpire",
        distribution="mpire",
        options={"start_method": "fork"},
    ),
    ContenderSpec(
        name="os-fork",
        title="floor: os.fork, one at a time",
        adaptor=_HERE + "floors:OsFork",
        library="pickle",
        options={"is_paired": False},
        role=Role.FLOOR,
        only=frozenset({"fresh"}),
    ),
    ContenderSpec(
        name="os-fork-paired",
        title="floor: os.fork, as many as workers",
        adaptor=_HERE + "floors:OsFork",
        library="pickle",
        options={"is_paired": True},
        role=Role.FLOOR,
        only=frozenset({"fresh", "cpu_batch"}),
    ),
    ContenderSpec(
        name="raw-loop",
        title="floor: a plain while loop",
        adaptor=_HERE + "floors:RawLoop",
        library="pickle",
        role=Role.FLOOR,
        only=frozenset({"loop_iteration"}),
    ),
)

CONTENDERS: Mapping[str, ContenderSpec] = {spec.name: spec for spec in _ALL}
PEERS = tuple(spec.name for spec in _ALL if spec.role is Role.PEER)
