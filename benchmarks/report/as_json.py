"""JSON: every single reading, and the summary of them, for programs."""

import json
from dataclasses import asdict

from benchmarks.contenders import BASELINE
from benchmarks.isolation import Result
from benchmarks.measures import Measure, Metric
from benchmarks.report.facts import Facts
from benchmarks.summary import Summary

FORMAT = 1


def json_of(facts: Facts) -> str:
    """Return the report as a JSON document."""
    document = {
        "format": FORMAT,
        "began": facts.began,
        "ended": facts.ended,
        "quick": facts.plan.is_quick,
        "repetitions": facts.plan.repetitions,
        "workers": facts.plan.workers,
        "machine": facts.machine,
        "versions": facts.versions,
        "skipped": facts.skipped,
        "measures": [_measure(measure, facts.summary) for measure in facts.plan.measures],
        "musts": [asdict(verdict) for verdict in facts.verdicts],
        "runs": [_run(result) for result in facts.results],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _measure(measure: Measure, summary: Summary) -> dict[str, object]:
    return {
        "name": measure.name,
        "title": measure.title,
        "explanation": measure.explanation,
        "rows": [
            row
            for metric in measure.metrics
            for x in (summary.xs(measure) if measure.is_growth else [None])
            for contender in summary.row_names(measure)
            if (row := _row(measure, metric, x, contender, summary)) is not None
        ],
    }


def _row(
    measure: Measure, metric: Metric, x: float | None, contender: str, summary: Summary
) -> dict[str, object] | None:
    spread = summary.spread(measure.name, metric.key, contender, x)
    if spread is None:
        return None
    return {
        "metric": metric.key,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "contender": contender,
        "x": x,
        "median": spread.median,
        "min": spread.least,
        "max": spread.most,
        "n": spread.repetitions,
        "to_baseline": None if measure.is_growth else summary.ratio(measure, metric, contender, BASELINE),
        "to_best_peer": None
        if measure.is_growth
        else summary.ratio(measure, metric, contender, summary.best_peer(measure, metric)),
        "note": summary.notes.get((measure.name, contender), ""),
    }


def _run(result: Result) -> dict[str, object]:
    return {
        "measure": result.run.measure.name,
        "x": result.run.point.x if result.run.point else None,
        "contender": result.run.contender.name,
        "repetition": result.run.repetition,
        "values": dict(result.values),
        "note": result.note,
        "error": result.error,
    }
