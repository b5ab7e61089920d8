"""`procbackground map`: results, limits, exit codes, early ends."""

from __future__ import annotations

import json
import os
import pickle
import pty
import re
import subprocess
import sys
import urllib.request

import pytest

from tests.cli.conftest import PATIENCE_S


def test_results_are_lines_of_json_and_all_else_goes_to_stderr(command):
    ran = command("map", "tasks:chatty", "a", "b", "--keep-order")
    assert ran.code == 0
    first, second = ran.records
    assert first.pop("seconds") >= 0
    assert first == {"index": 0, "input": ["a"], "outcome": "succeeded", "value": "a", "attempts": 1}
    assert second["value"] == "b"
    assert "says a" in ran.err
    assert "sub a" in ran.err
    assert "2 succeeded" in ran.err


def test_a_failure_says_what_happened_and_counts_in_the_exit_code(command):
    ran = command("map", "tasks:picky", "bad", "good", "bad")
    assert ran.code == 2
    failed = [record for record in ran.records if record["outcome"] == "failed"]
    assert sorted(record["index"] for record in failed) == [0, 2]  # in the order in which they ended
    error = failed[0]["error"]
    assert (error["type"], error["message"]) == ("ValueError", "this one is bad")
    assert "tasks.py" in error["traceback"]
    assert "failed: ValueError: this one is bad (2 times)" in ran.err


def test_exit_code_stops_at_101(command):
    ran = command("map", "tasks:picky", "-q", text="bad\n" * 110)
    assert ran.code == 101
    assert len(ran.records) == 110


@pytest.mark.parametrize(
    ("arguments", "outcome", "attempts"),
    [
        (["tasks:sleeps", "x", "--timeout", "300ms"], "timed out", 1),
        (["tasks:sleeps", "x", "--deadline", "300ms"], "timed out", 1),
        (["tasks:hoards", "x", "--memory", "100MiB"], "over memory", 1),
        (["tasks:double", "1", "--min-free-memory", "1000TiB"], "over memory", 0),
        (["tasks:dies", "x", "--retries", "2"], "died", 3),
    ],
)
def test_other_outcomes_have_their_word(command, arguments, outcome, attempts):
    ran = command("map", *arguments)
    assert ran.code == 1
    [record] = ran.records
    assert (record["outcome"], record["attempts"]) == (outcome, attempts)
    assert "procbackground/_" not in json.dumps(record)


def test_retries_come_after_the_first_attempt(command):
    ran = command("map", "tasks:third_time", str(command.folder), "--retries", "2", "--retry-delay", "10ms")
    assert ran.code == 0
    assert [(each["value"], each["attempts"]) for each in ran.records] == [(3, 3)]
    assert "2 further attempts" in ran.err


def test_results_keep_the_order_of_the_input(command):
    ran = command("map", "tasks:sleeps", "-j", "3", "-k", "-q", ":::", "a", "b", "c", ":::+", "0.4", "0.2", "0")
    assert [record["index"] for record in ran.records] == [0, 1, 2]


def test_shuffled_inputs_keep_their_index_and_their_order(command):
    ran = command("map", "tasks:double", "-q", "-k", "--shuffle", "--types", text="\n".join(map(str, range(100))))
    assert [(each["index"], each["value"]) for each in ran.records] == [(n, 2 * n) for n in range(100)]


def test_raw_values_are_lines_with_their_input_if_asked(command):
    ran = command("map", "tasks:pair", "-q", "-k", "--raw", ":::", "1", "2")
    assert ran.out == '["1", "-"]\n["2", "-"]\n'
    ran = command("map", "tasks:picky", "-q", "-k", "--raw", "--tag", "x", "bad")
    assert ran.out == "x\tx\n"


def test_lines_that_tasks_print_bear_their_task(command):
    ran = command("map", "tasks:chatty", "-q", "--tag", "a", "b")
    lines = ran.err.splitlines()
    for name in ("a", "b"):
        assert {f"{name}\tsays {name}", f"{name}\tsub {name}", f"{name}\twarns {name}"} <= set(lines)


def test_a_tagged_line_takes_the_place_of_the_bar_on_a_terminal(command):
    terminal, its_end = pty.openpty()
    command.environment["TERM"] = "xterm"
    with command.running("map", "tasks:chatty", "a", "--tag", stdout=subprocess.DEVNULL, stderr=its_end) as process:
        os.close(its_end)
        shown = b""
        try:
            while data := os.read(terminal, 4096):
                shown += data
        except OSError:
            pass  # all that had the terminal have ended
        os.close(terminal)
        assert process.wait(PATIENCE_S) == 0
    assert b"\r\x1b[Ka\tsays a\r\n" in shown


def test_results_have_a_folder_each(command):
    ran = command("map", "tasks:chatty", "-q", "a", "--results", "res")
    folder = command.folder / "res" / "0"
    assert ran.err == ""
    assert sorted((folder / "stdout").read_text().split()) == ["a", "a", "says", "sub"]
    assert (folder / "stderr").read_text() == "warns a\n"
    assert json.loads((folder / "value").read_text()) == "a"
    assert json.loads((folder / "result.json").read_text()) == ran.records[0]
    ran = command("map", "tasks:odd", "-q", "a", "--results", "res")
    assert ran.records[0]["repr"] == "{'a'}"
    assert pickle.loads((folder / "value").read_bytes()) == {"a"}
    ran = command("map", "tasks:huge", "-q", "a", "--results", "res")
    assert ran.records[0]["repr"] == "<int whose repr fails>"  # Python refuses to write so many digits
    assert pickle.loads((folder / "value").read_bytes()) == 10**5000
    assert ran.records[0]["pickle"] == str(folder / "value")


def test_output_goes_to_a_file_written_anew(command):
    command.write("out", "old\n" * 100)
    ran = command("map", "tasks:double", "a", "-q", "-o", "out")
    assert ran.out == ""
    assert json.loads((command.folder / "out").read_text())["value"] == "aa"


def test_a_dry_run_prints_the_calls_and_touches_no_file(command):
    command.write("out", "old\n")
    files = ("-o", "out", "--joblog", "log", "--results", "res", "--journal", "j.sqlite", "--events", "events")
    ran = command("map", "tasks:double", "a", "b", "--dry-run", *files)
    assert (ran.code, ran.out) == (0, "tasks.double('a')\ntasks.double('b')\n")
    assert (command.folder / "out").read_text() == "old\n"
    assert {path.name for path in command.folder.iterdir()} - {"__pycache__"} == {"out", "run", "tasks.py"}


@pytest.mark.parametrize(
    "files",
    [
        ("--from", "list", "-o", "./list"),
        ("--from", "list", "--joblog", "list"),
        ("a", "--journal", "list", "-o", "list"),
    ],
)
def test_a_file_that_is_read_is_not_emptied_for_output(command, files):
    command.write("list", "a\nb\n")
    ran = command("map", "tasks:double", *files)
    assert (ran.code, ran.out) == (2, "")
    assert "name the same file" in ran.err
    assert (command.folder / "list").read_text() == "a\nb\n"


def test_joblog_has_the_columns_of_gnu_parallel(command):
    command("map", "tasks:picky", "-q", "-j", "1", "good", "bad", "--joblog", "log")
    head, *rows = [line.split("\t") for line in (command.folder / "log").read_text().splitlines()]
    assert head == ["Seq", "Host", "Starttime", "JobRuntime", "Send", "Receive", "Exitval", "Signal", "Command"]
    assert [(row[0], row[6], row[7], row[8]) for row in rows] == [
        ("1", "0", "0", "tasks.picky('good')"), ("2", "1", "0", "tasks.picky('bad')"),
    ]  # fmt: skip


def test_workers_are_as_nice_as_asked(command):
    assert command("map", "tasks:niceness", "x", "--nice", "3").values == [os.nice(0) + 3]


def test_starts_are_apart_by_the_delay(command):
    began = command("map", "tasks:begins", "a", "b", "c", "-j", "3", "--keep-order", "--delay", "400ms").values
    # The second may follow a slow start of the first; from there on, all is warm.
    assert began[2] - began[0] >= 0.5


def test_no_task_begins_while_the_load_is_above_the_limit(command):
    assert command("map", "tasks:double", "1", "--load", "100000%").values == ["11"]
    with command.running("map", "tasks:double", "1", "2", "--load", "0.000001") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)  # the load of a machine that runs this is above that
        process.terminate()
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (143, "")
    assert "finishing 0, 2 not started" in err


def test_log_lines_are_shown_from_the_level_on(command):
    assert "information of" not in command("map", "tasks:logs", "x").err
    told = command("map", "tasks:logs", "x", "--log-level", "info").err
    assert "WARNING tasks: warning of x" in told
    assert "INFO tasks: information of x" in told


def test_metrics_are_offered_at_the_port(command):
    pytest.importorskip("prometheus_client")
    with command.running("map", "tasks:sleeps", "60", "--prometheus", "0") as process:
        address = next(line.split()[-1] for line in process.stderr if "metrics at" in line)
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
            assert b"procbackground_tasks" in answer.read()
        with command.running("map", "tasks:double", "1", "--prometheus", address.split(":")[2].split("/")[0]) as other:
            assert "metrics cannot be offered at port" in other.communicate(timeout=PATIENCE_S)[1]
            assert other.returncode == 2


def test_a_run_halts_soon_or_now(command):
    ran = command("map", "tasks:picky", "-j", "1", "-q", "--halt", "soon,fail=1", "-k", "a", "bad", *"cdefgh")
    assert ran.code == 1
    assert len(ran.records) <= 4
    assert "1 failed: finishing" in ran.err
    times = (":::+", "0.1", "60", "60", "60")
    ran = command("map", "tasks:sleeps", "-j", "2", "--halt", "now,success=1", ":::", *"abcd", *times)
    assert ran.code == 0
    said = re.search(r"1 succeeded: stopping (\d+), (\d+) not started", ran.err)
    assert said
    assert sum(map(int, said.groups())) == 3
    assert {record["outcome"] for record in ran.records} == {"cancelled", "succeeded"}


def test_a_reader_that_leaves_ends_the_run(command):
    with command.running("map", "tasks:double", "--quiet", stdin=subprocess.PIPE) as process:
        process.stdin.write("a\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["value"] == "aa"
        process.stdout.close()
        process.stdin.write("b\n" * 10)
        process.stdin.flush()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""


def test_settings_come_from_flags_then_environment_then_the_project(command):
    command.write("pyproject.toml", "[tool.procbackground]\nquiet = true\n[tool.procbackground.map]\nraw = true\n")
    assert command("map", "tasks:double", "a").out == "aa\n"
    ran = command("map", "tasks:sleeps", "a", PROCBACKGROUND_TIMEOUT="100ms", PROCBACKGROUND_RAW="0")
    assert ran.records[0]["outcome"] == "timed out"
    ran = command("map", "tasks:sleeps", ":::", "a", ":::", "0.5", "--dry-run", PROCBACKGROUND_TIMEOUT="100ms")
    assert ran.code in (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.procbackground]\noutput = 3.5\nresults = true\n", "results = True, where a text or a number is needed"),
        ("[tool.procbackground]\nraw = 'yes'\n", "raw = 'yes', where true or false is needed"),
        ("[tool.procbackground]\nglob = '*.py'\n", "glob = '*.py', where a list is needed"),
        (
            "[tool.procbackground]\ntimeout = 'soon'\n",
            "'soon' is no duration; write seconds, or such as 500ms, 5m, 1h30m",
        ),
        ("[tool.procbackground]\nretries = 1.5\n", "this value is from pyproject.toml"),
        ("[tool.procbackground]\nslots = {gpu = 'x'}\n", "'gpu=x' names no slots"),
        ("[tool.procbackground.mpa]\njobs = 3\n", "has 'mpa', which is no option of any command"),
        ("[tool.procbackground]\nmap = 3\n", "tool.procbackground.map must be a table"),
        ("[tool.procbackground]\njbos = 3\n", "has 'jbos', which is no option of any command; did you mean jobs?"),
        ("[tool.procbackground.map]\ninterval = 3\n", "has 'interval', which is no option of it"),
        ("[tool.procbackground\n", "cannot be read"),
        ("[tool]\nprocbackground = 3\n", "procbackground = 3, where [tool.procbackground] is needed"),
        ("tool = 'procbackground'\n", "tool = 'procbackground', where [tool.procbackground] is needed"),
    ],
)
def test_settings_that_are_wrong_are_named(command, text, message):
    command.write("pyproject.toml", text)
    ran = command("map", "tasks:double", "a")
    assert ran.code == 2
    assert message in ran.err


def test_a_bad_value_of_the_environment_is_named_with_its_variable(command):
    ran = command("map", "tasks:double", "a", PROCBACKGROUND_JOBS="zero")
    assert (ran.code, ran.out) == (2, "")
    assert "'zero' is no number of workers" in ran.err
    assert "this value is from PROCBACKGROUND_JOBS in the environment" in ran.err
    assert "this value is from" not in command("map", "tasks:double", "a", "--jobs", "zero").err


def test_events_go_to_a_file(command):
    pytest.importorskip("procbackground.observers.jsonlines")
    command("map", "tasks:double", "a", "-q", "--events", "events")
    assert "succeeded" in (command.folder / "events").read_text()


def test_a_bar_is_shown_on_request(command):
    pytest.importorskip("procbackground.observers.bars")
    ran = command("map", "tasks:double", "a", "b", "-q", "--progress")
    assert len(ran.records) == 2
    assert "2/2" in ran.err


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")


@FULL
@pytest.mark.parametrize("arguments", [["-o", "/dev/full"], ["--keep-order", "-o", "/dev/full", "--tag"]])
def test_a_full_disk_ends_the_run_with_one_line(command, arguments):
    ran = command("map", "tasks:double", "-q", *arguments, *"abc")
    assert ran.code == 255
    assert ran.err.count("\n") == 1
    assert "results cannot be written: " in ran.err
    assert "No space left" in ran.err


@FULL
def test_a_full_disk_for_the_joblog_is_found_before_anything_runs(command):
    ran = command("map", "tasks:double", "-q", "--joblog", "/dev/full", "a")
    assert (ran.code, ran.out) == (2, "")
    assert "cannot write /dev/full: No space left" in ran.err


def test_without_standard_output_and_error_there_is_no_traceback(command):
    for redirections, code in ((">&-", 2), ("2>&-", 0), ("2>&- >&- -o out", 0)):
        line = f"{sys.executable} -m procbackground map tasks:double a {redirections}"
        ran = subprocess.run(
            ["sh", "-c", line], cwd=command.folder, env=command.environment, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert ran.returncode == code, redirections
        assert "Traceback" not in ran.stderr


def test_each_task_has_a_slot_and_cores_to_itself(command):
    needs = ("-j", "4", "--cores", "2", "--slots", "gpu=2,licence=1")
    ran = command("map", "tasks:given", *needs, *"abc", CUDA_VISIBLE_DEVICES="7,8")
    assert ran.code == 0, ran.err
    assert ran.values == [[{"gpu": [0], "licence": [0]}, "7", "2"]] * 3


def test_slots_come_from_the_environment_and_settings_too(command):
    ran = command("map", "tasks:given", "a", "-q", PROCBACKGROUND_SLOTS="disk=1")
    assert ran.values[0][0] == {"disk": [0]}
    for slots in ('"tape=3"', "{tape = 3}"):
        command.write("pyproject.toml", f"[tool.procbackground]\nslots = {slots}\n")
        ran = command("map", "tasks:given", "a", "-q")
        assert ran.values[0][0] == {"tape": [0]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-j", "2", "--cores", "3"], "cores=3 can never be met: the manager has 2 places"),
        (["--slots", "gpu"], "such as gpu=4"),
        (["--cores", "0"], "--cores"),
    ],
)
def test_needs_that_can_never_be_met_are_wrong_use(command, arguments, message):
    ran = command("map", "tasks:given", *arguments, "a", "b")
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
