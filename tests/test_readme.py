"""The programs in the README and the guide run as pasted, links lead somewhere, and the commands are those of CI."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import procbackground
from procbackground import Manager, Task, TaskHandle, TaskType

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    "README.md", "procbackground/GUIDE.md", "procbackground/ARCHITECTURE.md", "tests/faults/README.md",
    "benchmarks/README.md", "examples/README.md", ".github/CONTRIBUTING.md",
]  # fmt: skip

PATIENCE_S = 60.0  # bounds a hang; the longest program takes a second or two
MAIN_JOB = "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/python examples/census.py --compare"
TESTS = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m pytest"


def programs() -> list[tuple[str, str]]:
    """Return (page and heading above it, source) of every Python block."""
    found, heading = [], ""
    pattern = r"^#+ (?P<heading>[^\n]+)$|^```python\n(?P<source>.*?)^```$"
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
            heading = match["heading"] or heading
            if match["source"] is not None:
                found.append((f"{Path(page).stem}: {heading}", match["source"]))
    return found


PROGRAMS = programs()

# What shows that a program did what the text around it says; each appears in its output.
SHOWN = {
    "README: procbackground": ["[0, 1, 4, 9, 16, 25]"],
    "README: When a worker is killed": ["3 squared is unknown: worker ", "5 squared is 25", "with a retry, is 9:"],
    "README: Run a function": [f"{2**100} [1, 2, 3]"],
    "README: Limits and retries": ["after 3 attempts: ", "ran over its timeout of 0.2 s"],
    "README: See what happens": ["120\n", "crunch"],
    "README: Loops": ["1 loop"],
    "README: Ten million tasks": [f"{sum(number**2 for number in range(10_000))}\n[1024, 59049]"],
    "README: asyncio": ["[1, 2, 4, 8, 16]"],
    "README: Large data, and what a task needs": [f"{4096 * sum(range(0, 256, 2))} on GPU 0 [1048576, 1048576,"],
    "GUIDE: Giving work": [f"pow {2**100}", "urgent 6", "42"],
    "GUIDE: Retries": ["text of index", "3 succeeded None"],
    "GUIDE: Limits": ["ran over its timeout of 0.5 s", "over its memory_limit of 200 MiB"],
    "GUIDE: What a task needs": ["three: one GPU, 2 threads; its number is one of two: True", "the manager has 2"],
    "GUIDE: Loops": ["1 polled", "True"],
    "GUIDE: Observers": ["failed: 17", "exit code 3"],
    "GUIDE: Progress": ["1000000"],
    "GUIDE: Inside a task": ["20 Progress(done=20"],
    "GUIDE: Logs and output": ["7 crunching 7"],
    "GUIDE: What a worker starts with": ["request 17 in / with 1 thread, batch"],
    "GUIDE: Many tasks": ["1000000", "[1024, 59049, 1048576]"],
    "GUIDE: Large data": ["[2999997.0, 2999998.0, 2999999.0", "False (1000000, 6)"],
    "GUIDE: Inputs that block": ["ONE\nTWO\n"],
    "GUIDE: Backpressure": ["True the queue is full: 2 tasks wait"],
    "GUIDE: Batches that survive": [" 1 attempts in this run"],
    "GUIDE: On the command line": [],  # it only registers a task
    "GUIDE: Closing": ["1024", "True CloseReport("],
    "GUIDE: asyncio": ["1024", "the sleeping process is stopped"],
    "GUIDE: As an Executor": ["[0.1, 1.0]", "[0, 1, 4, 9, 16]"],
    "GUIDE: joblib and scikit-learn": ["{'max_depth': 3}"],
    "GUIDE: dask": ["55"],
    "GUIDE: SciPy": ["[1. 1. 1.]"],
    "GUIDE: Starlette": ["worked for 0.1 s / took too long"],
    "GUIDE: A cluster": [f"{sum(number**2 for number in range(1000))}"],
}

# What is in the extras `compat` and `dask` only; without it these programs are skipped.
NEEDED = {
    "GUIDE: Large data": ["numpy"],
    "GUIDE: joblib and scikit-learn": ["joblib", "sklearn"],
    "GUIDE: dask": ["dask"],
    "GUIDE: SciPy": ["scipy"],
    "GUIDE: Starlette": ["starlette", "httpx"],
    "GUIDE: A cluster": ["distributed"],
}


def anchors(page: Path) -> set[str]:
    """Return what a link to a heading of the page may end in, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_names_that_stand_for_those_of_other_tools_exist():
    guide = (ROOT / "procbackground" / "GUIDE.md").read_text(encoding="utf-8")
    rows = guide.partition("| from | there | here |\n")[2].partition("\n\n")[0].splitlines()[1:]
    spans = re.findall(r"`([^`]+)`", " ".join(row.split("|")[3] for row in rows))
    names = {
        name for span in spans if not span.startswith("procbackground ")
        for name in re.findall(r"\w+(?=\(|=)|(?<=\.)\w+$|^\w+$", span)
    }  # fmt: skip
    assert {"run", "timeout", "buffersize", "cancel", "max_tasks_per_child", "LOOP"} <= names
    known = {"list", *procbackground.__all__, *inspect.signature(Manager).parameters}
    for cls in (Manager, TaskHandle, Task, TaskType):
        known |= {*dir(cls)}
    assert names <= known | {*inspect.signature(Manager.map).parameters}


def test_the_readme_stays_short():
    assert len(README.splitlines()) <= 300


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


def test_the_program_with_a_kill_is_the_first_example():
    example = (ROOT / "examples" / "first.py").read_text(encoding="utf-8")
    assert PROGRAMS[1][1] == example[example.index("import os") :]


def test_setting_up_takes_these_two_commands():
    assert [line for line in README.splitlines() if line.startswith("python3 ")] == [MAIN_JOB, TESTS]


def test_ci_takes_its_test_command_from_here():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r"grep -xE '([^']*)' README\.md", script)
    assert pattern is not None
    assert [line for line in README.splitlines() if re.fullmatch(pattern[1], line)] == [TESTS]
    assert 'bash -euo pipefail -c "$test_command"' in script
