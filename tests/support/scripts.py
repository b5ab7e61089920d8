"""Scripts that run in an interpreter of their own: how they are started, what they are made of, who is below them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.gate import Gate

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "PYTHONUNBUFFERED": "",
}  # empty is unset: lines stay whole
# Where coverage.py does not measure the children of a run that it measures: it imports much, and prints warnings.
UNMEASURED = {name: value for name, value in ENVIRONMENT.items() if not name.startswith(("COVERAGE", "COV_"))}
ORPHANS_GONE_S = 1.0  # after the end of their parent: what is promised


def run(source: str, how: str = "file", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script that comes from a file, from the command line or from standard input."""
    source = textwrap.dedent(source)
    command, text = [sys.executable], None
    if how == "-c":
        command += ["-c", source]
    elif how == "stdin":
        command, text = [*command, "-"], source
    else:
        assert folder is not None
        script = folder / "script.py"
        script.write_text(source)
        command.append(str(script))
    return subprocess.run(command, input=text, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def running(source: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a script in a session of its own; whatever of it is left afterwards is killed."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source))
    with started([str(script)], folder) as process:
        yield process


@contextmanager
def started(arguments: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start an interpreter in a session of its own, in `folder`, with a pipe to its standard input."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        env=ENVIRONMENT,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            for left in family(process.pid) | {process.pid}:
                try:
                    os.kill(left, signal.SIGKILL)
                except ProcessLookupError:
                    pass


def family(pid: int) -> set[int]:
    """Return the pids of all descendants of `pid`."""
    try:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


# hmac is what connecting to the gate imports: a `fork` in the middle of an import leaves its lock held in the child.
PARENT = """
    import hmac, os, signal, subprocess, sys, time
    from procbackground import Manager, Task, TaskType
    from tests.support.gate import Address, stop_at_gate, tell_gate
    from tests.support.tasks import gated, looping, plain

    address = Address(*{address!r})

    if __name__ == "__main__":
        manager = Manager(max_workers=2, grace=0.5)
    {body}
"""


def parent(gate: Gate, body: str) -> str:
    """Return a script that makes a manager and does as `body` says."""
    indented = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return textwrap.dedent(PARENT).format(address=tuple(gate.address), body=indented)
