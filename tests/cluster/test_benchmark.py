"""The benchmark runs; no time is judged here."""

from __future__ import annotations

import subprocess
import sys

from tests.support.scripts import ENVIRONMENT, ROOT


def test_a_manager_keeps_up_with_ten_thousand_imaginary_nodes():
    command = [sys.executable, "-m", "benchmarks.cluster", "--driver", "--tasks", "50"]
    ran = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["10", "1000", "10000"]
