"""`python -m benchmarks`: the command line in, the whole measurement, the exit code out.

First and last stop: asks `environment` who can take part, has `isolation` carry out what `schedule` plans,
and hands the results through `summary` and `musts` to `report/`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import CONTENDERS, PEERS, ContenderSpec, Role
from benchmarks.environment import cache_bytecode, describe_machine, now, versions_of, why_not_importable
from benchmarks.isolation import ROOT, Result, carry_out
from benchmarks.measures import MEASURES
from benchmarks.musts import verdicts
from benchmarks.report.as_json import json_of
from benchmarks.report.as_markdown import ANSWERS, markdown_of, number
from benchmarks.report.facts import Facts
from benchmarks.schedule import Plan, Run, runs_of
from benchmarks.summary import Summary

REPETITIONS = 5
QUICK_REPETITIONS = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the arguments ask for and write the report; return 1 if nothing could be measured."""
    asked = _parser().parse_args(argv)
    began, machine = now(), describe_machine()
    cache_bytecode()
    wanted = [spec for spec in CONTENDERS.values() if spec.role is not Role.PEER or spec.name in asked.peers]
    contenders, skipped = _those_importable(wanted)
    plan = Plan(
        measures=[
            measure
            for name, measure in MEASURES.items()
            if (name in asked.only if asked.only else not measure.is_on_request)
        ],
        contenders=contenders,
        repetitions=asked.repetitions or (QUICK_REPETITIONS if asked.quick else REPETITIONS),
        workers=asked.workers,
        is_quick=asked.quick,
    )
    results = _carry_out_all(plan)
    summary = Summary(results)
    facts = Facts(
        plan=plan,
        began=began,
        ended=now(),
        machine=machine,
        versions=versions_of(contenders),
        skipped=skipped,
        results=results,
        summary=summary,
        verdicts=verdicts(summary, {measure.name: measure for measure in plan.measures}),
    )
    _write(facts, asked.output)
    return 0 if summary.spreads else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure procbackground and its peers.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one repetition: a test of the benchmarks")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), metavar="MEASURE", help="only these measures")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=list(PEERS),
        default=list(PEERS),
        metavar="PEER",
        help=f"only these peers, none if the list is empty: {', '.join(PEERS)}",
    )
    parser.add_argument("--repetitions", type=_positive, help=f"default {REPETITIONS}, or 1 with --quick")
    parser.add_argument("--workers", type=_positive, default=2, help="size of every pool, default 2")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the report")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _those_importable(wanted: Sequence[ContenderSpec]) -> tuple[list[ContenderSpec], dict[str, str]]:
    contenders, skipped = [], {}
    for contender in wanted:
        reason = why_not_importable(contender)
        if reason is None:
            contenders.append(contender)
        else:
            skipped[contender.name] = reason
            print(f"skipped {contender.name}: {reason}", flush=True)
    return contenders, skipped


def _carry_out_all(plan: Plan) -> list[Result]:
    """Carry out every run, telling about each; Ctrl-C ends the measuring, and what there is gets reported."""
    runs = list(runs_of(plan))
    results: list[Result] = []
    try:
        for place, run in enumerate(runs, start=1):
            result = carry_out(run, plan)
            results.append(result)
            print(f"[{place}/{len(runs)}] {run.label}: {_told(run, result)}", flush=True)
    except KeyboardInterrupt:
        print(f"interrupted after {len(results)} of {len(runs)} runs; reporting those", flush=True)
    return results


def _told(run: Run, result: Result) -> str:
    if result.error is not None:
        return f"FAILED: {result.error}"
    readings = [
        f"{number(result.values[metric.key])} {metric.unit}"
        for metric in run.measure.metrics
        if metric.key in result.values
    ]
    return ", ".join(readings) + (f" ({result.note})" if result.note else "")


def _write(facts: Facts, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json_of(facts), encoding="utf-8")
    (folder / "results.md").write_text(markdown_of(facts), encoding="utf-8")
    try:
        from benchmarks.report.as_plots import write_plots
    except ImportError as error:
        print(f"no plots: {error}")
    else:
        write_plots(facts, folder)
    if facts.plan.is_quick:
        print("a quick run tests the benchmarks; no number counts")
    for verdict in facts.verdicts:
        reached = "-" if verdict.reached is None else f"{number(verdict.reached)} {verdict.unit}".strip()
        print(f"{verdict.measure}: {verdict.demand}: {reached}, {ANSWERS[verdict.is_met].strip('*')}")
    print(f"written to {folder}")


if __name__ == "__main__":
    sys.exit(main())
