"""Tasks that say what they were given of what they need."""

from __future__ import annotations

import os
from typing import Any

from procbackground import current
from tests.support.gate import Address, stop_at_gate, tell_gate

# As it was when this module was imported, which is before any task ran.
DEVICES_AT_IMPORT = os.environ.get("CUDA_VISIBLE_DEVICES")


def given() -> dict[str, Any]:
    """Return this process, its slots, and what variables say."""
    return {
        "pid": os.getpid(),
        "slots": current().slots,
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "devices at import": DEVICES_AT_IMPORT,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def stop_with_slots(address: Address) -> dict[str, Any]:
    """Tell the gate which slots this has, and stop there."""
    stop_at_gate(address, current().slots)
    return given()


def tell_slots_then_die(address: Address) -> dict[str, Any]:
    """In a first attempt, tell the gate which slots this has, and die."""
    if current().attempt == 1:
        tell_gate(address, current().slots)
        os._exit(3)
    return given()


def slots_of_row(number: int) -> tuple[int, dict[str, tuple[int, ...]]]:
    return number, current().slots


def fail_first(number: int) -> tuple[int, dict[str, tuple[int, ...]]]:
    """Fail in the first attempt; then return the number of the attempt, and its slots."""
    if current().attempt == 1:
        raise ValueError(number)
    return current().attempt, current().slots
