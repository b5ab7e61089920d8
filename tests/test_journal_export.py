"""Journals as other programs read them: by SQL, as JSON lines, CSV and GNU parallel's joblog."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import tempfile

import pytest

from procbackground import Manager, Task
from procbackground._journal import export
from procbackground._journal.reader import Journal
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.scripts import run
from tests.support.tasks import gated, journaled, plain


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("journal") / "batch.sqlite")
    with Manager(max_workers=1, journal=path, grace=0.1) as manager:
        for task in (
            Task(plain.square, args=(3,), name="plain"),
            Task(plain.echo, args=({"a": [1, None, "\n\t"]},)),
            Task(journaled.make_point, args=(os.devnull, 4), key="point"),
            Task(plain.echo, args=(b"bytes",)),
            Task(journaled.fail, args=("first line\nsecond: line",)),
            Task(os._exit, args=(3,)),
            Task(os.kill, args=(0, signal.SIGKILL), key="killed\t"),
            Task(plain.pause, args=(60,), timeout=0.05),
            Task(journaled.fail_once, args=("raise",), retry=2),
        ):
            manager.run_task(task).exception(PATIENCE_S)
    return path


def test_json_lines_have_facts_and_plain_values(path):
    with Journal(path) as journal:
        lines = [json.loads(line) for line in export.json_lines(journal)]
        file = io.StringIO()
        export.write_json_lines(journal, file, ["failed"])
    assert [line["name"] for line in lines[:2]] == ["plain", "echo"]
    assert [line["state"] for line in lines] == ["succeeded"] * 4 + ["failed"] * 4 + ["succeeded"]
    assert [line.get("value", "none") for line in lines[:4]] == [9, {"a": [1, None, "\n\t"]}, "none", "none"]
    assert lines[4]["error"] == "first line\nsecond: line"
    assert lines[4]["error_type"] == "ValueError"
    assert "journaled.py" in lines[4]["traceback"]
    assert (lines[5]["exit_code"], lines[5]["outcome"]) == (3, "died")
    assert (lines[6]["exit_code"], lines[6]["signal"], lines[6]["key"]) == (-9, "SIGKILL", "killed\t")
    assert (lines[7]["outcome"], lines[7]["error_type"].rpartition(".")[2]) == ("timed_out", "TaskTimeoutError")
    assert (lines[8]["attempt"], lines[8]["seconds"] >= 0) == (2, True)
    assert len(file.getvalue().splitlines()) == 4


def test_csv_can_be_read_back(path):
    file = io.StringIO(newline="")
    with Journal(path) as journal:
        export.write_csv(journal, file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue(), newline="")))
    assert len(rows) == 9
    assert rows[4]["error"] == "first line\nsecond: line"
    assert tuple(rows[0]) == export.CSV_COLUMNS


def test_joblog_has_the_columns_of_gnu_parallel(path):
    file = io.StringIO()
    with Journal(path) as journal:
        export.write_joblog(journal, file)
    head, *lines = file.getvalue().splitlines()
    assert head == "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand"
    fields = [line.split("\t") for line in lines]
    assert all(len(each) == 9 for each in fields)
    assert [tuple(map(int, each[6:8])) for each in fields] == [
        (0, 0), (0, 0), (0, 0), (0, 0), (1, 0), (3, 0), (0, 9), (-1, 15), (0, 0),
    ]  # fmt: skip
    assert fields[0][1] == os.uname().nodename
    assert fields[0][8] == "tests.support.tasks.plain.square(3)"


def test_values_are_loaded_on_demand(path):
    with Journal(path) as journal:
        assert journal.value("point") == journaled.Point(4, 2.0)
        with pytest.raises(KeyError):
            journal.value("killed\t")
        with pytest.raises(KeyError):
            journal.value("unknown")
        assert journal.counts() == {"succeeded": 5, "failed": 4}
        assert [entry.key for entry in journal.entries(["succeeded"])][2] == "point"
        (run,) = journal.runs()
        assert (run.pid, run.host) == (os.getpid(), os.uname().nodename)


def test_file_is_plain_sqlite(path):
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT state, count(*), min(typeof(result)) FROM tasks GROUP BY state").fetchall()
    assert rows == [("failed", 4, "null"), ("succeeded", 5, "blob")]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_journal_can_be_read_while_it_is_written(tmp_path, gate):
    path = str(tmp_path / "batch.sqlite")
    with Manager(max_workers=1, journal=path) as manager:
        handle = manager.run(gated.stop_then_do, gate.address)
        pid = gate.wait_for_arrival()
        with Journal(path) as journal:
            assert journal.is_in_use
            assert list(journal.counts()) in (["running"], ["queued"])
            gate.release(pid, 5)
            assert handle.result(PATIENCE_S) == 5
            assert journal.counts() == {"succeeded": 1}
    with Journal(path) as journal:
        assert not journal.is_in_use


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_journal_can_be_read_where_nothing_may_be_written(tmp_path):
    path = str(tmp_path / "batch.sqlite")
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(plain.square, 3).result(PATIENCE_S) == 9
    os.chmod(tmp_path, 0o555)
    try:
        with Journal(path) as journal:
            assert journal.counts() == {"succeeded": 1}
    finally:
        os.chmod(tmp_path, 0o755)


@pytest.fixture
def copy(path, tmp_path):
    """A journal that its manager has closed, in a folder of its own."""
    return shutil.copy(path, tmp_path / "copy.sqlite")


def read(path):
    with Journal(path) as journal:
        return journal.counts(), len(list(journal.entries())), len(journal.runs())


def test_reader_leaves_nothing_beside_a_file_that_is_closed(path, copy, tmp_path):
    before = copy.read_bytes()
    assert read(copy) == read(path)
    with Journal(copy) as journal, Journal(copy) as other:
        next(iter(journal.entries()))
        other.counts()
    assert os.listdir(tmp_path) == ["copy.sqlite"]
    assert copy.read_bytes() == before


def test_reader_leaves_nothing_where_it_may_not_write(path):
    expected = read(path)
    with tempfile.TemporaryDirectory() as folder:  # whose path anybody may use
        copy = shutil.copy(path, folder)
        for mode, folder_mode in ((0o444, 0o777), (0o444, 0o555), (0o666, 0o555)):
            os.chmod(copy, mode)
            os.chmod(folder, folder_mode)
            assert as_nobody(lambda: read(copy)) == expected
            assert os.listdir(folder) == [os.path.basename(copy)]
        os.chmod(folder, 0o700)


def test_reader_leaves_the_files_of_a_manager_alone(tmp_path):
    path = str(tmp_path / "batch.sqlite")
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(plain.square, 3).result(PATIENCE_S) == 9
        names = sorted(os.listdir(tmp_path))
        assert "batch.sqlite-wal" in names
        ran = run(f"from procbackground._journal.reader import Journal\nprint(Journal({path!r}).counts())", "-c")
        assert ran.stdout == "{'succeeded': 1}\n", ran.stderr
        assert read(path)[0] == {"succeeded": 1}
        assert sorted(os.listdir(tmp_path)) == names
        assert manager.run(plain.square, 4).result(PATIENCE_S) == 16
    assert read(path)[0] == {"succeeded": 2}
    assert os.listdir(tmp_path) == ["batch.sqlite"]


def test_reader_who_may_not_write_sees_that_a_manager_has_the_file(gate):
    def look():
        with Journal(path) as journal:
            return journal.is_in_use, journal.counts()

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "batch.sqlite")
        with Manager(max_workers=1, journal=path, grace=0.1) as manager:
            handle = manager.run(stop_at_gate, gate.address)
            gate.wait_for_arrival()
            wait_until(lambda: look() == (True, {"running": 1}), "a start in the journal")
            assert as_nobody(look) == (True, {"running": 1})
            gate.open()
            handle.result(PATIENCE_S)


def as_nobody(read):
    """Return what `read()` returns in a process of a user without rights, or of this user where that is not root."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if not pid:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            sender.send(read())
        finally:
            os._exit(1)
    sender.close()
    try:
        return receiver.recv() if receiver.poll(PATIENCE_S) else None
    finally:
        receiver.close()
        os.waitpid(pid, 0)
