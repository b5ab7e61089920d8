"""What a type checker says of right and wrong calls. The cases are in `typing/calls.py`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # it waits for two type checkers

ROOT = Path(__file__).parents[1]
CASES = ROOT / "tests" / "typing" / "calls.py"


def expected(mark: str) -> dict[int, str]:
    """Return line number → what follows the mark, of the lines that bear `# mark`."""
    found = {}
    for number, line in enumerate(CASES.read_text().splitlines(), 1):
        if match := re.search(rf"# {mark}(?:: (.*))?$", line):
            found[number] = match.group(1) or ""
    return found


def without_modules(text: str) -> str:
    """`procbackground.task.Task[builtins.str]` → `Task[str]`."""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


def by_mypy() -> tuple[set[int], dict[int, str]]:
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", str(CASES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.stderr == ""
    errors, types = set(), {}
    for line in run.stdout.splitlines():
        match = re.match(r".*calls\.py:(\d+): (error|note): (.*)", line)
        if match is None:
            continue
        number, kind, text = int(match.group(1)), match.group(2), match.group(3)
        if kind == "error":
            errors.add(number)
        elif revealed := re.match(r'Revealed type is "(.*)"', text):
            types[number] = without_modules(revealed.group(1))
    return errors, types


def by_pyright() -> tuple[set[int], dict[int, str]]:
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(CASES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    errors, types = set(), {}
    for found in json.loads(run.stdout)["generalDiagnostics"]:
        number = found["range"]["start"]["line"] + 1
        if found["severity"] == "error":
            errors.add(number)
        elif revealed := re.match(r'Type of ".*" is "(.*)"', found["message"], re.DOTALL):
            types[number] = without_modules(revealed.group(1))
    return errors, types


@pytest.fixture(
    scope="module",
    params=[pytest.param((name, check), id=name) for name, check in (("mypy", by_mypy), ("pyright", by_pyright))],
)
def verdict(request):
    name, check = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return check()


def test_wrong_calls_are_flagged_and_right_ones_are_not(verdict):
    errors, _ = verdict
    assert errors == set(expected("error"))


def test_results_have_the_types_of_their_functions(verdict):
    _, types = verdict
    assert types == expected("is")


def test_every_public_name_has_a_known_type():
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "procbackground", "--ignoreexternal"],
        cwd=ROOT,
        env={**os.environ, "PATH": os.pathsep.join(folders), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert "Type completeness score: 100%" in run.stdout, run.stdout
