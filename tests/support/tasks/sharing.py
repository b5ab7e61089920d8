"""Tasks that use a shared array."""

from __future__ import annotations

from typing import Any

from tests.support.gate import Address, stop_at_gate


def total(array: Any) -> int:
    return int(array.sum())


def stop_and_sum(address: Address, array: Any) -> int:
    stop_at_gate(address)
    return total(array)


def write_to(array: Any) -> None:
    array[0] = 1


def element(array: Any, index: int) -> int:
    return int(array[index])
