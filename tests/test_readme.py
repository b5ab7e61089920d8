"""The README's programs run as pasted, and its commands are those that CI runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_programs():
    assert len(PROGRAMS) >= 2


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_runs_as_pasted(tmp_path, number):
    script = tmp_path / "pasted.py"
    script.write_text(PROGRAMS[number])
    finished = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout
    if number == 0:
        assert "was killed by SIGKILL" in finished.stdout
        assert "3 9 ['SIGKILL', <Outcome.SUCCEEDED: 'succeeded'>]" in finished.stdout


def test_ci_takes_the_test_command_from_the_readme():
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("examples/census.py --compare")
    assert commands[1].endswith("pytest")
    assert "grep -E '^python3 -m venv .*pytest$' README.md" in (ROOT / ".ci" / "run").read_text()
