"""Tasks that leave processes behind, in the ways that daemons use to be found by nobody."""

from __future__ import annotations

import hmac  # noqa: F401  # what connecting to the gate imports: not amid a fork
import importlib
import multiprocessing
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
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write_fd, str(os.getpid()).encode())
            os.closerange(0, 1024)
            os.environ.clear()
            time.sleep(3600)
        os._exit(0)
    os.close(write_fd)
    os.waitpid(pid, 0)
    tell_gate(address, int(os.read(read_fd, 100)))  # waits for it
    os.close(read_fd)


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


def leave_and_raise(address: Address, way: str) -> None:
    leave(address, way)
    raise ZeroDivisionError


def leave_a_child_of_multiprocessing(address: Address) -> None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
    child.start()
    tell_gate(address, child.pid)


def start_helper(name: str) -> tuple[int, int]:
    """Start a process that `multiprocessing` keeps for later; return this one's pid, and that one's."""
    helper = getattr(importlib.import_module(f"multiprocessing.{name}"), f"_{name}")
    helper.ensure_running()
    time.sleep(0.001)  # as long as any task that starts a process
    return os.getpid(), helper._pid if name == "resource_tracker" else helper._forkserver_pid


def leave_and_exit(address: Address, way: str) -> None:
    leave(address, way)
    os._exit(3)


def leave_from_a_nested_manager(address: Address, method: str, way: str) -> None:
    manager = Manager(1, multiprocessing.get_context(method))
    manager.run_task(Task(leave_and_stop, args=(address, way)))
    stop_at_gate(address, "outer worker")
