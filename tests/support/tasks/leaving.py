"""Tasks that leave processes behind, in the ways that daemons use to be found by nobody."""

from __future__ import annotations

import hmac  # noqa: F401  # what connecting to the gate imports: not amid a fork
import os
import subprocess
import time
from collections.abc import Callable

from procbackground import Manager, Task
from tests.support.gate import Address, stop_at_gate, tell_gate


def _in_a_session(address: Address) -> None:
    process = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    tell_gate(address, process.pid)


def _forked_twice(address: Address) -> None:
    """Without any descriptor, variable or parent that says where it comes from."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 1024)
            os.environ.clear()
            tell_gate(address, os.getpid())
            time.sleep(3600)
        os._exit(0)
    os.waitpid(pid, 0)


def _without_environment(address: Address) -> None:
    """By a shell, which ends, with a cleared environment."""
    command = ["/bin/sh", "-c", "setsid sleep 3600 >/dev/null 2>&1 & echo $!"]
    tell_gate(address, int(subprocess.run(command, env={}, stdout=subprocess.PIPE, check=True).stdout))


def _below_an_orphan(address: Address) -> None:
    """The child of a process that was forked twice, in a session of its own."""
    script = "setsid sleep 3600 >/dev/null 2>&1 & echo $!; exec >/dev/null; wait"
    command = ["/bin/sh", "-c", f"setsid sh -c '{script}' &"]
    tell_gate(address, int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


WAYS: dict[str, Callable[[Address], None]] = {
    "in a session": _in_a_session,
    "forked twice": _forked_twice,
    "without environment": _without_environment,
    "below an orphan": _below_an_orphan,
}


def leave(address: Address, way: str) -> int:
    """Start a process that stays, tell its pid, and return this process's."""
    WAYS[way](address)
    return os.getpid()


def leave_and_stop(address: Address, way: str) -> None:
    leave(address, way)
    stop_at_gate(address, "worker")


def leave_and_exit(address: Address, way: str) -> None:
    leave(address, way)
    os._exit(3)


def leave_from_a_nested_manager(address: Address, method: str, way: str) -> None:
    import multiprocessing

    manager = Manager(1, multiprocessing.get_context(method))
    manager.run_task(Task(leave_and_stop, args=(address, way)))
    stop_at_gate(address, "outer worker")
