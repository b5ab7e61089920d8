"""The benchmarks' own form: one quick run must give complete reports. No time is judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 100
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ONE_OF_EACH_KIND = ("submit_5k", "fresh", "kill_recovery", "loop_iteration", "growth_tasks")
PEER = "ppe-forkserver"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    run = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--quick", "--output", os.fspath(folder)),
            *("--only", *ONE_OF_EACH_KIND),
            *("--peers", PEER),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.fixture
def document(report: Path) -> dict[str, Any]:
    return json.loads((report / "results.json").read_text(encoding="utf-8"))


def test_json_tells_what_was_measured_on_what_and_when(document):
    assert document["format"] == 1
    assert document["quick"] is True
    assert document["workers"] == 2
    assert document["repetitions"] == 1
    assert {"processor", "cores", "system", "python"} <= set(document["machine"])
    assert document["began"] <= document["ended"]
    assert [measure["name"] for measure in document["measures"]] == list(ONE_OF_EACH_KIND)


def test_json_has_a_row_per_metric_and_contender(document):
    rows = {measure["name"]: measure["rows"] for measure in document["measures"]}
    assert {row["contender"] for row in rows["submit_5k"]} >= {"procbackground", PEER}
    assert {row["contender"] for row in rows["fresh"]} >= {"procbackground", PEER, "os-fork"}
    assert {row["contender"] for row in rows["loop_iteration"]} == {"procbackground", "raw-loop"}
    assert len({row["x"] for row in rows["growth_tasks"]}) > 1
    for row in (row for measure_rows in rows.values() for row in measure_rows):
        assert row["min"] <= row["median"] <= row["max"]
        assert row["n"] == 1
        assert {"metric", "unit", "higher_is_better", "to_baseline", "to_best_peer", "note"} <= set(row)


def test_every_run_has_readings(document):
    assert {run["measure"]: run["error"] for run in document["runs"] if run["error"]} == {}
    assert all(run["values"] for run in document["runs"])


def test_every_must_of_a_measure_is_judged(document):
    judged = {must["measure"]: must for must in document["musts"]}
    assert set(judged) == set(ONE_OF_EACH_KIND)
    for must in document["musts"]:
        assert {"demand", "reached", "bound", "is_met", "remark"} <= set(must)
    assert isinstance(judged["kill_recovery"]["is_met"], bool)


def test_table_names_machine_versions_ratios_and_verdicts(document, report):
    text = (report / "results.md").read_text(encoding="utf-8")
    assert document["machine"]["processor"] in text
    assert document["machine"]["python"] in text
    assert "A quick run" in text
    assert "## Musts" in text
    for measure in document["measures"]:
        assert f"(`{measure['name']}`)" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert any(f"{PEER} |" in line for line in tables)
    assert any(line.count("|") == 9 and "**procbackground**" in line for line in tables)


def test_plots_are_png_files(report):
    for name in (*ONE_OF_EACH_KIND, "musts"):
        content = (report / f"{name}.png").read_bytes()
        assert content.startswith(PNG_SIGNATURE)
        assert len(content) > 5_000
