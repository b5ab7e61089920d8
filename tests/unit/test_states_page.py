"""ARCHITECTURE.md shows the tables of states as they are in the code."""

from __future__ import annotations

from pathlib import Path

import procbackground
from procbackground._state import attempt, fleet, job

PAGE = (Path(procbackground.__file__).parent / "ARCHITECTURE.md").read_text(encoding="utf-8")


def attempt_states() -> str:
    """Return the transitions of an attempt, a line for each state and event."""
    lines = []
    for state, after in attempt.TRANSITIONS.items():
        for number, (event, target) in enumerate(after.items()):
            lines.append(f"{state if number == 0 else '':<10}{event:<13} → {target}".rstrip())
        if not after:
            lines.append(f"{state:<10}(the end)")
    return "\n".join(lines)


def job_states() -> str:
    """Return the transitions of a job, a line for each, with what has happened."""
    lines = []
    for state, after in job.LIFE.items():
        for number, (target, what) in enumerate(after.items()):
            lines.append(f"{state if number == 0 else '':<10}→ {target:<10}{what}")
        if not after:
            lines.append(f"{state:<10}(the end)")
    return "\n".join(lines)


def worker_states() -> str:
    """Return the transitions of a worker, a line for each state."""
    return "\n".join(
        f"{state:<10}→ {', '.join(sorted(after))}" if after else f"{state:<10}(the end)"
        for state, after in fleet.TRANSITIONS.items()
    )


def test_the_life_of_a_job_is_shown():
    assert f"```text\n{job_states()}\n```" in PAGE


def test_the_states_of_an_attempt_are_shown():
    assert f"```text\n{attempt_states()}\n```" in PAGE


def test_the_states_of_a_worker_are_shown():
    assert f"```text\n{worker_states()}\n```" in PAGE
