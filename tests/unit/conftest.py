"""Unit tests start no manager, so they need neither warm helpers nor the check for what is left behind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from procbackground._state.job import LIFE, Job

# On a busy machine examples take long to make, which says nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _warm_helpers() -> None:
    """Instead of the one that starts processes."""


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> None:
    """Instead of the one that counts processes, threads and descriptors."""


class CheckedState:
    """`Job.state`, which refuses a move that the table of a job's life lacks. In production nothing is checked."""

    def __init__(self, slot: Any) -> None:
        self.slot = slot

    def __get__(self, job: Job | None, owner: type) -> Any:
        return self if job is None else self.slot.__get__(job, owner)

    def __set__(self, job: Job, state: str) -> None:
        before = getattr(job, "state", state)
        assert before == state or state in LIFE[before], f"a job goes from {before} to {state}"
        self.slot.__set__(job, state)


Job.state = CheckedState(Job.state)  # type: ignore[assignment, misc]
