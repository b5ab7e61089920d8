"""coverage.py sees the lines that run in workers, with its usual settings for `multiprocessing`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.scripts import UNMEASURED

PROGRAM = """
import multiprocessing, sys
from procbackground import Manager
import library

def work(number):
    if number > 5:
        number += 2
    return library.double(number)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with Manager(2, mp_context=context) as manager:
        assert sum(manager.map(work, range(10), chunksize=1)) == 106
        assert manager.options(isolate=True).run(library.halve, 4).result(timeout=20) == 2
"""
LIBRARY = "def double(number):\n    return 2 * number\n\n\ndef halve(number):\n    return number // 2\n"
SETTINGS = {
    "concurrency": "concurrency = multiprocessing",
    "patch": "patch = subprocess",
    "patches": "patch = subprocess, fork, _exit",
}


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow), "fork"])
@pytest.mark.parametrize("setting", ["concurrency", "patch", pytest.param("patches", marks=pytest.mark.slow)])
def test_lines_that_run_in_workers_are_measured(tmp_path: Path, setting: str, method: str):
    coverage = pytest.importorskip("coverage")
    if setting != "concurrency" and coverage.version_info < (7, 10):
        pytest.skip("it has no patches")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "library.py").write_text(LIBRARY)
    (tmp_path / "settings").write_text(f"[run]\n{SETTINGS[setting]}\nparallel = true\nsource = .\n")

    def call(*command: str) -> None:
        finished = subprocess.run(
            [sys.executable, "-m", "coverage", *command, "--rcfile=settings"] if command[0] != "run" else
            [sys.executable, "-m", "coverage", "run", "--rcfile=settings", *command[1:]],
            cwd=tmp_path, env=UNMEASURED, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stdout + finished.stderr

    call("run", "program.py", method)
    call("combine", "-q")
    call("json", "-o", "report.json")
    files = json.loads((tmp_path / "report.json").read_text())["files"]
    assert {os.path.basename(name): each["missing_lines"] for name, each in files.items()} == {
        "library.py": [],
        "program.py": [],
    }
