"""Unit tests start no manager, so they need neither warm helpers nor the check for what is left behind."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# On a busy machine examples take long to make, which says nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _warm_helpers() -> None:
    """Instead of the one that starts processes."""


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> None:
    """Instead of the one that counts processes, threads and descriptors."""
