"""A folder with functions to run, and the command in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.scripts import ENVIRONMENT, family

if not all(map(find_spec, ("click", "rich"))):
    collect_ignore_glob = ["test_*.py"]  # these test what the extra `cli` installs

PATIENCE_S = 60.0

FUNCTIONS = """
import os, signal, sys, time

def double(x): return 2 * x
async def waits(x): ...
def pair(a, b="-"): return [a, b]
def picky(x):
    if x == "bad": raise ValueError("this one is bad")
    return x
def chatty(x):
    print("says", x)
    os.system(f"echo sub {x}")
    print("warns", x, file=sys.stderr)
    return x
def odd(x): return {x}
def huge(x): return 10 ** 5000
def given(x):
    from procbackground import current
    return [current().slots, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")]
def dies(x): os._exit(3)
def hoards(x):
    held = b"x" * (200 << 20)
    time.sleep(60)
def niceness(x): return os.nice(0)
def begins(x): return time.monotonic()
def logs(x):
    import logging
    logging.getLogger("tasks").warning("warning of %s", x)
    logging.getLogger("tasks").info("information of %s", x)
def sleeps(x, seconds="60"):
    print("begun", flush=True)
    time.sleep(float(seconds))
    return x
def stubborn(x):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("begun", flush=True)
    time.sleep(60)
def third_time(folder):
    path = os.path.join(folder, "attempts")
    with open(path, "a") as file: file.write("x")
    if os.path.getsize(path) < 3: raise OSError("not yet")
    return os.path.getsize(path)
"""


class Ran(NamedTuple):
    """What a run of the command left."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def values(self) -> list[Any]:
        return [record["value"] for record in self.records]


class Command:
    """The command in a folder of its own, where `tasks.py` has the functions above."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tasks.py").write_text(FUNCTIONS)
        runtime = folder / "run"
        runtime.mkdir()
        self.environment = {**ENVIRONMENT, "XDG_RUNTIME_DIR": str(runtime), "COLUMNS": "80", "NO_COLOR": "1"}

    def __call__(self, *arguments: str, text: str | None = None, **environment: str) -> Ran:
        ran = subprocess.run(
            [sys.executable, "-m", "procbackground", *arguments], cwd=self.folder, capture_output=True, text=True,
            input=text, stdin=subprocess.DEVNULL if text is None else None, timeout=PATIENCE_S, check=False,
            env=self.environment | environment,
        )  # fmt: skip
        assert "/_cli/" not in ran.stderr, ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    @contextmanager
    def running(self, *arguments: str, **streams: Any) -> Iterator[subprocess.Popen[str]]:
        """Start the command; whatever of it is left afterwards is killed."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        with subprocess.Popen(
            [sys.executable, "-m", "procbackground", *arguments], cwd=self.folder, env=self.environment, text=True,
            start_new_session=True, **streams,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                for left in family(process.pid) | {process.pid}:
                    try:
                        os.kill(left, 9)
                    except ProcessLookupError:
                        pass

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return name


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def calls(command: Command) -> Callable[..., list[str]]:
    """Return the calls that the command would make."""

    def look(*arguments: str, text: str | None = None) -> list[str]:
        ran = command("map", "--dry-run", *arguments, text=text)
        assert ran.code == 0, ran.err
        return ran.out.splitlines()

    return look
