"""`python -m benchmarks.compare OLD NEW`: the command line in, a table of two versions out.

First and last stop: `sides` prepares both, `schedule` and `isolation` plan and carry out the runs, `pairs` and
`table` make the table of what they read.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.compare.catalogue import COMPARED, NEEDING_NUMPY
from benchmarks.compare.pairs import rows_of
from benchmarks.compare.sides import NEW, OLD, Side, SideError, both_sides, contender
from benchmarks.compare.table import json_of, text_of
from benchmarks.environment import describe_machine, now
from benchmarks.isolation import Result, carry_out
from benchmarks.report.as_markdown import number
from benchmarks.schedule import Plan, Run, runs_of

REPETITIONS = 7
WORKERS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Compare what the arguments name; return 1 if no reading of both was made, 2 if a version cannot be run."""
    asked = _parser().parse_args(argv)
    plan = Plan(
        measures=[COMPARED[name] for name in COMPARED if name in asked.measures],
        contenders=[contender(OLD), contender(NEW)],
        repetitions=asked.repetitions or (1 if asked.quick else REPETITIONS),
        workers=asked.workers,
        is_quick=asked.quick,
    )
    try:
        with both_sides(asked.old, asked.new, not NEEDING_NUMPY.isdisjoint(asked.measures)) as sides:
            return _compare(plan, sides, asked.json)
    except SideError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description="Measure two versions of procbackground side by side."
    )
    what = "folder of a checkout, or the python of an environment that has the version installed"
    parser.add_argument("old", metavar="OLD", help=what)
    parser.add_argument("new", metavar="NEW", help="the same")
    parser.add_argument("--repetitions", type=_positive, help=f"default {REPETITIONS}, or 1 with --quick")
    parser.add_argument(
        "--measures",
        type=_measures,
        default=list(COMPARED),
        metavar="A,B,...",
        help=f"only these measures: {', '.join(COMPARED)}",
    )
    parser.add_argument("--workers", type=_positive, default=WORKERS, help=f"size of every pool, default {WORKERS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every reading there, too")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a test of the comparison, no number counts")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _measures(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in COMPARED]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"no such measure: {', '.join(unknown) or text!r}")
    return names


def _compare(plan: Plan, sides: tuple[Side, Side], json_path: Path | None) -> int:
    began = now()
    for side in sides:
        print(f"{side.name}: {side.package}", flush=True)
    if len({side.package for side in sides}) == 1:
        print("both are the same package: what differs from 1 is noise", flush=True)
    results = _carry_out_all(plan, {side.name: side for side in sides})
    rows = rows_of(results, plan.measures)
    failures = [result for result in results if result.error is not None]
    if json_path is not None:
        facts = {
            "began": began,
            "ended": now(),
            "machine": describe_machine(),
            "repetitions": plan.repetitions,
            "workers": plan.workers,
            "quick": plan.is_quick,
        }
        json_path.write_text(json_of(rows, failures, sides, facts), encoding="utf-8")
    print(text_of(rows, failures))
    if plan.is_quick:
        print("a quick run tests the comparison; no number counts")
    return 0 if rows else 1


def _carry_out_all(plan: Plan, sides: Mapping[str, Side]) -> list[Result]:
    """Carry out every run, telling about each on stderr; Ctrl-C ends the measuring, and what there is gets compared."""
    runs = list(runs_of(plan))
    results: list[Result] = []
    try:
        for place, run in enumerate(runs, start=1):
            result = carry_out(run, plan, sides[run.contender.name].home)
            results.append(result)
            print(f"[{place}/{len(runs)}] {run.label}: {_told(run, result)}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(f"interrupted after {len(results)} of {len(runs)} runs; comparing those", file=sys.stderr, flush=True)
    return results


def _told(run: Run, result: Result) -> str:
    if result.error is not None:
        return f"FAILED: {result.error}"
    return ", ".join(f"{number(result.values[metric.key])} {metric.unit}" for metric in run.measure.metrics)


if __name__ == "__main__":
    sys.exit(main())
