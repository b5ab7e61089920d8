"""`python -m benchmarks.cluster`: a manager on a dask cluster beside dask alone, and what each task costs whom.

Both use the same scheduler and the same two nodes, started by dask's command line, and take turns: on a busy machine
the ratios of one round mean something where the figures do not. `--driver` measures a manager that is fed by a thousand
nodes which answer at once, without any cluster: what the manager itself can do.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from procbackground import Manager, current
from procbackground._wire import attempts as w
from procbackground.observers import CallbackObserver

NODES = 2
THREADS = 2


# -- a cluster -----------------------------------------------------------------------------------------------


@contextmanager
def cluster() -> Iterator[tuple[str, list[psutil.Process]]]:
    """Yield the address of a scheduler with two nodes, and the processes: the scheduler's, then the nodes'."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "scheduler.json")
        dask = (sys.executable, "-m", "dask")
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        quiet["env"] = {**os.environ, "PYTHONPATH": os.getcwd()}
        command = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        processes = [subprocess.Popen([*dask, *command], **quiet)]
        try:
            while not file.exists() or not file.read_text():
                time.sleep(0.05)
            address = json.loads(file.read_text())["address"]
            for _ in range(NODES):
                command = ["worker", address, "--host", "127.0.0.1", "--nthreads", str(THREADS), "--no-nanny"]
                processes.append(subprocess.Popen([*dask, *command, "--no-dashboard"], **quiet))
            yield address, [psutil.Process(process.pid) for process in processes]
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGTERM)
                process.wait(30)


def burst_of_dask(client: Any, first: int, count: int) -> float:
    """Return the tasks a second of `count` no-ops in one batch."""
    began = time.perf_counter()
    results = client.gather(client.map(abs, range(-first - count, -first)))
    assert results == list(range(first + count, first, -1))
    return count / (time.perf_counter() - began)


def burst_of_manager(manager: Manager, first: int, count: int) -> float:
    began = time.perf_counter()
    handles = [manager.run(abs, -number) for number in range(first, first + count)]
    assert [handle.result() for handle in handles] == list(range(first, first + count))
    return count / (time.perf_counter() - began)


def median_ms(call: Callable[[int], Any], count: int) -> float:
    """Return the median of single round trips, in milliseconds."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def report_times(count: int, pause_s: float) -> None:
    for _ in range(count):
        current().progress(time.time())
        time.sleep(pause_s)


def progress_ms(address: str, count: int) -> list[float]:
    """Return how long progress reports take from the child to an observer, in milliseconds, sorted."""
    from procbackground.engines import DaskEngine

    took: list[float] = []
    observer = CallbackObserver(on_task_progress=lambda event: took.append(1000 * (time.time() - event.done)))
    with Manager(engine=DaskEngine(address), observer=observer) as manager:
        manager.run(report_times, count, 0.02).result()
    return sorted(took)


def cpu_us(processes: Sequence[psutil.Process], act: Callable[[], Any], tasks: int) -> list[float]:
    """Return the CPU time that `act` costs each process, and this one, in microseconds a task."""

    def read() -> list[float]:
        return [sum(each.cpu_times()[:2]) for each in processes] + [time.process_time()]

    before = read()
    act()
    return [1e6 * (after - first) / tasks for first, after in zip(before, read(), strict=True)]


def compare(rounds: int, count: int) -> None:
    from distributed import Client

    from procbackground.engines import DaskEngine

    with cluster() as (address, processes):
        client: Any = Client(address, set_as_default=False)
        client.wait_for_workers(NODES)
        ratios, trips = [], []
        print("no-ops/s:   dask  manager  ratio    round trip, ms:   dask  manager")
        with Manager(engine=DaskEngine(address)) as manager:
            burst_of_manager(manager, 0, 50)
            for number in range(rounds):
                alone = burst_of_dask(client, number * count, count)
                ours = burst_of_manager(manager, number * count, count)
                trip = median_ms(lambda each, n=number: client.submit(abs, n + each / 1e6, pure=False).result(), 50)
                our_trip = median_ms(lambda each: manager.run(abs, each).result(), 50)
                ratios.append(ours / alone)
                trips.append(our_trip / trip)
                print(f"{alone:16.0f} {ours:8.0f} {ratios[-1]:6.2f} {trip:25.1f} {our_trip:8.1f}")
            throughput, round_trip = statistics.median(ratios), statistics.median(trips)
            print(f"medians: {throughput:.2f} of dask's throughput, {round_trip:.2f} of its round trip")
            costs = cpu_us(processes, lambda: burst_of_manager(manager, 0, count), count)
            print("CPU, µs a task: manager {3:.0f}, scheduler {0:.0f}, nodes {1:.0f} and {2:.0f}".format(*costs))
            costs = cpu_us(processes, lambda: burst_of_dask(client, 10**6, count), count)
            print("the same of dask: client {3:.0f}, scheduler {0:.0f}, nodes {1:.0f} and {2:.0f}".format(*costs))
            began = time.perf_counter()
            rows = 100 * count
            assert sum(manager.map(abs, range(rows))) == rows * (rows - 1) // 2
            print(f"map, which sends chunks: {rows / (time.perf_counter() - began):.0f} items/s")
        client.close()
        times = progress_ms(address, 250)
        median, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
        print(f"progress to an observer, ms: median {median:.1f}, p99 {p99:.1f}")


# -- the manager alone ---------------------------------------------------------------------------------------


class ImaginaryNodes:
    """An engine whose nodes answer at once: each in its own message, as on a cluster where none waits for another."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._cost = w.Cost(0.0001, None, None)
        self._work: list[w.Request] = []
        self._has_work = threading.Semaphore(0)
        self._is_over = False

    def places(self) -> int:
        return 2 * self._nodes

    def start(self, name: str, settings: w.NodeSettings, listener: Any) -> None:
        self._listener = listener
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[w.Request]) -> None:
        self._work += requests
        self._has_work.release()

    def _run(self) -> None:
        pickled = w.pack(7)
        while self._has_work.acquire() and not self._is_over:
            work, self._work = self._work, []
            for request in work:
                node = f"node-{request.number % self._nodes}"
                self._listener.reports_came(
                    [(request.number, w.STARTED, 1, node), (request.number, w.VALUE, pickled, False, self._cost)]
                )

    def share(self, number: int, parts: Sequence[memoryview]) -> None:
        pass

    def unshare(self, number: int) -> None:
        pass

    def cancel(self, numbers: Sequence[int]) -> None:
        pass

    def end_loop(self, number: int) -> None:
        pass

    def ask(self, question: str, node: str | None, timeout_s: float) -> list[tuple[str, Any]]:
        return []

    def close(self, timeout_s: float) -> bool:
        self._is_over = True
        self._has_work.release()
        self._thread.join(timeout_s)
        return True


def drive(count: int) -> None:
    for nodes in (10, 1_000, 10_000):
        with Manager(engine=ImaginaryNodes(nodes)) as manager:
            manager.run(abs, 1).result()
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            handles = [manager.run(abs, number) for number in range(count)]
            assert all(handle.result() == 7 for handle in handles)
            wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        print(f"{nodes:6} nodes: {count / wall_s:8.0f} tasks/s, {1e6 * cpu_s / count:.0f} µs of CPU a task")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a manager on a dask cluster beside dask alone.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tasks", type=int, default=1000, help="of each batch")
    parser.add_argument("--driver", action="store_true", help="only the manager, fed by nodes that answer at once")
    arguments = parser.parse_args()
    if arguments.driver:
        drive(20 * arguments.tasks)
    else:
        compare(arguments.rounds, arguments.tasks)


if __name__ == "__main__":
    main()
