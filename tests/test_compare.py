"""The comparison of two versions: its decisions without a process, and its form in one tiny run. No time is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare.catalogue import COMPARED, NEEDING_NUMPY
from benchmarks.compare.pairs import Row, rows_of
from benchmarks.compare.sides import NEW, OLD, contender
from benchmarks.compare.table import MARK, text_of
from benchmarks.isolation import Result
from benchmarks.measures import Measure, Metric
from benchmarks.naming import named
from benchmarks.schedule import Plan, Run, runs_of

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 100
SPEED = Metric("speed", "speed", "tasks/s", higher_is_better=True)
DELAY = Metric("delay", "delay", "ms")


def measure_of(metric: Metric) -> Measure:
    return Measure("some", "Some", "", run="", metrics=(metric,), full={}, quick={})


def row_of(metric: Metric, old: list[float], new: list[float]) -> Row:
    return Row(measure_of(metric), metric, old, new)


def test_ratio_is_above_one_where_the_new_version_is_better():
    assert row_of(SPEED, old=[100, 100], new=[200, 200]).ratio == 2
    assert row_of(DELAY, old=[4, 4], new=[2, 2]).ratio == 2


def test_worse_means_worse_in_every_repetition():
    assert row_of(SPEED, old=[100, 50, 100], new=[90, 45, 94]).is_worse
    assert not row_of(SPEED, old=[100, 50, 100], new=[50, 25, 96]).is_worse
    assert row_of(DELAY, old=[9, 9], new=[10, 11]).is_worse


def test_a_reading_that_is_not_positive_has_no_ratio():
    row = row_of(DELAY, old=[-0.1, 0.2], new=[0.1, 0.2])
    assert row.paired_ratios == [1]
    assert row_of(DELAY, old=[0.0], new=[0.1]).ratio is None
    assert not row_of(DELAY, old=[0.0], new=[0.1]).is_worse


def test_readings_are_paired_by_repetition_and_lonely_ones_left_out():
    measure = measure_of(DELAY)

    def result(side: str, repetition: int, delay: float | None) -> Result:
        run = Run(measure, None, contender(side), repetition)
        return Result(run, error="failed") if delay is None else Result(run, {"delay": delay})

    results = [result(OLD, 1, 1.0), result(NEW, 1, None), result(NEW, 2, 6.0), result(OLD, 2, 3.0), result(OLD, 3, 9.0)]
    (row,) = rows_of(results, [measure])
    assert (list(row.old), list(row.new)) == ([3.0], [6.0])


def test_rounds_of_a_repetition_count_by_their_median():
    measure = COMPARED["cold_start"]
    key = measure.metrics[0].key
    runs = list(runs_of(Plan([measure], [contender(OLD), contender(NEW)], 1, 2, is_quick=False)))
    assert [run.contender.name for run in runs] == [OLD, NEW] * 5
    (row,) = rows_of([Result(run, {key: float(place**2)}) for place, run in enumerate(runs)], [measure])
    assert (list(row.old), list(row.new)) == ([16.0], [25.0])


def test_table_marks_what_is_worse_and_names_what_failed():
    row = row_of(SPEED, old=[100.0], new=[50.0])
    failure = Result(Run(row.measure, None, contender(NEW), 2), error="no answer within 1 s")
    text = text_of([row], [failure])
    assert next(line for line in text.splitlines() if line.startswith("some")).split() == [
        *("some", "tasks/s", "100", "50", "0.50", "0.50..0.50", MARK)
    ]
    assert "failed: some · new · #2: no answer within 1 s" in text
    assert MARK not in text_of([row_of(SPEED, old=[100.0], new=[100.0])], [])


def test_every_measure_can_be_found():
    assert all(callable(named(measure.run)) for name, measure in COMPARED.items() if name not in NEEDING_NUMPY)
    assert all(measure.metrics for measure in COMPARED.values())


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_what_is_neither_folder_nor_executable_is_refused(tmp_path: Path):
    done = compare(os.fspath(tmp_path / "absent"), sys.executable, "--quick")
    assert done.returncode == 2
    assert "neither a folder nor an executable" in done.stderr


@pytest.mark.slow
def test_a_version_compared_with_itself_fills_the_table(tmp_path: Path):
    """All measures that need no numpy, through the interpreter of these tests; no environment is made."""
    names = [name for name in COMPARED if name not in NEEDING_NUMPY]
    file = tmp_path / "comparison.json"
    done = compare(sys.executable, sys.executable, "--quick", "--measures", ",".join(names), "--json", os.fspath(file))
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert document["failures"] == []
    assert document["sides"][OLD]["package"] == document["sides"][NEW]["package"]
    read = {(row["measure"], row["metric"]) for row in document["rows"]}
    assert read == {(name, metric.key) for name in names for metric in COMPARED[name].metrics}
    assert all(len(row["old"]) == len(row["new"]) == 1 for row in document["rows"])
    assert all(name in done.stdout for name in names)
