"""Pairs: what the old and the new version read in the same repetition, as ratios.

Fifth stop: `table` shows them. The two runs of a pair were made one after the other, so a machine that drifts, or
does other work for a while, changes both readings of a pair and leaves their ratio nearly alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.compare.sides import NEW, OLD
from benchmarks.isolation import Result
from benchmarks.measures import Measure, Metric

WORSE_BELOW = 0.95  # two runs of the same code differ by as much on a quiet machine


@dataclass(frozen=True)
class Row:
    """One metric of a measure: a reading of both sides for each repetition in which both were read."""

    measure: Measure
    metric: Metric
    old: Sequence[float]
    new: Sequence[float]

    @property
    def median_old(self) -> float:
        """The median of the old version's readings."""
        return median(self.old)

    @property
    def median_new(self) -> float:
        """The median of the new version's readings."""
        return median(self.new)

    @property
    def ratio(self) -> float | None:
        """The medians' ratio, 1 or more where the new version is at least as good; None if one is not positive."""
        return self._goodness(self.median_old, self.median_new)

    @property
    def paired_ratios(self) -> list[float]:
        """The same of each repetition; those in which a reading is not positive have none."""
        ratios = [self._goodness(old, new) for old, new in zip(self.old, self.new, strict=True)]
        return [ratio for ratio in ratios if ratio is not None]

    @property
    def is_worse(self) -> bool:
        """Whether the new version was clearly worse in every single repetition."""
        return bool(self.paired_ratios) and max(self.paired_ratios) < WORSE_BELOW

    def _goodness(self, old: float, new: float) -> float | None:
        if old <= 0 or new <= 0:  # the difference of two nearly equal durations may be
            return None
        return new / old if self.metric.higher_is_better else old / new


def rows_of(results: Iterable[Result], measures: Iterable[Measure]) -> list[Row]:
    """Return a row for each metric that both sides have read at least once, in the order of the measures."""
    readings: dict[tuple[str, str, str, int], list[float]] = defaultdict(list)
    repetitions: set[int] = set()
    for result in results:
        run = result.run
        repetitions.add(run.repetition)
        for metric, value in result.values.items():
            readings[run.measure.name, metric, run.contender.name, run.repetition].append(value)
    rows = []
    for measure in measures:
        for metric in measure.metrics:
            pairs = [
                (median(old), median(new))
                for repetition in sorted(repetitions)
                if (old := readings.get((measure.name, metric.key, OLD, repetition)))
                and (new := readings.get((measure.name, metric.key, NEW, repetition)))
            ]
            if pairs:
                rows.append(Row(measure, metric, *zip(*pairs, strict=True)))
    return rows
