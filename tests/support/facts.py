"""Waiting for facts, and what is alive in and under this process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing import forkserver, resource_tracker
from typing import NamedTuple

import psutil

from procbackground import Manager, ManagerClosedError, Task
from tests.support.gate import PATIENCE_S


def wait_until(is_so: Callable[[], bool], what: str, timeout: float = PATIENCE_S) -> None:
    """Return as soon as `is_so()`; fail with `what` when that takes more than `timeout` seconds."""
    end = time.monotonic() + timeout
    while not is_so():
        if time.monotonic() > end:
            raise AssertionError(f"not so after {timeout} s: {what}")
        time.sleep(0.002)


def is_gone(pid: int) -> bool:
    """Whether the process has ended; a zombie that nobody has collected yet has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_closing(manager: Manager) -> None:
    """Return once `manager` accepts nothing any more. Its workers have to be busy meanwhile."""

    def is_closing() -> bool:
        try:
            manager.run_task(Task(pow, args=(2, 2), priority=-1)).cancel()
        except ManagerClosedError:
            return True
        return False

    wait_until(is_closing, "the manager is closing")


def wait_until_gone(pids: Iterable[int], timeout: float = PATIENCE_S) -> None:
    """Return as soon as all have ended; fail with what each of the others is and does after `timeout` seconds."""
    pids = list(pids)
    try:
        wait_until(lambda: all(is_gone(pid) for pid in pids), f"processes {pids} are gone", timeout)
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *map(_describe, pids)])) from None


def _describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{pid} is {process.status()}, a child of {process.ppid()}: {process.cmdline()}"
    except psutil.NoSuchProcess:
        return f"{pid} is gone"


def helper_pids() -> set[int | None]:
    """Pids of multiprocessing's own helpers, which live as long as the interpreter."""
    return {
        getattr(forkserver._forkserver, "_forkserver_pid", None),
        getattr(resource_tracker._resource_tracker, "_pid", None),
    }


def child_pids() -> set[int]:
    """Pids of all descendants of this process, zombies included, multiprocessing's helpers not."""
    return {child.pid for child in psutil.Process().children(recursive=True)} - helper_pids()


def _runs(thread: threading.Thread) -> bool:
    """Whether a thread runs. One that `threading` has not started is listed for ever there, once it has logged, say."""
    return os.path.exists(f"/proc/self/task/{thread.native_id}")


class Living(NamedTuple):
    """What is alive at a moment."""

    processes: frozenset[tuple[int, float]]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]

    @classmethod
    def now(cls) -> Living:
        helpers = helper_pids()
        processes = set()
        for child in psutil.Process().children(recursive=True):
            if child.pid not in helpers:
                processes.add((child.pid, child.create_time()))
        descriptors = set()
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{name}")
            except OSError:  # the listing's own
                continue
            descriptors.add((int(name), target))
        own = {
            getattr(forkserver._forkserver, "_forkserver_alive_fd", None),
            getattr(resource_tracker._resource_tracker, "_fd", None),
        }
        return cls(
            frozenset(processes),
            frozenset(filter(_runs, threading.enumerate())),
            frozenset(one for one in descriptors if one[0] not in own),
        )

    def more_than(self, before: Living) -> list[str]:
        """Return what is alive now and was not `before`, described."""
        found = []
        for pid, _ in sorted(self.processes - before.processes):
            try:
                process = psutil.Process(pid)
                found.append(f"process {pid} ({process.status()}): {' '.join(process.cmdline())[:200]}")
            except psutil.NoSuchProcess:
                found.append(f"process {pid} (ended just now)")
        found += [f"thread {thread!r}" for thread in self.threads - before.threads]
        opened = sorted(self.descriptors - before.descriptors)
        found += [f"descriptor {fd}: {target}" for fd, target in opened]
        return found
