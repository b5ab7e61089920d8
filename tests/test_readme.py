"""The README's programs run as pasted, and its commands are the ones that CI runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

PATIENCE_S = 60.0  # bounds a hang; the longest program takes a second or two
MAIN_JOB = "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/python examples/census.py --compare"
TESTS = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m pytest"


def programs() -> list[tuple[str, str]]:
    """Return (heading above it, source) of every Python block."""
    found, heading = [], ""
    pattern = r"^#+ (?P<heading>[^\n]+)$|^```python\n(?P<source>.*?)^```$"
    for match in re.finditer(pattern, README, re.MULTILINE | re.DOTALL):
        heading = match["heading"] or heading
        if match["source"] is not None:
            found.append((heading, match["source"]))
    return found


PROGRAMS = programs()

# What shows that a program did what the text around it says; each appears in its output.
SHOWN = {
    "procbackground": ["3 squared is unknown: worker ", "5 squared is 25", "with a retry, is 9:"],
    "Giving work": [f"pow {2**100}", "urgent 6", "42"],
    "Retries": ["text of index", "3 succeeded None"],
    "Limits": ["ran over its timeout of 0.5 s", "over its memory_limit of 200 MiB"],
    "Loops": ["1 polled", "True"],
    "Observers": ["failed: 17", "exit code 3"],
    "Progress": ["1000000"],
    "Inside a task": ["20 Progress(done=20"],
    "Logs and output": ["7 crunching 7"],
    "What a worker starts with": ["request 17 in / with 1 thread, batch"],
    "Many tasks": ["1000000", "[1024, 59049, 1048576]"],
    "Inputs that block": ["ONE\nTWO\n"],
    "Backpressure": ["True the queue is full: 2 tasks wait"],
    "Batches that survive": [" 1 attempts in this run"],
    "On the command line": [],  # it only registers a task
    "Closing": ["1024", "True CloseReport("],
    "asyncio": ["1024", "the sleeping process is stopped"],
    "As an Executor": ["[0.1, 0.2]", "[0, 1, 4, 9, 16]"],
    "joblib and scikit-learn": ["{'max_depth': 3}"],
    "dask": ["55"],
    "SciPy": ["[1. 1. 1.]"],
    "Starlette": ["worked for 0.1 s / took too long"],
}

# What is in the extra `compat` only; without it these programs are skipped.
NEEDED = {
    "joblib and scikit-learn": ["joblib", "sklearn"],
    "dask": ["dask"],
    "SciPy": ["scipy"],
    "Starlette": ["starlette", "httpx"],
}


def test_every_program_has_its_expectation():
    assert [heading for heading, _ in PROGRAMS] == list(SHOWN)


@pytest.mark.parametrize(("heading", "source"), PROGRAMS, ids=[heading for heading, _ in PROGRAMS])
def test_program_runs_as_pasted(heading, source, tmp_path):
    for library in NEEDED.get(heading, ()):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    script = tmp_path / "pasted.py"
    script.write_text(source, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        input="one\ntwo\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for text in SHOWN[heading]:
        assert text in run.stdout


def test_first_program_is_the_first_example():
    example = (ROOT / "examples" / "first.py").read_text(encoding="utf-8")
    assert PROGRAMS[0][1] == example[example.index("import os") :]


def test_setting_up_takes_these_two_commands():
    assert [line for line in README.splitlines() if line.startswith("python3 ")] == [MAIN_JOB, TESTS]


def test_ci_takes_its_test_command_from_here():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r"grep -xE '([^']*)' README\.md", script)
    assert pattern is not None
    assert [line for line in README.splitlines() if re.fullmatch(pattern[1], line)] == [TESTS]
    assert 'bash -euo pipefail -c "$test_command"' in script
