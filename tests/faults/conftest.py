"""Fixtures of the faults: a start method, and the scene in which most of them happen."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from procbackground import Manager
from tests.faults.scene import Scene
from tests.support.gate import Gate


@pytest.fixture(params=["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])  # a fifth of a second a worker
def method(request: pytest.FixtureRequest) -> str:
    """The start method."""
    return str(request.param)


@pytest.fixture
def make_scene(make_manager: Callable[..., Manager], method: str, gate: Gate, tmp_path: Path) -> Callable[..., Scene]:
    """A function that sets the scene, with options for its manager."""

    def make(**options: Any) -> Scene:
        return Scene(make_manager, method, gate, tmp_path / "ledger", **options)

    return make


@pytest.fixture
def scene(make_scene: Callable[..., Scene]) -> Scene:
    return make_scene()


@pytest.fixture
def manager(make_manager: Callable[..., Manager], method: str) -> Manager:
    """A manager of two workers, under the start method."""
    return make_manager(mp_context=multiprocessing.get_context(method), grace=0.3)
