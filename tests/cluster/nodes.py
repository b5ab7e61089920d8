"""A cluster of dask: its scheduler and its workers, started by its own command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.support.facts import wait_until, wait_until_gone
from tests.support.scripts import ENVIRONMENT

START_S = 60.0  # an interpreter that imports dask, on a machine with much else to do
STOP_S = 10.0
DASK = (sys.executable, "-m", "dask")


class Node:
    """A worker of dask, with its nanny if it has one."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, has_nanny: bool) -> None:
        self.process = process
        self.has_nanny = has_nanny
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def pids(self) -> list[int]:
        """Return the pids of all processes of this node: nanny, worker, what supervises tasks, and the tasks."""
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [self.process.pid, *(child.pid for child in below)]

    def worker_pid(self) -> int:
        """Return the pid of the worker, which without a nanny is the only one."""
        if not self.has_nanny:
            return self.process.pid
        for child in psutil.Process(self.process.pid).children():
            command = " ".join(child.cmdline())
            if "spawn_main" in command or command.startswith("dask worker"):
                return child.pid
        raise AssertionError("the nanny has no worker")

    def kill(self) -> None:
        """End nanny and worker by SIGKILL, at once."""
        worker_pid = self.worker_pid()
        for pid in {self.process.pid, worker_pid}:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Cluster:
    """A scheduler and its nodes."""

    def __init__(
        self, folder: Path, *, environment: dict[str, str] | None = None, options: tuple[str, ...] = (),
        protocol: str = "tcp", within: tuple[str, ...] = (), host: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        self.folder = folder
        self._environment = {**ENVIRONMENT, "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "info", **(environment or {})}
        self._options = options
        self._file = folder / "scheduler.json"
        self.nodes: list[Node] = []
        self.scheduler, self.log = self._start(
            "scheduler", within, "scheduler", "--host", host, "--port", "0", "--no-dashboard",
            "--protocol", protocol, "--scheduler-file", self._file,
        )  # fmt: skip
        wait_until(self._is_up, "dask's scheduler is up", START_S)

    def _is_up(self) -> bool:
        if self.scheduler.poll() is not None:
            raise AssertionError(f"dask's scheduler ended: {self.log.read_text()}")
        try:
            self.address: str = json.loads(self._file.read_text())["address"]
        except (OSError, ValueError):
            return False
        return True

    def _start(self, name: str, within: tuple[str, ...], *command: Any) -> tuple[subprocess.Popen[bytes], Path]:
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*within, *DASK, *map(str, command), *self._options],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        return process, log

    def add_node(
        self, *options: str, nthreads: int = 2, nanny: bool = False, waits: bool = True,
        within: tuple[str, ...] = (), host: str = "127.0.0.1", scheduler: str | None = None,
    ) -> Node:  # fmt: skip
        """Start one more node, and wait until the scheduler has it, and all others.

        Args:
            within: a command that runs others elsewhere.
            scheduler: address by which the node reaches the scheduler.
        """
        name = f"node-{len(self.nodes) + 1}"
        flags = () if nanny else ("--no-nanny",)
        process, log = self._start(
            name, within, "worker", scheduler or self.address, "--host", host, "--name", name, "--nthreads", nthreads,
            "--no-dashboard", "--local-directory", self.folder / name, *flags, *options,
        )  # fmt: skip
        node = Node(process, log, nanny)
        self.nodes.append(node)
        if waits:
            self.wait_for_nodes()
        return node

    def wait_for_nodes(self) -> None:
        """Wait until the scheduler has all nodes that were started."""
        for node in self.nodes:
            wait_until(lambda node=node: "Registered to" in node.log, "the node is registered", START_S)

    def logs(self) -> str:
        """Return what the scheduler and the nodes have said, but for our own looks at them."""
        lines: list[str] = []
        for path in self.folder.glob("*.log"):
            lines += ["", f"== {path.name}", *path.read_text(errors="replace").splitlines()]
        return "\n".join(line for line in lines if "Run out-of-band function" not in line)

    def stop(self) -> None:
        """End all, and check that nothing of it is left."""
        pids = [pid for node in self.nodes for pid in node.pids()]
        # One after the other: dask's own teardown hangs at times where nodes and scheduler end in the same instant.
        for process in (*(node.process for node in self.nodes), self.scheduler):
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        wait_until_gone(pids, STOP_S)


def left_in_cluster(client: Any, nodes: int) -> list[str]:
    """Return what is not as in an idle cluster of so many nodes."""
    left: list[str] = client.run_on_scheduler(_left_in_scheduler, nodes=nodes)
    for address, each in client.run(_left_in_node).items():
        left += [f"{what} on {address}" for what in each]
    return left


def _left_in_scheduler(nodes: int, dask_scheduler: Any) -> list[str]:
    """Run by dask in its scheduler."""
    from procbackground.engines._dask_scheduler import SchedulerSide

    left = [f"task {key} is {task.state}" for key, task in dask_scheduler.tasks.items()]
    left += [f"plugin {name}" for name, each in dask_scheduler.plugins.items() if isinstance(each, SchedulerSide)]
    for node in dask_scheduler.workers.values():
        left += [f"{much:g} {name} of {node.name} in use" for name, much in node.used_resources.items() if much]
    if len(dask_scheduler.workers) != nodes:
        left.append(f"{len(dask_scheduler.workers)} nodes")
    return left


def _left_in_node(dask_worker: Any) -> list[str]:
    """Run by dask in each node. A task that the scheduler has given up takes a thread here until it ends."""
    from procbackground.engines._dask_node import NodePlugin

    left = [f"task {key} is {task.state}" for key, task in dask_worker.state.tasks.items()]
    left += [f"plugin {name}" for name, each in dask_worker.plugins.items() if isinstance(each, NodePlugin)]
    if dask_worker.state.available_resources != dask_worker.state.total_resources:
        left.append(f"{dask_worker.state.available_resources} is free of {dask_worker.state.total_resources}")
    if dask_worker.status.name != "running":
        left.append(f"a worker is {dask_worker.status.name}")
    return left
