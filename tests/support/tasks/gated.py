"""Tasks that tell a gate where they are, and mostly stop at it until they are let go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import procbackground
from tests.support.gate import Address, stop_at_gate, tell_gate
from tests.support.tasks.failing import Flaky, hold_the_interpreter


def stop_then_do(address: Address) -> Any:
    """Stop at the gate and do as it says: raise the exception or return the value that it answers."""
    answer = stop_at_gate(address)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def stop_and_fail_first(address: Address) -> None:
    stop_at_gate(address)
    if procbackground.current().attempt == 1:
        raise Flaky("first attempt")


def tell_and_return(address: Address, value: Any) -> Any:
    tell_gate(address, value)
    return value


def tell_and_fail(address: Address) -> None:
    """Tell the attempt's number, and raise."""
    tell_gate(address, procbackground.current().attempt)
    raise Flaky("as always")


def tell_and_fail_first(address: Address, value: Any, fail: bool) -> Any:
    """Tell `value` and return it; where `fail`, raise in the first attempt."""
    tell_gate(address, value)
    if fail and procbackground.current().attempt == 1:
        raise Flaky(f"first attempt with {value}")
    return value


def tell_time(address: Address) -> None:
    tell_gate(address, time.monotonic())


def stop_and_return_bytes(address: Address, size: int) -> bytes:
    stop_at_gate(address)
    return bytes(size)


def tell_then_return_bytes(address: Address, size: int) -> bytes:
    value = bytes(size)
    tell_gate(address, size)
    return value


def clean_up_when_stopped(address: Address) -> None:
    """Stop at the gate; say in a `finally` block what came through."""
    try:
        stop_at_gate(address, "at work")
    finally:
        error = sys.exc_info()[1]
        tell_gate(address, "SystemExit" if isinstance(error, SystemExit) else repr(error))


def ignore_sigterm(address: Address) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stop_at_gate(address, "deaf")
    time.sleep(3600)


def tell_and_hold_the_interpreter(address: Address) -> None:
    tell_gate(address, "in C")
    hold_the_interpreter()


def tell_and_sleep(address: Address) -> None:
    tell_gate(address, "asleep")
    time.sleep(3600)


def tell_and_spin(address: Address) -> None:
    tell_gate(address, "spinning")
    while True:
        pass


def survive_one_stop(address: Address) -> str:
    """Catch the stop and return as if nothing had been."""
    try:
        stop_at_gate(address, "at work")
    except SystemExit:
        tell_gate(address, "caught")
    return "survived"


def survive_all_stops(address: Address) -> None:
    """Say so at each stop, and go on."""
    label = "at work"
    while True:
        try:
            tell_gate(address, label)
            time.sleep(3600)
        except SystemExit:
            label = "stopped"


def start_grandchild(address: Address, new_session: bool = False) -> None:
    """Start a process of our own and tell its pid."""
    with subprocess.Popen(["sleep", "3600"], start_new_session=new_session) as grandchild:
        stop_at_gate(address, grandchild.pid)


def tell_and_stop_oneself(address: Address) -> None:
    """Tell the gate, stop this process by SIGSTOP until somebody sends SIGCONT, and then stop at the gate."""
    tell_gate(address, "about to stop")
    os.kill(os.getpid(), signal.SIGSTOP)
    stop_at_gate(address, "continued")
