"""Musts: what procbackground has to reach in each measure, and whether it did.

Sixth stop: `summary` goes in, verdicts come out, and `report/` shows them above everything else.
"""

# ruff: noqa: RUF001 - the multiplication sign in texts for people is meant

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import log

from benchmarks.contenders import BASELINE, CONTENDERS, OURS
from benchmarks.measures import MEASURES, Measure, Metric
from benchmarks.summary import Spread, Summary

BEST_PEER = "best peer"
NOISE = "best peer, within noise"
STEEPEST_EXPONENT = 1.1  # 1 is linear; the rest is what repetitions of one point differ by
STEPS_LOOKED_AT = 2  # at small sizes, fixed costs hide how a curve grows


@dataclass(frozen=True)
class Must:
    """One demand on one metric.

    Attributes: `bound` is a multiple of what `against` reached, or a plain value if `against` is None; the
    metric's own direction says which side of the bound is good; `aim` is the better value hoped for.
    """

    measure: str
    metric: str
    bound: float
    against: str | None = None
    aim: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A demand and what came of it; `is_met` is None while something needed has not been measured."""

    measure: str
    demand: str
    reached: float | None
    bound: float
    aim: float | None
    higher_is_better: bool
    unit: str
    is_met: bool | None
    is_aim_met: bool | None = None
    remark: str = ""


_ALL = (
    Must("submit_5k", "tasks_per_s", 10, BASELINE, aim=18),
    Must("submit_5k", "tasks_per_s", 3, BEST_PEER),
    Must("submit_100k", "tasks_per_s", 12, BASELINE, aim=25),
    Must("submit_100k", "tasks_per_s", 8, "pebble"),
    Must("latency", "p50_us", 0.40, BASELINE, aim=0.28),
    Must("latency", "p99_us", 0.5, BASELINE, aim=0.29),
    Must("fresh", "ms_per_task", 0.2, BASELINE, aim=0.12),
    Must("fresh", "ms_per_task", 1.3, "os-fork"),
    Must("kill_recovery", "p50_ms", 3.0, aim=1.6),
    Must("map_chunk64", "items_per_s", 4, BASELINE, aim=5.6),
    Must("map_adaptive", "items_per_s", 1, BEST_PEER),
    Must("payload_64m", "gb_per_s", 5, BASELINE, aim=7),
    Must("shared_200m", "over_noop_us", 50),
    Must("shared_200m", "growth", 1.1),
    Must("memory_per_queued_task", "bytes_per_task", 0.25, BASELINE, aim=0.12),
    Must("idle", "pss_mib", 1, BASELINE),
    Must("idle", "wake_ups", 0),
    Must("cpu_batch", "efficiency_percent", 97),
    Must("cpu_batch", "efficiency_percent", 1, NOISE),
    Must("cold_start", "first_result_ms", 1, BASELINE),
    Must("loop_iteration", "over_body_us", 1.0, aim=0.1),
)


def verdicts(summary: Summary, measures: Mapping[str, Measure] = MEASURES) -> list[Verdict]:
    """Return a verdict on every demand upon the measures given."""
    judged = [_judge(must, summary) for must in _ALL if must.measure in measures]
    return judged + [_judge_growth(measure, summary) for measure in measures.values() if measure.is_growth]


def _judge(must: Must, summary: Summary) -> Verdict:
    measure = MEASURES[must.measure]
    metric = next(metric for metric in measure.metrics if metric.key == must.metric)
    rival = _rival(must, measure, metric, summary)
    reached = _reached(must, measure, metric, rival, summary)
    is_met = _is_good(reached, must.bound, metric)
    remark = ""
    if must.against in (BEST_PEER, NOISE) and rival is not None:
        remark = f"the best peer is {rival}"
    if must.against == NOISE and is_met is False and _overlaps_noise(measure, metric, rival, summary):
        is_met, remark = True, remark + "; the difference is within its repetitions"
    return Verdict(
        measure=must.measure,
        demand=_demand(must, metric),
        reached=reached,
        bound=must.bound,
        aim=must.aim,
        higher_is_better=metric.higher_is_better,
        unit="×" if must.against else metric.unit,
        is_met=is_met,
        is_aim_met=None if must.aim is None else _is_good(reached, must.aim, metric),
        remark=remark,
    )


def _rival(must: Must, measure: Measure, metric: Metric, summary: Summary) -> str | None:
    return summary.best_peer(measure, metric) if must.against in (BEST_PEER, NOISE) else must.against


def _reached(must: Must, measure: Measure, metric: Metric, rival: str | None, summary: Summary) -> float | None:
    if must.against is not None:
        return summary.ratio(measure, metric, OURS, rival)
    ours = summary.spread(measure.name, metric.key, OURS)
    return ours.median if ours else None


def _is_good(reached: float | None, bound: float, metric: Metric) -> bool | None:
    if reached is None:
        return None
    return reached >= bound if metric.higher_is_better else reached <= bound


def _overlaps_noise(measure: Measure, metric: Metric, rival: str | None, summary: Summary) -> bool:
    """Return whether our median lies within the best peer's own extremes."""
    ours = summary.spread(measure.name, metric.key, OURS)
    theirs = summary.spread(measure.name, metric.key, rival) if rival else None
    if ours is None or theirs is None:
        return False
    return theirs.least <= ours.median <= theirs.most


def _demand(must: Must, metric: Metric) -> str:
    sign = "≥" if metric.higher_is_better else "≤"
    if must.against is None:
        return f"{metric.title} {sign} {must.bound:g} {metric.unit}"
    if must.against in (BEST_PEER, NOISE):
        return f"{metric.title} {sign} {must.bound:g} × the {must.against}"
    return f"{metric.title} {sign} {must.bound:g} × {CONTENDERS[must.against].title}"


def _judge_growth(measure: Measure, summary: Summary) -> Verdict:
    exponents = growth_exponents([(x, summary.spread(measure.name, "seconds", OURS, x)) for x in summary.xs(measure)])
    steepest = max(exponents[-STEPS_LOOKED_AT:], default=None)
    return Verdict(
        measure=measure.name,
        demand=f"wall time grows no faster than linearly with the {measure.x_title} (exponent)",
        reached=steepest,
        bound=STEEPEST_EXPONENT,
        aim=None,
        higher_is_better=False,
        unit="",
        is_met=None if steepest is None else steepest <= STEEPEST_EXPONENT,
        remark="the steeper of the last two steps",
    )


def growth_exponents(curve: list[tuple[float, Spread | None]]) -> list[float]:
    """Return the exponent with which wall time grew in each step: 1 is linear, 0 is constant."""
    known = [(x, spread.median) for x, spread in curve if spread is not None and spread.median > 0]
    return [
        log(later_s / earlier_s) / log(larger / smaller) for (smaller, earlier_s), (larger, later_s) in pairwise(known)
    ]
