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
from procbackground._figures import Figures
from procbackground._report.plots import OTHER_NAMES
from procbackground._report.run import RunReport
from procbackground._report.text import columns_of
from procbackground.observers import JsonLinesObserver
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


def test_any_name_has_one_aligned_line_of_bounded_length(make_manager):
    manager = make_manager()
    names = ["two\nlines\tand \x1b[31mred", "名前が長い", "an e\N{COMBINING ACUTE ACCENT}", "very long " * 30]
    for name in names:
        manager.run_task(Task(plain.nothing, name=name)).result(timeout=PATIENCE_S)
    text = manager.report().text()
    head, *rows = text.splitlines()[: len(names) + 2]
    ends = {columns_of(row[: re.search(r" [01]  |  4  ", row).end() - 2]) for row in rows}
    assert ends == {head.index("succeeded") + len("succeeded")}
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
    assert "very long very" in text
    narrow = manager.report().text(80).splitlines()
    assert max(map(columns_of, narrow)) <= 80
    assert "median" in narrow[0]


def test_the_memory_over_time_is_known_without_samples(manager, gate):
    assert manager.report().as_dict()["memory"] == []
    for _ in range(2):
        manager.run(plain.bytes_of_size, 30 << 20).result(timeout=PATIENCE_S)
    figures = manager.report().as_dict()
    times, held = zip(*figures["memory"], strict=True)
    assert list(times) == sorted(times)
    assert times[0] == pytest.approx(figures["began"])
    assert max(held) >= 30 << 20
    assert max(held) <= 2 * figures["tasks"]["bytes_of_size"]["peak_memory"]  # of two workers


def test_memory_is_the_sum_of_the_peaks_of_what_ran_at_a_time():
    figures = Figures()
    spans = ((1, 10.01, 10.19, 5), (1, 10.21, 10.24, 3), (2, 10.11, 10.12, 20), (1, 10.51, 10.61, 7))
    for pid, began_s, ended_s, peak_bytes in spans:
        figures.attempt(pid, "f", "succeeded", began_s, ended_s, peak_bytes=peak_bytes)
    times, held = zip(*RunReport(figures).memory(), strict=True)
    assert held == (5, 5, 25, 5, 3, 0, 0, 0, 0, 0, 7, 7, 7, 0)  # in slices of 50 ms
    assert times[:2] == pytest.approx((10.01, 10.05))


def test_names_beyond_the_colors_share_one_and_the_page_says_so(make_manager, tmp_path):
    manager = make_manager()
    for number in range(11):
        manager.run_task(Task(busy, args=(0.002,), name=f"name {number}")).result(timeout=PATIENCE_S)
    manager.report().html(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "</span>3 other names" in page
    assert page.count(OTHER_NAMES) == 1 + 3  # in the key, and each bar


def test_the_page_is_whole_and_what_users_wrote_is_escaped(finished, tmp_path):
    finished.run_task(Task(plain.nothing, name="<script>alert(1)</script>")).result(timeout=PATIENCE_S)
    finished.report().html(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 3
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


def test_a_worker_that_replaces_another_is_not_one_more(tmp_path):
    ended = {"event": "task_succeeded", "time": 1.0, "id": 1, "task": "f", "attempt": 1, "outcome": "succeeded"}
    # Workers 1 and 2, 3 in place of 1, and 4 in place of 3; the attempts of 2 were answered together.
    attempts = [(1, 0, 2), (2, 1, 9), (2, 1, 9), (3, 2, 5), (4, 5, 8)]
    lines = [{**ended, "pid": pid, "started": 100.0 + began, "ended": 100.0 + end} for pid, began, end in attempts]
    path = tmp_path / "run.jsonl"
    path.write_text(events(OPENED, *lines))
    assert RunReport.of_events(path).workers == 2


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


MEASURE = """<script>
const size = (selector, side) => [...document.querySelectorAll(selector)].map(e => e.getBoundingClientRect()[side]);
document.title = JSON.stringify([size("td:first-child", "width"), size("svg text", "height"),
  [document.documentElement.scrollWidth]].map(all => [Math.min(...all), Math.max(...all)]));
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [500, 800, 1600])  # Chromium takes less for 500
def test_a_browser_shows_the_page_so_that_it_can_be_read(finished, tmp_path, width):
    finished.run_task(Task(plain.nothing, name="a long name " * 10)).result(timeout=PATIENCE_S)
    finished.report().html(tmp_path / "run.html")
    with open(tmp_path / "run.html", "a", encoding="utf-8") as page:
        page.write(MEASURE)
    assert BROWSER is not None
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},1100", "--dump-dom",
    ]  # fmt: skip
    shown = subprocess.run(
        [BROWSER, *options, (tmp_path / "run.html").as_uri()], capture_output=True, text=True, check=False, timeout=60
    )
    assert shown.returncode == 0
    assert shown.stdout.count("<rect") >= 4
    assert "busy" in shown.stdout
    title = re.search("<title>(.*?)</title>", shown.stdout)
    assert title is not None
    (least_name, _), (least_text, _), (across, _) = json.loads(title[1])
    assert least_name > 100
    assert least_text > 7
    assert across <= width


def test_short_tasks_that_came_back_together_share_their_time(tmp_path):
    path = tmp_path / "run.jsonl"
    with Manager(max_workers=1, observer=JsonLinesObserver(path)) as manager:
        for number in range(2000):
            manager.run(abs, number)
    report = RunReport.of_events(path)
    assert report.as_dict()["tasks"]["abs"]["succeeded"] == 2000
    assert report.speed_up is not None
    assert report.speed_up < 1.5  # one worker
