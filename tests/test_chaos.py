"""A short soak: thousands of short tasks while signals hit workers, spares and the zygote at random."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tenacity import stop_after_attempt

from benchmarks import chaos
from procbackground import Retry
from tests.support.gate import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks for the zygote in /proc")


@pytest.mark.slow
def test_every_task_is_accounted_for_while_workers_are_shot_at():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", "--seconds", "10", "--tasks", "4000"],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert "left over: no process, zombie, thread or descriptor" in run.stdout
    assert run.stdout.rstrip().endswith("every task accounted for")
    (shots,) = re.findall(r"shots at busy workers: SIGKILL (\d+), SIGSTOP (\d+), SIGTERM (\d+)", run.stdout)
    assert min(map(int, shots)) >= 1  # else nothing was tested


MOST_ROUNDS = 30


class Sniper(chaos.Shooter):
    """Shoots at busy workers, and does not say so."""

    def _shoot(self, pid: int, signal_number: int, role: str) -> None:
        if role == "busy":
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


@pytest.mark.parametrize("retries", [True, False])
def test_the_soak_finds_failures_that_no_shot_explains(make_manager, retries):
    manager = make_manager(retry=Retry(stop=stop_after_attempt(100)))
    assert manager.run(pow, 2, 10).result(timeout=PATIENCE_S) == 1024
    shooter = Sniper(manager, 2, random.Random(1), [])
    shooter.start()
    for _ in range(MOST_ROUNDS):
        outcome = chaos.run_round(manager, shooter, 1000, retries=retries)
        assert outcome.succeeded + outcome.failed == 1000
        if outcome.violations:
            break  # until then no shot had hit a task
    shooter.stop()
    assert outcome.violations
    assert all("at which nobody shot" in text for text in outcome.violations)
