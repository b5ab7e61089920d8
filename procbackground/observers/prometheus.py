"""Metrics for Prometheus, made in the parent from events. The children need no registry and no directory of files."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from procbackground._printable import printable
from procbackground.observers.base import Observer
from procbackground.observers.extras import import_extra
from procbackground.report import Attempt

if TYPE_CHECKING:
    from procbackground import events

OTHER = "(other)"  # stands for the task names beyond the limit


class PrometheusObserver(Observer):
    """Keeps these metrics in a registry of `prometheus_client`, where it is scraped as usual. Needs `prometheus`.

        procbackground_tasks_submitted_total
        procbackground_tasks_finished_total{task, outcome}      outcome: succeeded, failed or cancelled
        procbackground_attempts_total{task, reason}             reason: how the attempt ended, one of `Outcome`
        procbackground_task_duration_seconds{task}              a histogram: how long attempts ran
        procbackground_queue_wait_seconds{task}                 a histogram: how long tasks waited for a worker
        procbackground_queued_tasks, procbackground_oldest_queued_seconds
        procbackground_workers{state}                           state: busy or idle
        procbackground_worker_restarts_total{reason}            reason: a signal's name, "exit" or "unknown"
        procbackground_worker_memory_bytes                      of all workers' process trees
        procbackground_worker_busy_seconds_total

    `task` is a task's name. Names must be few: of more than `max_task_names` the later ones are counted as "(other)".
    A loop's iterations that fail are counted as failed. Managers whose observers share a registry are summed up.

        from prometheus_client import start_http_server
        start_http_server(8000)
        manager = Manager(observer=PrometheusObserver())

    Args:
        registry: by default `prometheus_client.REGISTRY`.
        max_task_names: most values of the label `task`.
    """

    def __init__(self, registry: Any = None, *, max_task_names: int = 100) -> None:
        client = import_extra("prometheus_client", "prometheus", "PrometheusObserver")
        self._metrics = _Metrics.of(client, client.REGISTRY if registry is None else registry)
        self._metrics.observers.add(self)
        self._max_task_names = max_task_names
        self._waiting: dict[Any, float] = {}  # by handle: since when
        self._running: dict[Any, int] = {}  # by handle: the pid
        self._workers: dict[int, int] = {}  # by pid: bytes
        self._busy_until: dict[int, float] = {}  # by pid: the end of the last attempt

    # -- tasks ---------------------------------------------------------------------------------------------

    def on_task_added(self, event: events.TaskAdded) -> None:
        self._metrics.submitted.inc()
        self._waiting[event.handle] = event.time

    def on_task_started(self, event: events.TaskStarted) -> None:
        since = self._waiting.pop(event.handle, None)
        if since is not None:
            self._metrics.queue_wait.labels(self._name(event)).observe(max(0.0, event.time - since))
        self._running[event.handle] = event.pid

    def on_task_retrying(self, event: events.TaskRetrying) -> None:
        self._end_attempt(event)
        if event.task.type != "loop":
            self._waiting[event.handle] = event.time + event.delay

    def on_task_succeeded(self, event: events.TaskSucceeded) -> None:
        self._end(event, "succeeded")

    def on_task_failed(self, event: events.TaskFailed) -> None:
        self._end(event, "failed")

    def on_task_cancelled(self, event: events.TaskCancelled) -> None:
        self._end(event, "cancelled")

    def _end(self, event: Any, outcome: str) -> None:
        self._end_attempt(event)
        self._waiting.pop(event.handle, None)
        self._metrics.finished.labels(self._name(event), outcome).inc()

    def _end_attempt(self, event: Any) -> None:
        has_ended = event.handle.done() or event.task.type != "loop"
        (self._running.pop if has_ended else self._running.get)(event.handle, None)
        for attempt in reversed(event.handle.attempts):
            if attempt.number == event.attempt and attempt.outcome is not None:
                self._count(self._name(event), attempt)
                return

    def _count(self, name: str, attempt: Attempt) -> None:
        metrics = self._metrics
        metrics.attempts.labels(name, str(attempt.outcome)).inc()
        if attempt.ended is None or attempt.pid is None:
            return
        metrics.duration.labels(name).observe(max(0.0, attempt.ended - attempt.started))
        # Short tasks are answered together, each with the times of all of them.
        since = max(attempt.started, self._busy_until.get(attempt.pid, 0.0))
        if attempt.ended > since:
            metrics.busy.inc(attempt.ended - since)
            if attempt.pid in self._workers:
                self._busy_until[attempt.pid] = attempt.ended

    def _name(self, event: Any) -> str:
        names: set[str] = self._metrics.names
        name = printable(event.task.name)  # what cannot be encoded would fail each scrape
        if name in names:
            return name
        if len(names) >= self._max_task_names:
            return OTHER
        names.add(name)
        return name

    # -- processes -----------------------------------------------------------------------------------------

    def on_process_started(self, event: events.ProcessStarted) -> None:
        self._workers[event.pid] = 0

    def on_process_sampled(self, event: events.ProcessSampled) -> None:
        if event.pid in self._workers:
            self._workers[event.pid] = event.sample.rss

    def on_process_exited(self, event: events.ProcessExited) -> None:
        self._workers.pop(event.pid, None)
        self._busy_until.pop(event.pid, None)
        code = event.exit_code
        reason = "unknown"
        if code is not None:
            from procbackground.errors import signal_name

            reason = signal_name(code) or "exit"
        if code != 0:  # a worker that left when it was asked to is not replaced, or was at its last task
            self._metrics.restarts.labels(reason).inc()

    def on_manager_closed(self, event: events.ManagerClosed) -> None:
        for each in (self._waiting, self._running, self._workers, self._busy_until):
            each.clear()

    # -- what a scrape reads, in another thread ------------------------------------------------------------

    def _queued(self) -> int:
        return len(self._waiting)

    def _oldest_queued_s(self) -> float:
        now = time.time()
        return max([0.0, *(now - since for since in list(self._waiting.values()))])

    def _busy_workers(self) -> int:
        return len(set(self._running.copy().values()))

    def _worker_count(self) -> int:
        return len(self._workers)

    def _memory_bytes(self) -> int:
        return sum(list(self._workers.values()))


class _Metrics:
    """The metrics of one registry."""

    _lock = threading.Lock()
    _known: ClassVar[weakref.WeakKeyDictionary[Any, _Metrics]] = weakref.WeakKeyDictionary()

    @classmethod
    def of(cls, client: Any, registry: Any) -> _Metrics:
        """Return the metrics of `registry`, which has each name only once."""
        with cls._lock:
            metrics = cls._known.get(registry)
            if metrics is None:
                metrics = cls._known[registry] = cls(client, registry)
            return metrics

    def __init__(self, client: Any, registry: Any) -> None:
        self.names: set[str] = set()
        observers: weakref.WeakSet[PrometheusObserver] = weakref.WeakSet()
        self.observers = observers

        def make(kind: Any, name: str, text: str, labels: tuple[str, ...] = ()) -> Any:
            return kind(f"procbackground_{name}", text, labels, registry=registry)

        self.submitted = make(client.Counter, "tasks_submitted", "Tasks that were accepted.")
        self.finished = make(client.Counter, "tasks_finished", "Tasks that have ended.", ("task", "outcome"))
        self.attempts = make(client.Counter, "attempts", "Attempts that have ended.", ("task", "reason"))
        self.duration = make(client.Histogram, "task_duration_seconds", "How long attempts ran.", ("task",))
        self.queue_wait = make(client.Histogram, "queue_wait_seconds", "How long tasks waited for a worker.", ("task",))
        self.restarts = make(client.Counter, "worker_restarts", "Workers that died or were stopped.", ("reason",))
        self.busy = make(client.Counter, "worker_busy_seconds", "Time that workers spent on attempts.")
        make(client.Gauge, "queued_tasks", "Tasks that wait for a worker.").set_function(
            lambda: sum(each._queued() for each in list(observers))
        )
        make(client.Gauge, "oldest_queued_seconds", "How long the oldest of them has waited.").set_function(
            lambda: max((each._oldest_queued_s() for each in list(observers)), default=0.0)
        )
        make(client.Gauge, "worker_memory_bytes", "Resident memory of all workers' process trees.").set_function(
            lambda: sum(each._memory_bytes() for each in list(observers))
        )
        workers = make(client.Gauge, "workers", "Worker processes.", ("state",))
        workers.labels("busy").set_function(lambda: sum(each._busy_workers() for each in list(observers)))
        workers.labels("idle").set_function(
            lambda: sum(max(0, each._worker_count() - each._busy_workers()) for each in list(observers))
        )
