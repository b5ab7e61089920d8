"""Summary: medians, extremes and ratios, from the results of all runs.

Fifth stop: read by `musts` and by everything in `report/`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.contenders import CONTENDERS, Role
from benchmarks.isolation import Result
from benchmarks.measures import Measure, Metric


@dataclass(frozen=True)
class Spread:
    """The readings of one metric over the repetitions."""

    median: float
    least: float
    most: float
    repetitions: int

    @classmethod
    def of(cls, readings: Sequence[float]) -> "Spread":
        """Return the spread of at least one reading."""
        return cls(median(readings), min(readings), max(readings), len(readings))


@dataclass(frozen=True)
class Place:
    """Where a reading belongs; `x` is the point of a growth curve, None in other measures."""

    measure: str
    x: float | None
    metric: str
    contender: str


class Summary:
    """All spreads of a benchmark, its notes and its failures."""

    def __init__(self, results: Iterable[Result]) -> None:
        readings: dict[Place, list[float]] = defaultdict(list)
        self.notes: dict[tuple[str, str], str] = {}
        self.failures: dict[tuple[str, float | None, str], list[str]] = defaultdict(list)
        for result in results:
            measure, contender = result.run.measure.name, result.run.contender.name
            x = result.run.point.x if result.run.point else None
            if result.error is not None:
                self.failures[measure, x, contender].append(result.error)
                continue
            if result.note:
                self.notes[measure, contender] = result.note
            for metric, value in result.values.items():
                readings[Place(measure, x, metric, contender)].append(value)
        self.spreads: Mapping[Place, Spread] = {place: Spread.of(values) for place, values in readings.items()}

    def spread(self, measure: str, metric: str, contender: str, x: float | None = None) -> Spread | None:
        """Return the spread there, or None if nothing was read."""
        return self.spreads.get(Place(measure, x, metric, contender))

    def row_names(self, measure: Measure) -> list[str]:
        """Return the contenders with a reading or a failure in the measure, in the registry's order."""
        seen = {place.contender for place in self.spreads if place.measure == measure.name}
        seen |= {contender for name, _, contender in self.failures if name == measure.name}
        return [name for name in CONTENDERS if name in seen]

    def xs(self, measure: Measure) -> list[float]:
        """Return the points of a growth curve that have readings."""
        return sorted({p.x for p in self.spreads if p.measure == measure.name and p.x is not None})

    def best_peer(self, measure: Measure, metric: Metric) -> str | None:
        """Return the peer with the best median; batched calls do not count where real submits do."""
        medians = {
            place.contender: spread.median
            for place, spread in self.spreads.items()
            if (place.measure, place.metric, place.x) == (measure.name, metric.key, None)
            and CONTENDERS[place.contender].role is Role.PEER
            and (CONTENDERS[place.contender].has_real_submit or not measure.needs_real_submit)
        }
        if not medians:
            return None
        return (max if metric.higher_is_better else min)(medians, key=lambda name: medians[name])

    def ratio(self, measure: Measure, metric: Metric, contender: str, to: str | None) -> float | None:
        """Return the contender's median as a multiple of another one's, or None if one is missing."""
        ours = self.spread(measure.name, metric.key, contender)
        theirs = self.spread(measure.name, metric.key, to) if to else None
        if ours is None or theirs is None or theirs.median == 0:
            return None
        return ours.median / theirs.median
