"""What it costs to watch: no-ops with each ready-made observer, and records of logging that come from workers.

    python -m benchmarks.observing [--rounds N]

All take turns within a round, each with a manager of its own. Done is when the observer has heard of the last task, and
when the last record has reached the parent's handler. CPU time is that of the parent: it says more than the rate where
the machine is not quiet.
"""

from __future__ import annotations

import argparse
import io
import logging
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from procbackground import Manager, Observer
from procbackground.observers import JsonLinesObserver, LoggingObserver
from procbackground.observers.base import EVENT_NAMES

TASKS = 20_000
RECORDS = 100_000
RECORDS_OF_A_TASK = 1_000
WORKERS = 2


class Counting(Observer):
    """Counts the ends of tasks."""

    ended = 0

    def on_task_succeeded(self, event: object) -> None:
        self.ended += 1


def counting_all() -> Observer:
    """Counts events of every kind."""
    observer = Counting()

    def count(event: object) -> None:
        observer.ended += 1

    for name in EVENT_NAMES:
        setattr(observer, name, count)
    return observer


def prometheus() -> Observer:
    from prometheus_client import CollectorRegistry

    from procbackground.observers import PrometheusObserver

    return PrometheusObserver(registry=CollectorRegistry())


def traces() -> Observer:
    """Spans go to the SDK's exporter in memory, as they end."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from procbackground.observers import OpenTelemetryObserver

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    return OpenTelemetryObserver(tracer_provider=provider)


OBSERVERS: dict[str, Callable[[], Observer | None]] = {
    "none": lambda: None,
    "counting": Counting,
    "counting, of all events": counting_all,
    "logging, successes muted": LoggingObserver,
    "JSON lines": lambda: JsonLinesObserver(io.StringIO()),
    "Prometheus": prometheus,
    "OpenTelemetry, spans kept in memory": traces,
}


class Reading(NamedTuple):
    """What a run took for each task or record."""

    wall_s: float
    cpu_s: float


def burst(observer: Observer | None) -> Reading:
    """Submit no-ops, and close the manager."""
    manager = Manager(WORKERS, observer=observer)
    manager.run(abs, 1).result()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    for handle in [manager.run(abs, -1) for _ in range(TASKS)]:
        handle.result()
    manager.close()
    return Reading((time.perf_counter() - began_s) / TASKS, (time.process_time() - cpu_s) / TASKS)


def log(count: int) -> None:
    logger = logging.getLogger("benchmark")
    for number in range(count):
        logger.warning("record %d", number)


class _Arrivals(logging.Handler):
    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def relay() -> Reading:
    """Have two workers log records, for a handler of the parent."""
    arrivals, logger = _Arrivals(), logging.getLogger("benchmark")
    logger.addHandler(arrivals)
    logger.propagate = False
    try:
        with Manager(WORKERS) as manager:
            manager.run(log, 1).result()
            began_s, cpu_s = time.perf_counter(), time.process_time()
            for handle in [manager.run(log, RECORDS_OF_A_TASK) for _ in range(RECORDS // RECORDS_OF_A_TASK)]:
                handle.result()
            took = Reading((time.perf_counter() - began_s) / RECORDS, (time.process_time() - cpu_s) / RECORDS)
    finally:
        logger.removeHandler(arrivals)
    assert arrivals.count == RECORDS + 1, arrivals.count
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    readings: dict[str, list[Reading]] = {name: [] for name in [*OBSERVERS, "records"]}
    for _ in range(rounds):
        for name, make in OBSERVERS.items():
            readings[name].append(burst(make()))
        readings["records"].append(relay())
    for name, each in readings.items():
        rate = 1 / statistics.median(reading.wall_s for reading in each)
        cpu_s = statistics.median(reading.cpu_s for reading in each)
        print(f"{name:36} {rate:10,.0f} per second {cpu_s * 1e6:8.1f} µs of CPU")


if __name__ == "__main__":
    main()
