"""The command itself: its start, its help, and what is said without the extra."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.scripts import ENVIRONMENT, UNMEASURED

HEAVY = ("procbackground.manager", "psutil", "tenacity", "loguru", "rich", "multiprocessing", "asyncio", "tomllib")


@pytest.mark.parametrize("arguments", [["--help"], ["map", "--help"], ["top", "--help"]])
def test_help_imports_nothing_heavy(command, arguments):
    code = (
        "import sys; from procbackground._cli.app import run; code = run(sys.argv[1:]);"
        f"print(code, *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=UNMEASURED, cwd=command.folder, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert ran.stderr.split() == ["0"]
    assert "Usage: procbackground" in ran.stdout


def test_without_the_extra_one_line_says_what_to_install():
    code = "import sys; sys.modules['click'] = None; from procbackground._cli.start import main; sys.exit(main())"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert "pip install 'procbackground[cli]'" in ran.stderr


def test_unknown_commands_and_options_have_near_names(command):
    ran = command("mpa")
    assert ran.code == 2
    assert "did you mean map?" in ran.err
    ran = command("map", "tasks:double", "--jbos", "3")
    assert ran.code == 2
    assert "--jobs" in ran.err


def test_completion_is_offered(command):
    ran = command("", _PROCBACKGROUND_COMPLETE="bash_complete", COMP_WORDS="procbackground ma", COMP_CWORD="1")
    assert "map" in ran.out


def test_version(command):
    assert command("--version").out.startswith("procbackground ")


def test_doctor_says_what_the_system_offers(command):
    ran = command("doctor", "--json")
    found = json.loads(ran.out)
    assert ran.code == (0 if found["ok"] else 1)
    names = {each["name"] for each in found["checks"]}
    assert {"python", "start method", "a worker", "CPUs", "memory", "open files", "/proc"} <= names
    assert not [each for each in found["checks"] if "cannot be looked at" in each["found"]]
    assert "start method" in command("doctor").out


def test_a_folder_that_was_deleted_is_one_line(command):
    line = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m procbackground map math:sqrt 4"
    ran = subprocess.run(
        ["sh", "-c", line], cwd=command.folder, env=command.environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (2, "procbackground: the current folder has been deleted\n")
