"""`OpenTelemetryObserver`: a span for each task and attempt, and spans of the child in the same trace."""

from __future__ import annotations

import pytest

from procbackground import Task, TaskType
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, plain

sdk_trace = pytest.importorskip("opentelemetry.sdk.trace")
trace = pytest.importorskip("opentelemetry.trace")

from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

from procbackground.observers import OpenTelemetryObserver  # noqa: E402


class Telemetry:
    """What is traced and measured, and the observer that does it."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.provider = sdk_trace.TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._meters = MeterProvider([self._reader])
        self.observer = OpenTelemetryObserver(self.provider, self._meters)

    def spans(self):
        return list(self._exporter.get_finished_spans())

    def metrics(self):
        """Return {(name, task, outcome or reason): number}."""
        found = {}
        for resource in self._reader.get_metrics_data().resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        facts = point.attributes
                        key = (metric.name, facts.get("task"), facts.get("outcome") or facts.get("reason"))
                        found[key] = getattr(point, "value", None) or getattr(point, "count", 0)
        return found

    def close(self):
        self._meters.shutdown()
        self.provider.shutdown()


@pytest.fixture
def telemetry():
    telemetry = Telemetry()
    yield telemetry
    telemetry.close()


def span_inside(number: int = 0) -> tuple[int, int]:
    """Make a span in the child, and return its trace and its parent."""
    tracer = sdk_trace.TracerProvider().get_tracer("child")
    with tracer.start_as_current_span("inside") as span:
        assert span.parent is not None
        return span.context.trace_id, span.parent.span_id


def is_traced() -> bool:
    return trace.get_current_span().get_span_context().is_valid


def ids(span):
    return span.context.trace_id, span.context.span_id


def test_a_task_is_a_span_below_the_callers_and_its_attempt_one_below(make_manager, telemetry):
    manager = make_manager(observer=telemetry.observer)
    with telemetry.provider.get_tracer("caller").start_as_current_span("caller") as caller:
        handle = manager.run_task(Task(plain.square, args=(3,), name="count"))
    assert handle.result(timeout=PATIENCE_S) == 9
    manager.close()
    spans = {span.name: span for span in telemetry.spans()}
    assert set(spans) == {"caller", "count", "count attempt"}
    task, attempt = spans["count"], spans["count attempt"]
    assert task.parent.span_id == caller.context.span_id
    assert attempt.parent.span_id == task.context.span_id
    assert {span.context.trace_id for span in spans.values()} == {caller.context.trace_id}
    assert task.start_time <= attempt.start_time <= attempt.end_time <= task.end_time
    assert attempt.attributes["process.pid"] == handle.attempts[0].pid
    assert attempt.attributes["procbackground.outcome"] == "succeeded"


@pytest.mark.parametrize("how", ["run", "task", "retry", "map 1", "map 4", "map"])
def test_spans_made_in_the_child_join_the_trace(make_manager, telemetry, how):
    manager = make_manager(observer=telemetry.observer)
    with telemetry.provider.get_tracer("caller").start_as_current_span("caller") as caller:
        if how == "run":
            made = [manager.run(span_inside).result(timeout=PATIENCE_S)]
        elif how == "task":
            made = [manager.run_task(Task(span_inside)).result(timeout=PATIENCE_S)]
        elif how == "retry":
            made = [manager.options(retry=2).run(span_inside).result(timeout=PATIENCE_S)]
        else:
            chunksize = int(how.split()[1]) if " " in how else None
            made = list(manager.map(span_inside, range(12), chunksize=chunksize))
    manager.close()
    tasks = [ids(span) for span in telemetry.spans() if span.name == "span_inside"]
    assert sorted(made) == sorted(tasks)
    assert {trace_id for trace_id, _ in made} == {caller.context.trace_id}


def test_a_retry_is_an_event_and_a_failure_an_exception(make_manager, telemetry):
    manager = make_manager(observer=telemetry.observer)
    manager.run_task(Task(failing.fail, args=("no ink",), retry=2))
    manager.close()
    spans = telemetry.spans()
    (task,) = [span for span in spans if span.name == "fail"]
    attempts = [span for span in spans if span.name == "fail attempt"]
    assert [event.name for event in task.events] == ["retrying", "exception"]
    assert len(attempts) == 2
    assert all(span.status.status_code is trace.StatusCode.ERROR for span in (task, *attempts))
    assert task.attributes["procbackground.attempts"] == 2
    assert "no ink" in task.events[-1].attributes["exception.message"]


def test_a_stall_is_an_event_with_the_stack(make_manager, telemetry, gate, recorder):
    manager = make_manager(observer=[telemetry.observer, recorder], stalled_threshold=0.1)
    manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    (stalled,) = recorder.wait_for("task_stalled")
    gate.release(pid)
    manager.close()
    (attempt,) = [span for span in telemetry.spans() if span.name.endswith("attempt")]
    assert attempt.events[0].name == "stalled"
    assert attempt.events[0].attributes["code.stacktrace"] == stalled.stack
    assert "File" in stalled.stack


def test_what_could_not_be_sent_and_what_is_cancelled_have_spans_that_end(make_manager, telemetry, gate):
    from tests.support.tasks.pickling import Refuses

    manager = make_manager(max_workers=1, observer=telemetry.observer, grace=0.5)
    manager.run(plain.echo, Refuses())
    running = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    running.cancel()
    loop = manager.run_task(Task(plain.nothing, type=TaskType.LOOP, interval=0.01))
    wait_until(loop.running, "the loop runs")
    manager.close()
    names = [span.name for span in telemetry.spans()]
    assert sorted(names) == sorted(["echo", "stop_at_gate", "stop_at_gate attempt", "nothing", "nothing attempt"])


def test_metrics_have_their_own_names_and_the_counts(make_manager, telemetry):
    manager = make_manager(observer=telemetry.observer)
    list(manager.map(plain.square, range(50)))
    manager.run_task(Task(failing.fail, retry=3))
    manager.close()
    metrics = telemetry.metrics()
    assert all(name.startswith("procbackground.") for name, _, _ in metrics)
    assert metrics["procbackground.tasks.submitted", None, None] == 51
    assert metrics["procbackground.tasks.finished", "square", "succeeded"] == 50
    assert metrics["procbackground.tasks.finished", "fail", "failed"] == 1
    assert metrics["procbackground.attempts", "fail", "raised"] == 3
    assert metrics["procbackground.task.duration", "fail", None] == 3
    assert metrics["procbackground.queue.wait", "square", None] == 50
    assert metrics["procbackground.tasks.running", None, None] == 0
    assert metrics["procbackground.tasks.queued", None, None] == 0


def test_a_manager_without_the_observer_sends_no_context(manager):
    assert manager.run(is_traced).result(timeout=PATIENCE_S) is False


def test_it_works_beside_context_variables(make_manager, telemetry):
    from tests.test_context_variables import request_id

    manager = make_manager(observer=telemetry.observer, context=[request_id])
    token = request_id.set("request 5")
    try:
        assert manager.run(request_id_and_trace).result(timeout=PATIENCE_S) == ("request 5", True)
    finally:
        request_id.reset(token)


def request_id_and_trace() -> tuple[str, bool]:
    from tests.test_context_variables import request_id

    return request_id.get(), is_traced()
