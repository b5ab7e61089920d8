"""Programs that were started without standard input, output or error: nothing of ours gets their numbers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.scripts import ENVIRONMENT

PROGRAM = """
import multiprocessing, os, sys
from procbackground import Manager

def write(number):  # as a library in C does, whatever that descriptor is
    return os.write(1, b"noise") + os.write(2, b"noise") + number

def targets(_=None):
    return [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]

if __name__ == "__main__":
    with Manager(2, multiprocessing.get_context(sys.argv[2])) as manager:
        results = [
            list(manager.map(write, range(9))), len(manager.run(bytes, 4_000_000).result(20)),
            manager.run(targets).result(20) == targets(), os.write(2, b"noise"), manager.run(write, 0).result(20),
        ]
    with open(sys.argv[1], "w") as file:
        print(*results, file=file)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize("closed", ["0<&- 1>&- 2>&-", "0<&-", "2>&-"])
def test_a_program_without_standard_descriptors_works(tmp_path, method, closed):
    script, output = tmp_path / "script.py", tmp_path / "output"
    script.write_text(PROGRAM)
    command = f'"$0" "$1" "$2" {method} {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, os.fspath(script), os.fspath(output)],
        env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert output.read_text() == f"{[number + 10 for number in range(9)]} 4000000 True 5 10\n"
