"""Runs with a journal: resuming, what of the failed runs again, and `procbackground journal`."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import sysconfig
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE_S
from tests.support.facts import wait_until

COUNTED = """
import os, time
def count(name):
    "Append a byte to the file of a call: it counts from outside."
    fd = os.open(os.path.join(os.environ["COUNTS"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"x"); os.close(fd)
def work(x):
    if x == os.environ.get("BAD"):
        count("failed-" + x)
        raise ValueError("bad " + x)
    count("done-" + x)
    return x * 2
def measure(path):
    import hashlib
    data = open(path, "rb").read()
    digest = hashlib.sha256(data).hexdigest()
    time.sleep(0.002)
    count(digest + "-" + path.replace("/", "+"))
    return [len(data), digest]
"""


@pytest.fixture
def counted(command):
    command.write("counted.py", COUNTED)
    (command.folder / "counts").mkdir()
    command.environment["COUNTS"] = str(command.folder / "counts")
    return command


def counts(command) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (command.folder / "counts").iterdir()}


def test_the_same_command_again_gives_stored_results(counted):
    first = counted("map", "counted:work", "--journal", "j.sqlite", "-k", "a", "b")
    again = counted("map", "counted:work", "--journal", "j.sqlite", "-k", "c", "b", "a", "-o", "out", "--resume")
    assert first.values == ["aa", "bb"]
    records = [json.loads(line) for line in (counted.folder / "out").read_text().splitlines()]
    assert [(each["value"], each["attempts"]) for each in records] == [("cc", 1), ("bb", 0), ("aa", 0)]
    assert counts(counted) == {"done-a": 1, "done-b": 1, "done-c": 1}
    assert "3 succeeded (2 of them before)" in again.err


def test_what_failed_runs_again_only_when_asked_to(counted):
    arguments = ("map", "counted:work", "--journal", "j.sqlite", "-k")
    ran = counted(*arguments, "a", "b", BAD="b")
    assert ran.code == 1
    ran = counted(*arguments, "a", "b", "c")
    assert ran.code == 1
    assert [each["outcome"] for each in ran.records] == ["succeeded", "failed", "succeeded"]
    assert ran.records[1]["error"]["message"] == "bad b"
    assert "--resume-failed" in ran.err
    ran = counted(*arguments, "--retry-failed", "a", "b", "c", "d")
    assert [each["input"] for each in ran.records] == [["a"], ["b"], ["c"]]  # complete, but for what is new
    assert ran.code == 0
    assert counts(counted) == {"done-a": 1, "failed-b": 1, "done-c": 1, "done-b": 1}


def test_resume_failed_runs_what_failed_and_what_is_new(counted):
    arguments = ("map", "counted:work", "--journal", "j.sqlite", "-k", "-q")
    counted(*arguments, "a", "b", BAD="b")
    ran = counted(*arguments, "--resume-failed", "a", "b", "c")
    assert (ran.code, ran.values) == (0, ["aa", "bb", "cc"])
    assert counts(counted) == {"done-a": 1, "failed-b": 1, "done-c": 1, "done-b": 1}


def test_results_are_captured_with_a_journal(counted):
    arguments = ("map", "counted:work", "--journal", "j.sqlite", "-q", "--results", "res", "a")
    assert counted(*arguments).values == counted(*arguments).values == ["aa"]
    assert counts(counted) == {"done-a": 1}
    assert json.loads((counted.folder / "res" / "0" / "value").read_text()) == "aa"


def test_journal_is_shown_listed_and_exported(counted):
    counted("map", "counted:work", "--journal", "j.sqlite", "-q", "a", "b", BAD="b")
    ran = counted("journal", "show", "j.sqlite")
    assert "2 tasks: 1 succeeded, 1 failed" in ran.out
    assert "run 1: " in ran.out
    assert json.loads(counted("journal", "show", "--json", "j.sqlite").out)["counts"] == {"succeeded": 1, "failed": 1}
    ran = counted("journal", "failed", "j.sqlite")
    assert ran.code == 1
    assert "bad b" in ran.out
    assert len(counted("journal", "export", "j.sqlite").records) == 2
    rows = list(csv.DictReader(io.StringIO(counted("journal", "export", "j.sqlite", "--format", "csv").out)))
    assert [row["state"] for row in rows] == ["succeeded", "failed"]
    counted("journal", "export", "j.sqlite", "--format", "joblog", "-o", "log")
    assert (counted.folder / "log").read_text().startswith("Seq\tHost\tStarttime")
    ran = counted("journal", "report", "j.sqlite")
    assert "work" in ran.out
    assert "ValueError: bad b" in ran.out
    assert counted("journal", "report", "j.sqlite", "--html", "page.html").code == 0
    assert "<html" in (counted.folder / "page.html").read_text()


@pytest.mark.parametrize("what", ["show", "failed", "export", "report"])
def test_a_reader_of_a_journal_may_go(counted, what):
    counted("map", "counted:work", "--journal", "j.sqlite", "-q", "a")
    ended, theirs = os.pipe()
    os.close(ended)
    try:
        with counted.running("journal", what, "j.sqlite", stdout=theirs) as process:
            said = process.communicate(timeout=PATIENCE_S)[1]
        assert said.replace("0 failed or interrupted\n", "") == ""
        assert process.returncode == 0
    finally:
        os.close(theirs)


def test_a_second_run_on_a_journal_leaves_the_results_of_the_first(counted):
    arguments = ("map", "tasks:sleeps", "--journal", "j.sqlite", "-o", "out", "--joblog", "log", "-j", "1")
    with counted.running(*arguments, ":::", "a", "b", ":::+", "0", "60") as first:
        assert [first.stderr.readline() for _ in range(2)] == ["begun\n"] * 2
        log = counted.folder / "log"
        wait_until(lambda: log.read_text().count("\n") == 2, "the line of the first task")  # which is written last
        before = [(counted.folder / name).read_text() for name in ("out", "log")]
        ran = counted(*arguments, "c")
        assert (ran.code, ran.out) == (2, "")
        assert f"in use by a manager of process {first.pid}" in ran.err
        assert [(counted.folder / name).read_text() for name in ("out", "log")] == before
        assert json.loads(before[0])["value"] == "a"


def test_what_is_no_journal_is_said_to_be_none(counted):
    counted.write("text", "no journal " * 100)
    for arguments in (["journal", "show", "text"], ["map", "counted:work", "--journal", "text", "a"]):
        ran = counted(*arguments)
        assert ran.code == 2
        assert "text" in ran.err
    ran = counted("journal", "show", "txt")
    assert ran.code == 2
    assert "did you mean text?" in ran.err


def library_files(count: int) -> list[str]:
    root = Path(sysconfig.get_path("stdlib"))
    return [str(path) for path in sorted(root.rglob("*.py"))][:count]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("order", [["--keep-order"], ["--shuffle"]], ids=["in order", "shuffled"])
def test_a_batch_killed_many_times_ends_with_every_result_once(counted, order):
    """SIGKILL of the command at random points; resumed each time; each call succeeded once in all, counted outside."""
    files = library_files(2000)
    counted.write("files", "\n".join(files))
    arguments = ["map", "counted:measure", "--from", "files", "--journal", "j.sqlite", "-o", "out", "-q", *order]
    chance = random.Random(17)
    killed = 0
    for _ in range(10):
        with counted.running(*arguments) as process:
            done = len(counts(counted))
            goal = done + chance.randrange(1, 220)
            while len(os.listdir(counted.folder / "counts")) < min(goal, len(files)) and process.poll() is None:
                pass
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                killed += 1
                process.stderr.read()  # ends when all that it had started is gone
    assert killed >= 8
    ran = counted(*arguments)
    assert ran.code == 0, ran.err
    records = [json.loads(line) for line in (counted.folder / "out").read_text().splitlines()]
    assert sorted(record["input"][0] for record in records) == files
    if order == ["--keep-order"]:
        assert [record["index"] for record in records] == list(range(len(files)))
    assert all(record["value"][0] == os.path.getsize(record["input"][0]) for record in records)
    seen = counts(counted)
    assert len(seen) == len(files)
    twice = [name for name, count in seen.items() if count > 1]
    # A call that is killed between its effect and its return runs again: at most one for each worker and kill.
    assert len(twice) <= killed * (os.cpu_count() or 1)
    assert set(seen.values()) <= {1, 2}
