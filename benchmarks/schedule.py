"""Schedule: every run of a benchmark, in the order in which they are made.

Second stop: `__main__` says which measures, contenders and how many repetitions; `isolation` carries the runs
out. Contenders take turns within a measure and a repetition, and a repetition is finished before the next one
begins, so that a machine that drifts drifts for everybody.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.contenders import ContenderSpec
from benchmarks.measures import Measure, Point


@dataclass(frozen=True)
class Run:
    """One contender facing one measure once, at one point of it if it is a growth curve."""

    measure: Measure
    point: Point | None
    contender: ContenderSpec
    repetition: int

    @property
    def label(self) -> str:
        """Return what the run is called in the progress lines."""
        at = f" at {self.point.x:,.0f}" if self.point else ""
        return f"{self.measure.name}{at} · {self.contender.name} · #{self.repetition}"


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    measures: Sequence[Measure]
    contenders: Sequence[ContenderSpec]
    repetitions: int
    workers: int
    is_quick: bool


def runs_of(plan: Plan) -> Iterator[Run]:
    """Yield every run in order: repetition, measure, point, contender."""
    for repetition in range(1, plan.repetitions + 1):
        for measure in plan.measures:
            for point in measure.points_to_run(plan.is_quick):
                for contender in _turns(plan.contenders, repetition):
                    if takes_part(contender, measure, point):
                        yield Run(measure, point, contender, repetition)


def takes_part(contender: ContenderSpec, measure: Measure, point: Point | None) -> bool:
    """Return whether the contender is measured there."""
    if contender.why_not(measure.name) is not None:
        return False
    if measure.contenders is not None and contender.name not in measure.contenders:
        return False
    return point is None or point.contenders is None or contender.name in point.contenders


def _turns(contenders: Sequence[ContenderSpec], repetition: int) -> Sequence[ContenderSpec]:
    # Each repetition begins with another contender, so nobody always comes first or after the heaviest one.
    first = (repetition - 1) % len(contenders) if contenders else 0
    return [*contenders[first:], *contenders[:first]]
