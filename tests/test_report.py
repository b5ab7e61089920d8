"""The report of a run: of a manager, and of a file of events; as figures, as text and as a page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from procbackground import Manager, Task
from procbackground._report.run import RunReport
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, plain

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def busy(seconds: float) -> None:
    """Compute for a while."""
    import time

    end_s = time.process_time() + seconds
    while time.process_time() < end_s:
        pass


def raise_value_error() -> None:
    raise ValueError("<no> & never")


@pytest.fixture
def finished(make_manager: Any) -> Manager:
    """A manager at which 20 tasks have succeeded, 2 failed after a retry each, and one was cancelled."""
    manager = make_manager()
    handles = [manager.run(busy, 0.005) for _ in range(20)]
    handles += [manager.run_task(Task(raise_value_error, retry=2)) for _ in range(2)]
    for handle in handles:
        handle.exception(timeout=PATIENCE_S)
    manager.run_task(Task(plain.nothing, interval=0, type="loop", name="loop")).cancel()
    return manager  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [{}, {"isolate": True}, {"retry": 2}, {"deadline": 60.0}, {"priority": 1}])
@pytest.mark.parametrize("is_keyed", [False, True])
def test_a_wait_counts_from_the_call_on(make_manager, tmp_path, options, is_keyed):
    began_s = time.monotonic()
    manager = make_manager(journal=tmp_path / "journal.sqlite" if is_keyed else None)
    manager.run_task(Task(plain.nothing, **options)).result(PATIENCE_S)
    waited = manager.report().as_dict()["tasks"]["nothing"]["waited_seconds"]
    assert waited["count"] == 1
    assert 0 < waited["sum"] < time.monotonic() - began_s


def test_the_figures_of_each_name(finished):
    figures = finished.report().as_dict()
    tasks = figures["tasks"]
    assert (tasks["busy"]["succeeded"], tasks["busy"]["failed"]) == (20, 0)
    failed = tasks["raise_value_error"]
    assert (failed["succeeded"], failed["failed"], failed["retried"]) == (0, 2, 2)
    assert failed["attempts"] == {"raised": 4}
    assert failed["errors"] == ["ValueError"]
    assert tasks["loop"]["cancelled"] == 1
    assert tasks["busy"]["wall_seconds"]["count"] == 20
    assert tasks["busy"]["wall_seconds"]["p50"] > 0.004
    assert tasks["busy"]["cpu_seconds"]["sum"] > 0.05
    assert tasks["busy"]["waited_seconds"]["count"] >= 15  # of 20, that 2 workers had
    assert figures["total"]["succeeded"] == 20
    assert figures["workers"] == 2
    assert 0 < figures["busy_seconds"] <= 2 * figures["seconds"] + 0.1
    assert all(0 <= share <= 1 for _, share in figures["utilisation"])
    assert {attempt["outcome"] for attempt in figures["attempts"]} == {"succeeded", "raised"}
    json.dumps(figures, allow_nan=False)


def test_large_results_and_deaths_count_as_well(manager):
    assert len(manager.run(plain.bytes_of_size, 3_000_000).result(timeout=PATIENCE_S)) == 3_000_000
    assert manager.run(failing.die_by, 9).exception(timeout=PATIENCE_S) is not None
    tasks = manager.report().as_dict()["tasks"]
    assert tasks["bytes_of_size"]["succeeded"] == 1
    assert (tasks["die_by"]["failed"], tasks["die_by"]["attempts"]) == (1, {"died": 1})


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_each_row_of_a_map_counts_once(manager, chunksize):
    assert sum(manager.map(plain.square, range(500), chunksize=chunksize)) == sum(x * x for x in range(500))
    assert manager.report().as_dict()["tasks"]["square"]["succeeded"] == 500


def test_rows_that_fail_and_large_rows_count_once_too(manager):
    items = ["die" if number == 50 else number for number in range(100)]
    results = list(manager.map(failing.die_if_told, items, chunksize=10, return_exceptions=True))
    assert sum(isinstance(result, BaseException) for result in results) == 1
    large = list(manager.map(plain.bytes_of_size, [1_000_000] * 12, chunksize=4))
    assert len(large) == 12
    tasks = manager.report().as_dict()["tasks"]
    assert (tasks["die_if_told"]["succeeded"], tasks["die_if_told"]["failed"]) == (99, 1)
    assert tasks["bytes_of_size"]["succeeded"] == 12


def test_before_and_after_all(gate):
    manager = Manager(max_workers=1)
    assert "nothing has run" in manager.report().text()
    assert manager.report().as_dict()["began"] is None
    handle = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    assert manager.report().as_dict()["total"]["succeeded"] == 0
    gate.open()
    handle.result(timeout=PATIENCE_S)
    manager.close()
    assert manager.report().as_dict()["total"]["succeeded"] == 1


def test_the_text_has_a_line_for_each_name_and_fits(finished):
    text = finished.report().text()
    assert re.search(r"^busy +20 +0 +0 +0 ", text, re.MULTILINE)
    assert re.search(r"^total +20 +2 +1 +2 ", text, re.MULTILINE)
    assert "4 raised" in text
    narrow = finished.report().text(80)
    assert max(map(len, narrow.splitlines()[:8])) <= 80


def test_the_page_is_whole_and_what_users_wrote_is_escaped(finished, tmp_path):
    finished.run_task(Task(plain.nothing, name="<script>alert(1)</script>")).result(timeout=PATIENCE_S)
    finished.report().html(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 2  # no samples, so no plot of memory
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert drawings[0].count("<rect") >= 4


def events(*lines: Any) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


OPENED = {"time": 100.0, "event": "opened", "format": 1, "pid": 5}


def a_run(path: Path) -> Path:
    """Write the events of a task that succeeds in its second attempt, and of one that is cancelled."""
    attempt = {"pid": 7, "started": 101.0, "ended": 102.0, "cpu_seconds": 0.9, "peak_memory": 1 << 20}
    path.write_text(
        events(
            OPENED,
            {"time": 100.5, "event": "task_added", "id": 1, "task": "f", "attempt": 1},
            {"time": 101.0, "event": "task_started", "id": 1, "task": "f", "attempt": 1, "pid": 7},
            {"time": 101.5, "event": "process_sampled", "pid": 7, "rss": 1000, "cpu_percent": 99.0},
            {"time": 101.5, "event": "process_sampled", "pid": 8, "rss": 500, "cpu_percent": 0.0},
            {"time": 102.0, "event": "task_retrying", "id": 1, "task": "f", "attempt": 1, "delay": 0.5,
             "error": {"type": "ValueError", "module": "builtins", "message": "x"}, "outcome": "raised", **attempt},
            {"time": 104.0, "event": "task_succeeded", "id": 1, "task": "f", "attempt": 2, "outcome": "succeeded",
             **attempt, "started": 103.0, "ended": 104.0},
            {"time": 104.0, "event": "task_added", "id": 2, "task": "g", "attempt": 1},
            {"time": 104.1, "event": "task_cancelled", "id": 2, "task": "g", "attempt": 1},
            {"time": 105.0, "event": "of_a_later_version", "x": 1},
        )
        + '{"time": 106.0, "event": "task_a'  # being written
    )  # fmt: skip
    return path


def test_a_file_of_events_gives_the_same_report(tmp_path):
    figures = RunReport.of_events(a_run(tmp_path / "run.jsonl")).as_dict()
    f = figures["tasks"]["f"]
    assert (f["succeeded"], f["retried"], f["attempts"]) == (1, 1, {"raised": 1, "succeeded": 1})
    assert f["waited_seconds"]["sum"] == 0.5
    assert f["wall_seconds"]["sum"] == 2.0
    assert f["peak_memory"] == 1 << 20
    assert figures["tasks"]["g"]["cancelled"] == 1
    assert (figures["began"], figures["ended"]) == (101.0, 104.0)
    assert figures["busy_seconds"] == pytest.approx(2.0)
    assert [held for _, held in figures["memory"]] == [1500]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json\n", "line 1: no JSON"),
        ("[1, 2]\n", "line 1: no event"),
        (events(OPENED, {"event": "task_added", "time": 1.0}), "line 2: KeyError"),
        (events({**OPENED, "format": 99}), "format 99"),
    ],
)
def test_another_file_is_a_clear_error(tmp_path, content, words):
    path = tmp_path / "other"
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        RunReport.of_events(path)


def test_the_program_prints_and_writes_pages(tmp_path):
    path = a_run(tmp_path / "run.jsonl")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "procbackground.report", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    told = run(str(path))
    assert (told.returncode, told.stderr) == (0, "")
    assert "1 raised" in told.stdout
    assert json.loads(run(str(path), "--json").stdout)["tasks"]["f"]["succeeded"] == 1
    assert run(str(path), "--html", str(tmp_path / "run.html")).returncode == 0
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    missing = run(str(tmp_path / "missing"))
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_a_browser_shows_the_page(finished, tmp_path):
    finished.report().html(tmp_path / "run.html")
    assert BROWSER is not None
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1100,1100", "--dump-dom",
    ]  # fmt: skip
    shown = subprocess.run(
        [BROWSER, *options, (tmp_path / "run.html").as_uri()], capture_output=True, text=True, check=False, timeout=60
    )
    assert shown.returncode == 0
    assert shown.stdout.count("<rect") >= 4
    assert "busy" in shown.stdout
