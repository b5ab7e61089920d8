"""Every example runs as a user would run it: a program of its own, from the repository's root."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
import signal
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.example import PATIENCE_S, ROOT, Program, run

STDLIB = sysconfig.get_path("stdlib")

PROMPT_S = 10.0  # a stop by a signal: the workers end at SIGTERM, well before the manager's grace of 5 s is over


# -- census.py ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def census() -> Iterator[ModuleType]:
    """The example as a module, for its functions."""
    spec = importlib.util.spec_from_file_location("census_example", ROOT / "examples" / "census.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two files that parse."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "larger.py").write_text("class A:\n    def f(self, x):\n        return x or 1\n\n" * 5)
    (tmp_path / "smaller.py").write_text("def g():\n    return 2\n")
    return tmp_path


def serially(census: ModuleType, folders: list[str]) -> Any:
    """Return the census of `folders`, taken in this process one file after the other."""
    paths = census.python_files(folders)
    total = census.Census()
    census.count_in_this_process(paths, total, census.ProgressLine("", len(paths), io.StringIO()))
    assert total.seen == len(paths)
    return total


def json_of(program: Program) -> dict[str, Any]:
    shown = json.loads(program.stdout)
    assert isinstance(shown, dict)
    return shown


def test_census_is_of_the_standard_library_unless_told_otherwise(census: ModuleType) -> None:
    arguments, paths = census.parse_arguments([])
    assert arguments.folders == [STDLIB]
    assert len(paths) > 500


def test_census_equals_a_serial_one(census: ModuleType) -> None:
    folders = [f"{STDLIB}/{package}" for package in ("email", "importlib", "json", "xml")]
    shown = json_of(run("census.py", "--json", *folders))
    expected = serially(census, folders)
    assert shown["folders"] == folders
    assert shown["totals"] == {
        name: getattr(expected, name) for name in ("files", "lines", "functions", "classes", "branches")
    }
    assert shown["totals"]["files"] > 50
    assert [tuple(function.values()) for function in shown["most_complex"]] == [
        (each.path, each.line, each.name, each.lines, each.complexity) for each in expected.most_complex
    ]
    assert shown["longest"]["name"] == expected.longest.name
    assert shown["unparsed"] == expected.unparsed
    assert shown["failed"] == {}


def test_census_json_has_stable_keys(tree: Path) -> None:
    shown = json_of(run("census.py", "--json", "--jobs", "1", tree))
    assert list(shown) == [
        "folders", "totals", "most_complex", "longest", "unparsed", "failed",
        "retried", "jobs", "wall_seconds", "cpu_seconds", "speed_up",
    ]  # fmt: skip
    assert shown["totals"] == {"files": 2, "lines": 22, "functions": 6, "classes": 5, "branches": 5}
    assert shown["most_complex"][0] == {
        "path": str(tree / "package" / "larger.py"), "line": 18, "name": "A.f", "lines": 2, "complexity": 2,
    }  # fmt: skip
    assert shown["jobs"] == 1
    assert shown["speed_up"] == {
        "factor": shown["cpu_seconds"] / shown["wall_seconds"], "measured": False, "serial_seconds": None,
    }  # fmt: skip


def test_census_text_says_what_was_found(tree: Path) -> None:
    program = run("census.py", tree)
    assert program.lines["stdout"][0] == "2 files, 22 lines, 6 functions, 5 classes, 5 branches"
    assert "         2      2  A.f  (package/larger.py:18)" in program.lines["stdout"]
    assert "longest function: 2 lines, g  (smaller.py:1)" in program.stdout
    assert re.search(r"wall time \d+\.\d\d s with \d+ workers, CPU time \d+\.\d\d s", program.stdout)
    assert re.search(r"speed-up \d+\.\d\d, estimated", program.stdout)
    assert program.lines["stderr"] == ["counting: 1 of 2 files", "counting: 2 of 2 files"]


def test_census_claims_no_speed_up_that_noise_has_made(census: ModuleType) -> None:
    # One process took 30 s, for the machine was busy then; two workers needed 19 s of CPU time in 10 s.
    assert census.compared(30.0, 19.0, 10.0) == census.SpeedUp(1.9, measured=True, serial_seconds=30.0)
    assert census.compared(18.0, 19.0, 10.0).factor == 1.8


@pytest.mark.slow  # it counts four times, twice in one process
def test_census_compares_with_a_serial_run_that_it_measured() -> None:
    folder = Path(STDLIB) / "email"
    shown = json_of(run("census.py", "--json", "--compare", folder))
    speed_up = shown["speed_up"]
    assert speed_up["measured"] is True
    assert speed_up["factor"] == min(speed_up["serial_seconds"], shown["cpu_seconds"]) / shown["wall_seconds"]
    assert speed_up["factor"] <= shown["jobs"]
    assert re.search(r"speed-up \d+\.\d\d, measured: \d", run("census.py", "--compare", folder).stdout)


UNPARSABLE = {
    "broken.py": b"def broken(:\n",
    "no_text.py": b"x = 1\0",
    "other_encoding.py": b"name = '\xf6'\n",
    "too_deep.py": b"-" * 100_000 + b"1\n",
}


def test_census_reports_what_does_not_parse_and_goes_on(tree: Path) -> None:
    for name, source in UNPARSABLE.items():
        (tree / name).write_bytes(source)
    shown = json_of(run("census.py", "--json", tree))
    assert shown["totals"]["files"] == 2
    assert list(shown["unparsed"]) == [str(tree / name) for name in UNPARSABLE]
    assert shown["unparsed"][str(tree / "broken.py")].startswith("SyntaxError: ")
    assert shown["failed"] == {}
    assert shown["retried"] == 0  # such a file would not parse the next time either
    text = run("census.py", tree).stdout
    assert f"could not be parsed ({len(UNPARSABLE)}):\n  broken.py: SyntaxError: " in text


def test_census_gives_up_a_file_that_hangs_and_counts_the_others(tree: Path) -> None:
    os.mkfifo(tree / "hangs.py")  # nobody ever writes to it, so opening it never ends
    shown = json_of(run("census.py", "--json", "--timeout", "0.3", tree, code=1))
    assert shown["totals"]["files"] == 2
    assert list(shown["failed"]) == [str(tree / "hangs.py")]
    assert shown["failed"][str(tree / "hangs.py")].startswith("TaskTimeoutError: ")
    assert shown["retried"] == 2


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_census_stopped_by_a_signal_ends_promptly_and_leaves_nothing(
    stop: signal.Signals, code: int, tree: Path
) -> None:
    for number in range(4):
        os.mkfifo(tree / f"hangs{number}.py")  # so it is at work when it is stopped
    with Program("census.py", "--json", tree) as program:
        program.wait_for_lines(r"^counting: ")
        family = program.family()
        assert family
        # To the whole group, as a terminal sends Ctrl-C: the workers must leave it to the parent.
        os.killpg(program.process.pid, stop)
        assert program.wait(PROMPT_S) == code
        assert re.fullmatch(r"census: stopped after [\d,]+ files", program.lines["stderr"][-1])
        assert "Traceback" not in program.stderr
        assert program.stdout == ""
        program.assert_nothing_left()


def test_census_rewrites_one_line_on_a_terminal(tree: Path) -> None:
    ours, its = os.openpty()
    try:
        with Program("census.py", tree, stderr=its) as program:
            assert program.wait() == 0
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(its)
    assert shown.startswith("\rcounting: 1 of 2 files\x1b[K")
    assert shown.endswith("\r\x1b[K")  # the line is gone once the result is there
    assert "\n" not in shown


@pytest.mark.parametrize("arguments", [["no/such/folder"], ["--jobs", "0"], ["--timeout", "-1"], ["--timeout", "nan"]])
def test_census_refuses_wrong_arguments(arguments: Sequence[str]) -> None:
    program = run("census.py", *arguments, code=2)
    assert "census.py: error: " in program.stderr


def test_census_takes_the_largest_files_first_and_each_once(
    census: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for skipped in ("site-packages", "__pycache__", ".hidden"):
        (tree / skipped).mkdir()
        (tree / skipped / "skipped.py").write_text("x = 1\n")
    (tree / "notes.txt").write_text("no Python")
    (tree / "dangling.py").symlink_to(tree / "nowhere.py")
    monkeypatch.chdir(tree)
    paths = census.python_files([".", str(tree), "smaller.py"])
    assert paths == [str(tree / "package" / "larger.py"), str(tree / "smaller.py")]


def counted(census: ModuleType, tmp_path: Path, source: str) -> Any:
    path = tmp_path / "source.py"
    path.write_text(source)
    return census.count_file(str(path))


def test_complexity_is_one_and_one_more_for_each_branch(census: ModuleType, tmp_path: Path) -> None:
    source = """
def f(a, b):                                # 1
    if a and b and f:                       # 2, 3, 4
        return [x for x in a if x if b]     # 5, 6, 7
    for x in a:                             # 8
        while b:                            # 9
            try:
                pass
            except OSError:                 # 10
                pass
    match a:
        case 1:                             # 11
            pass
        case _:                             # 12
            pass
    return lambda: 1 if a else 2            # 13
"""
    file = counted(census, tmp_path, source)
    [function] = file.most_complex
    assert (function.name, function.line, function.complexity, file.branches) == ("f", 2, 13, 12)


def test_nested_functions_count_for_themselves(census: ModuleType, tmp_path: Path) -> None:
    source = """
class A:
    async def outer(self):
        def inner(x):
            return 1 if x else 2
        return inner
if A:
    pass
"""
    file = counted(census, tmp_path, source)
    assert {each.name: each.complexity for each in file.most_complex} == {"A.outer": 1, "A.outer.inner": 2}
    assert (file.functions, file.classes, file.branches, file.lines) == (2, 1, 2, 8)
    assert file.longest.name == "A.outer"


def test_a_long_chain_of_elif_is_not_too_deep(census: ModuleType, tmp_path: Path) -> None:
    source = "def f(a):\n    if a: pass\n" + "    elif a: pass\n" * 600
    [function] = counted(census, tmp_path, source).most_complex
    assert function.complexity == 602


@pytest.mark.parametrize(("source", "lines"), [("", 0), ("x = 1", 1), ("x = 1\n", 1), ("x = 1\n\ny = 2", 3)])
def test_lines_are_counted_with_and_without_a_last_newline(
    census: ModuleType, tmp_path: Path, source: str, lines: int
) -> None:
    assert counted(census, tmp_path, source).lines == lines


# -- service.py -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_service_loops_until_a_signal_closes_it(tmp_path: Path, stop: signal.Signals) -> None:
    (tmp_path / "data").write_bytes(b"data" * 1_000_000)
    expected = hashlib.sha256(b"data" * 1_000_000).hexdigest()
    with Program("service.py", "--interval", "0.05", tmp_path / "data") as program:
        program.wait_for_lines(rf"{expected}  {tmp_path}/data")
        program.wait_for_lines(r"load \d+\.\d\d, disk \d+% full", count=3)
        program.process.send_signal(stop)
        assert program.wait(PROMPT_S) == 0
        assert "service started" in program.stderr
        _, ended, after = program.stderr.partition("service is closing")
        assert ended
        assert after.count("% full") <= 1  # the iteration that ran at the time, and none after it
        assert "manager closed" in program.stderr
        assert program.lines["stderr"][-1].endswith("service ended")
        assert "Traceback" not in program.stderr
        program.assert_nothing_left()


def test_service_lets_running_work_finish_before_it_ends(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Program("service.py", "--interval", "0.05", "--close-timeout", str(PATIENCE_S), pipe) as program:
        with pipe.open("wb") as writer:  # returns once the checksum has opened the other end, so it runs
            program.process.terminate()
            program.wait_for_lines("service is closing")
            writer.write(b"late")
        assert program.wait() == 0
        assert hashlib.sha256(b"late").hexdigest() in program.stderr
        assert "1 succeeded, 0 failed" in program.stderr


def test_service_stops_work_that_outlasts_the_close_timeout(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Program("service.py", "--verbose", "--close-timeout", "0.2", pipe) as program, pipe.open("wb"):
        program.process.terminate()
        assert program.wait(PROMPT_S) == 0
        assert f"task checksum of {pipe} cancelled" in program.stderr
        assert "1 stopped" in program.stderr
        program.assert_nothing_left()


def test_service_reports_a_checksum_that_failed(tmp_path: Path) -> None:
    with Program("service.py", tmp_path / "missing") as program:
        program.wait_for_lines(r"task checksum of .*/missing failed after 1 attempt")
        program.process.terminate()
        assert program.wait(PROMPT_S) == 1
        assert "FileNotFoundError" in program.stderr


# -- the short ones -------------------------------------------------------------------------------------


def test_first_survives_a_killed_worker() -> None:
    lines = run("first.py").lines["stdout"]
    lost = lines.pop(3)
    assert lost.startswith("3 squared is unknown: ")
    assert "SIGKILL" in lost
    assert [re.sub("process [0-9]+", "process N", line) for line in lines] == [
        *(f"{number} squared is {number * number}" for number in (0, 1, 2, 4, 5)),
        "3 squared, with a retry, is 9:",
        "  attempt 1 in process N: SIGKILL",
        "  attempt 2 in process N: succeeded",
    ]


def test_retry_policies_decide_what_is_tried_again() -> None:
    lines = run("retry_policies.py").lines["stdout"]

    def of(page: str) -> list[str]:
        return [line for line in lines if line.startswith(page)]

    assert of("early") == [
        "early 1: ConnectionError('refused'), again in 0.1 s",
        "early 2: ConnectionError('refused'), again in 0.2 s",
        "early 3: 'text of early'",
    ]
    assert of("wrong") == ["wrong 1: ValueError('no such page'), not tried again"]
    assert of("unready") == ["unready 1: None, again in 0.1 s", "unready 2: 'text of unready'"]
    assert len(lines) == 6
