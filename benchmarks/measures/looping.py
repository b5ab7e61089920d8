"""Looping: what an iteration of a loop task costs above its body."""

import os
import time
from pathlib import Path

from benchmarks import tasks
from benchmarks.contest import Contest, Readings
from benchmarks.measures.steps import meeting_folder

REPORT_S = 60.0


def loop_iteration(contest: Contest) -> Readings:
    """Let a loop task count its own iterations, then run the same body under a plain `while` there."""
    target = contest.count("iterations")
    with meeting_folder() as folder, contest.open() as pool:
        report = folder / "report"
        pool.run_loop(tasks.count_iteration, target, os.fspath(report))
        _wait_for(report)
        looped_s, bare_s = map(float, report.read_text().split())
    iterations = target - 1  # the clock starts with the first one
    return Readings(
        {
            "over_body_us": 1e6 * (looped_s - bare_s) / iterations,
            "iteration_us": 1e6 * looped_s / iterations,
            "bare_us": 1e6 * bare_s / iterations,
        }
    )


def _wait_for(report: Path) -> None:
    ends_s = time.monotonic() + REPORT_S
    while not report.exists():
        if time.monotonic() > ends_s:
            raise TimeoutError("the loop did not reach its target")
        time.sleep(0.02)
