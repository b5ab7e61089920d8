"""Traces and metrics for OpenTelemetry. The application brings the SDK and decides where they go.

A task's span is made where the task is given, so its parent is the caller's span. Its W3C trace context travels with
the task: spans that the task makes in the child are children of it, if the child's process has an SDK set up, for
example by the manager's `initializer`.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from procbackground._printable import printable
from procbackground.observers.base import Observer
from procbackground.observers.extras import import_extra

if TYPE_CHECKING:
    from procbackground import events

NAME = "procbackground"


class OpenTelemetryObserver(Observer):
    """A span for each task, with a child span for each attempt, and metrics. Needs the extra `opentelemetry`.

    The span has the task's name; its attributes are `procbackground.task` and `procbackground.attempts`, that of an
    attempt `procbackground.attempt`, `process.pid` and `procbackground.outcome`. Errors are recorded as exceptions.
    Stalls and retries are events, "stalled" and "retrying". A loop has one span for its life, in which failed
    iterations are events.

    The metrics are `procbackground.tasks.submitted`, `procbackground.tasks.finished` (with `task` and `outcome`),
    `procbackground.attempts` (with `task` and `reason`), `procbackground.task.duration` and
    `procbackground.queue.wait` (histograms, in seconds), `procbackground.tasks.running` and
    `procbackground.tasks.queued`.

    Args:
        tracer_provider, meter_provider: by default the global ones.
    """

    def __init__(self, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        self._trace = _otel("trace")
        metrics = _otel("metrics")
        self._tracer = self._trace.get_tracer(NAME, tracer_provider=tracer_provider)
        # Of tasks that were given; an entry goes with its handle, should the manager refuse the task.
        self._spans: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._attempts: dict[Any, Any] = {}  # spans of running attempts, by handle
        self._since: dict[Any, float] = {}  # by handle, of tasks that wait
        meter = metrics.get_meter(NAME, meter_provider=meter_provider)
        self._submitted = meter.create_counter(f"{NAME}.tasks.submitted", "{task}", "Tasks that were accepted")
        self._finished = meter.create_counter(f"{NAME}.tasks.finished", "{task}", "Tasks that have ended")
        self._ended = meter.create_counter(f"{NAME}.attempts", "{attempt}", "Attempts that have ended")
        self._duration = meter.create_histogram(f"{NAME}.task.duration", "s", "How long attempts ran")
        self._queue_wait = meter.create_histogram(f"{NAME}.queue.wait", "s", "How long tasks waited for a worker")
        self._running = meter.create_up_down_counter(f"{NAME}.tasks.running", "{task}", "Tasks that run")
        self._queued = meter.create_up_down_counter(f"{NAME}.tasks.queued", "{task}", "Tasks that wait")

    # -- in the threads that give tasks --------------------------------------------------------------------

    @property
    def _passengers(self) -> tuple[TraceContext, ...]:
        """What travels with every task, besides the manager's own context variables."""
        return (TraceContext(self),)

    def _begin(self, handle: Any, parent: Any) -> dict[str, str]:
        """Begin the span of a task; return the headers that carry it."""
        span = self._spans.get(handle)
        if span is None:  # else its row goes in another chunk of its map
            name = printable(handle.task.name)  # what cannot be encoded would fail an export
            span = self._tracer.start_span(name, context=parent, attributes={f"{NAME}.task": name})
            self._spans[handle] = span
        headers: dict[str, str] = {}
        _otel("propagate").inject(headers, context=self._trace.set_span_in_context(span, parent))
        return headers

    # -- events --------------------------------------------------------------------------------------------

    def on_task_added(self, event: events.TaskAdded) -> None:
        self._submitted.add(1)
        self._queued.add(1)
        self._since[event.handle] = event.time
        if event.handle not in self._spans:  # it could not be pickled, say
            self._begin(event.handle, None)

    def on_task_started(self, event: events.TaskStarted) -> None:
        self._end_waiting(event, is_started=True)
        self._end_attempt(event)  # of a loop, whose process was replaced
        span = self._spans.get(event.handle)
        if span is not None:
            self._attempts[event.handle] = self._tracer.start_span(
                f"{printable(event.task.name)} attempt",
                context=self._trace.set_span_in_context(span),
                start_time=_ns(event.time),
                attributes={f"{NAME}.attempt": event.attempt, "process.pid": event.pid},
            )
            self._running.add(1)

    def on_task_stalled(self, event: events.TaskStalled) -> None:
        span = self._attempts.get(event.handle) or self._spans.get(event.handle)
        if span is not None:
            facts = {f"{NAME}.silent_for": event.silent_for, "code.stacktrace": event.stack or ""}
            span.add_event("stalled", facts, timestamp=_ns(event.time))

    def on_task_retrying(self, event: events.TaskRetrying) -> None:
        span = self._spans.get(event.handle)
        if span is not None:
            facts: dict[str, Any] = {f"{NAME}.attempt": event.attempt, f"{NAME}.delay": event.delay}
            facts["exception.type"] = _kind(event.error)
            span.add_event("retrying", facts, timestamp=_ns(event.time))
        self._end_attempt(event, event.error)
        if event.task.type != "loop":
            self._queued.add(1)
            self._since[event.handle] = event.time + event.delay

    def on_task_succeeded(self, event: events.TaskSucceeded) -> None:
        self._end(event, "succeeded", None)

    def on_task_failed(self, event: events.TaskFailed) -> None:
        if event.handle.done():
            self._end(event, "failed", event.error)
            return
        span = self._attempts.get(event.handle)  # of a loop, which continues
        if span is not None:
            span.record_exception(event.error, timestamp=_ns(event.time))
        self._finished.add(1, {"task": printable(event.task.name), "outcome": "failed"})

    def on_task_cancelled(self, event: events.TaskCancelled) -> None:
        self._end(event, "cancelled", None)

    def on_manager_closed(self, event: events.ManagerClosed) -> None:
        for span in [*self._attempts.values(), *list(self._spans.values())]:
            span.end()
        self._attempts.clear()
        self._spans.clear()
        self._since.clear()

    # -- how that is done ----------------------------------------------------------------------------------

    def _end(self, event: Any, outcome: str, error: BaseException | None) -> None:
        self._end_waiting(event, is_started=False)
        self._end_attempt(event, error)
        self._finished.add(1, {"task": printable(event.task.name), "outcome": outcome})
        span = self._spans.pop(event.handle, None)
        if span is not None:
            span.set_attributes({f"{NAME}.attempts": len(event.handle.attempts), f"{NAME}.outcome": outcome})
            self._finish_span(span, event, error)

    def _end_waiting(self, event: Any, *, is_started: bool) -> None:
        since = self._since.pop(event.handle, None)
        if since is not None:
            self._queued.add(-1)
            if is_started:
                self._queue_wait.record(max(0.0, event.time - since), {"task": printable(event.task.name)})

    def _end_attempt(self, event: Any, error: BaseException | None = None) -> None:
        span = self._attempts.pop(event.handle, None)
        if span is None:
            return
        self._running.add(-1)
        for attempt in reversed(event.handle.attempts):
            if attempt.number == event.attempt and attempt.outcome is not None:
                span.set_attribute(f"{NAME}.outcome", str(attempt.outcome))
                self._ended.add(1, {"task": printable(event.task.name), "reason": str(attempt.outcome)})
                if attempt.ended is not None:
                    seconds = max(0.0, attempt.ended - attempt.started)
                    self._duration.record(seconds, {"task": printable(event.task.name)})
                break
        self._finish_span(span, event, error)

    def _finish_span(self, span: Any, event: Any, error: BaseException | None) -> None:
        if error is not None:
            span.record_exception(error, timestamp=_ns(event.time))
            span.set_status(_otel("trace").Status(_otel("trace").StatusCode.ERROR, _kind(error)))
        span.end(_ns(event.time))


class TraceContext:
    """Carries the trace context of a task to the child: `get` is called in the parent, `set` in the child.

    It is one of the manager's context variables, so `carry` knows nothing of traces.
    """

    name = "trace context of OpenTelemetry"
    home: tuple[str, str] = (__name__, "CHILD")

    def __init__(self, observer: OpenTelemetryObserver | None = None, parent: Any = None) -> None:
        self._observer = observer
        self._parent = parent

    def frozen(self) -> TraceContext:
        """Return one whose tasks have the present span as their parent."""
        return TraceContext(self._observer, _otel("context").get_current())

    def get_for(self, handle: Any) -> Mapping[str, str]:
        """Begin the span of the handle's task, and return the headers for the child."""
        assert self._observer is not None
        return self._observer._begin(handle, _otel("context").get_current() if self._parent is None else self._parent)

    def set(self, headers: Mapping[str, str]) -> None:
        """In the child: spans from now on belong to the task's."""
        try:
            extract, attach = _otel("propagate").extract, _otel("context").attach
        except ImportError:
            return  # another environment than the parent's
        attach(extract(headers))


CHILD = TraceContext()


def _otel(module: str) -> Any:
    return import_extra(f"opentelemetry.{module}", "opentelemetry", "OpenTelemetryObserver")


def _ns(seconds: float) -> int:
    return min(int(seconds * 1e9), time.time_ns())


def _kind(error: BaseException | None) -> str:
    return "" if error is None else type(error).__qualname__
