"""Tasks that run as loops and tell a gate about each iteration."""

from __future__ import annotations

import procbackground
from tests.support.gate import Address, stop_at_gate, tell_gate
from tests.support.tasks.failing import Flaky

_iterations = 0


def iterate(address: Address) -> None:
    """Say how many iterations this process has run, and stop until let go."""
    global _iterations
    _iterations += 1
    stop_at_gate(address, _iterations)


def iterate_and_fail(address: Address) -> None:
    iterate(address)
    raise Flaky(f"iteration {_iterations}")


def iterate_with_attempt(address: Address) -> None:
    """Say the attempt, stop, and fail if the gate answers so."""
    answer = stop_at_gate(address, procbackground.current().attempt)
    if answer == "fail":
        raise Flaky("as the gate says")


def iterate_then_tell_stopping(address: Address, patience_s: float = 0) -> None:
    context = procbackground.current()
    before = context.stopping
    stop_at_gate(address, "running")
    context.wait(patience_s)
    tell_gate(address, (before, context.stopping))


def wait_for_the_stop(address: Address) -> None:
    tell_gate(address, "waiting")
    tell_gate(address, procbackground.current().wait(3600))
