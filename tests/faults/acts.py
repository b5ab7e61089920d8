"""The tasks of a scene: each notes that it runs, and the guilty one then does as it is told."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.support.gate import Address, stop_at_gate, tell_gate
from tests.support.tasks import failing, hoarding, pickling, raising, surroundings


def note(ledger: str, number: int) -> None:
    """Append a line of its own: short writes at the end of a file do not mix."""
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, b"%d\n" % number)
    finally:
        os.close(fd)


def act(ledger: str, number: int, gate: Address | None = None) -> Any:
    """Note the run and return the square; the guilty one says where it is and does as the gate answers."""
    note(ledger, number)
    if gate is None:
        return number * number
    return FAULTS[stop_at_gate(gate, "guilty")](gate)


# -- faults: each is given the gate, and is told of by its name -----------------------------------------------


def get_killed(gate: Address) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def spin_deaf(gate: Address) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass


def spin(gate: Address) -> None:
    while True:
        pass


def stop_oneself(gate: Address) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600)


def start_and_spin(gate: Address, new_session: bool = False) -> None:
    """Start a process of our own, tell its pid, and never end."""
    import subprocess

    with subprocess.Popen(["sleep", "3600"], start_new_session=new_session) as grandchild:
        tell_gate(gate, grandchild.pid)
        spin(gate)


def log_and_die(gate: Address) -> None:
    import logging

    held = bytearray(os.urandom(1 << 20) * 60)
    for number in range(15):
        logging.getLogger("tests.faults").warning("step %d with %d bytes", number, len(held))
    os._exit(3)


def exit_softly(gate: Address) -> None:
    sys.exit(5)


def return_a_lock(gate: Address) -> Any:
    return {"inner": [1, threading.Lock()]}


FAULTS: dict[str, Callable[[Address], Any]] = {
    "SIGKILL": get_killed,
    "exit": lambda gate: os._exit(3),
    "segfault": lambda gate: failing.segfault(),
    "sys.exit": exit_softly,
    "lock": return_a_lock,
    "two arguments": lambda gate: raising.raise_two_arguments(),
    "no reduction": lambda gate: raising.raise_unreducible(),
    "no load": lambda gate: pickling.return_unloadable(os.getppid()),
    "spin": spin,
    "spin deaf": spin_deaf,
    "sleep": lambda gate: failing.sleep_long(),
    "in C": lambda gate: failing.hold_the_interpreter(),
    "SIGSTOP": stop_oneself,
    "hoard": lambda gate: hoarding.hoard(1024 * hoarding.MIB),
    "grandchild": start_and_spin,
    "grandchild in a session": functools.partial(start_and_spin, new_session=True),
    "log and die": log_and_die,
}


# -- initializers ---------------------------------------------------------------------------------------------


def log_and_fail() -> None:
    surroundings.log_by_logging("about to fail")
    raise failing.Flaky("bad start")


def log_and_exit() -> None:
    surroundings.log_by_logging("about to exit")
    os._exit(7)


def hang_in_initializer() -> None:
    surroundings.log_by_logging("about to hang")
    time.sleep(3600)


def die_when_ready() -> None:
    """Let the worker say that it is ready, and die before it looks at its first task."""
    from procbackground._worker.main import Worker

    def die(worker: Worker, task_fd: int) -> None:
        os.kill(worker.pid, signal.SIGKILL)

    Worker.serve = die  # type: ignore[method-assign]  # in this child


# -- output ---------------------------------------------------------------------------------------------------


def say(first: int, count: int) -> None:
    for number in range(first, first + count):
        print("line", number, "of", "many")


def log(first: int, count: int) -> None:
    import logging

    for number in range(first, first + count):
        logging.getLogger("tests.faults").info("record %d", number)


# -- nested ---------------------------------------------------------------------------------------------------


def square_in_a_pool(number: int) -> int:
    return surroundings.nested(number)
