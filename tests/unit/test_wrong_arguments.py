"""What a public call cannot take is refused at once, by an error that names the call and says what to write."""

from __future__ import annotations

import _thread
import math
import re
import signal

import numpy
import pytest
import tenacity

from procbackground import Manager, Retry, Task, current
from tests.support.gate import PATIENCE_S

NOT_DURATIONS = ["3", [3], True, {}, b"3"]


@pytest.fixture
def manager():
    with Manager(max_workers=1) as manager:  # it starts nothing, as it gets no task
        yield manager


@pytest.mark.parametrize("priority", ["3", None, math.nan, {}, [1]])
def test_a_priority_that_cannot_be_sorted_is_refused_before_the_queue_has_it(priority):
    with pytest.raises(TypeError, match="priority takes a number, such as priority=10, not "):
        Task(print, priority=priority)


@pytest.mark.parametrize("priority", [3, -1, 2.5, math.inf, True])
def test_a_number_is_a_priority(priority):
    assert Task(print, priority=priority).priority == priority


@pytest.mark.parametrize("field", ["timeout", "deadline", "stalled_threshold", "interval"])
@pytest.mark.parametrize("seconds", NOT_DURATIONS)
def test_a_duration_that_is_no_number_is_refused(field, seconds):
    with pytest.raises(TypeError, match=f"{field} takes a number of seconds, such as {field}=30, not "):
        Task(print, **{field: seconds})


@pytest.mark.parametrize("field", ["memory_limit", "memory"])
@pytest.mark.parametrize(
    ("size", "error"),
    [([3], TypeError), (True, TypeError), (-1, ValueError), (math.nan, ValueError), ("3X", ValueError)],
)
def test_a_size_that_is_none_is_refused_by_the_name_of_the_field(field, size, error):
    with pytest.raises(error, match=f"^{field}: "):
        Task(print, **{field: size})
    if field == "memory_limit":
        with pytest.raises(error, match=f"^{field}: "):
            Manager(memory_limit=size)


def test_no_limit_of_memory_is_a_limit_as_no_limit_of_time():
    assert Task(print, memory_limit=math.inf).memory_limit == math.inf
    with pytest.raises(ValueError, match=r"^memory: "):  # it could never begin
        Task(print, memory=math.inf)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_workers": 1.5}, TypeError, "max_workers takes an int, such as max_workers=4, not 1.5"),
        ({"max_workers": math.nan}, TypeError, "max_workers takes an int"),
        ({"max_workers": "3"}, TypeError, "max_workers takes an int"),
        ({"initializer": print, "initargs": "ab"}, TypeError, "for a single one write initargs=('ab',)"),
        ({"initializer": print, "initargs": 3}, TypeError, "initargs takes a tuple of arguments, not 3"),
        ({"preload": "json"}, TypeError, "write preload=('json',)"),
        ({"preload": 3}, TypeError, "preload takes the names of modules"),
        ({"preload": [3]}, TypeError, "preload takes the names of modules, such as preload=('numpy',), not 3"),
        ({"journal": 3}, TypeError, "journal takes the path of a file, such as journal='batch.sqlite', not 3"),
        ({"name": 3}, TypeError, "name takes a text, such as name='crunch', not 3"),
        ({"min_free_memory": True}, TypeError, "min_free_memory: a size is a number of bytes"),
        ({"max_pending_bytes": -1}, ValueError, "max_pending_bytes: a size must be 1 byte or more"),
        ({"grace": True}, TypeError, "grace takes a number of seconds"),
        ({"engine": "tls://host:8786"}, TypeError, "engine takes an engine, such as engine=DaskEngine("),
        ({"max_workers": 2, "engine": object()}, TypeError, "engine takes an engine"),
        ({"cwd": 3}, TypeError, "cwd takes the path of a directory, not 3"),
        ({"cpu_affinity": 1}, TypeError, "such as cpu_affinity=[0, 1], not 1"),
        ({"cpu_affinity": "01"}, TypeError, "such as cpu_affinity=[0, 1], not '01'"),
        ({"context": 3}, TypeError, "context takes a list of context variables"),
    ],
)
def test_a_manager_refuses_what_it_cannot_work_with(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Manager(**options)


def test_progress_says_what_it_takes(manager):
    error = manager.run(report_progress, [3]).exception(timeout=PATIENCE_S)
    assert str(error) == "progress takes numbers, such as progress(3, 10), not [3]"


def report_progress(done):
    current().progress(done)


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(TypeError, match=re.escape("name takes a text, such as name='parse', not [3]")):
        Task(print, name=[3])


@pytest.mark.parametrize("meta", [3, "order 17", [("order", 17)]])
def test_meta_that_is_no_dict_is_refused(meta):
    with pytest.raises(TypeError, match=re.escape("meta takes a dict, such as meta={'order': 17}, not ")):
        Task(print, meta=meta)


@pytest.mark.parametrize("flag", ["no", "", None, [], 2])
def test_a_flag_that_is_neither_true_nor_false_is_refused(flag):
    with pytest.raises(TypeError, match="isolate takes True or False, not "):
        Task(print, isolate=flag)
    for name in ("progress", "inline", "status"):
        with pytest.raises(TypeError, match=f"{name} takes True or False, not "):
            Manager(**{name: flag})


@pytest.mark.parametrize("flag", [True, False, 1, 0, numpy.True_])
def test_what_equals_true_or_false_is_a_flag(flag):
    assert Task(print, isolate=flag).isolate == flag


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": 3}, "stop takes a tenacity strategy or a callable, such as stop_after_attempt(3), not 3"),
        ({"stop": tenacity.stop_after_attempt}, "stop takes a tenacity strategy or a callable, such as stop_after_"),
        ({"wait": tenacity.wait_fixed}, "such as wait_fixed(1), not <class"),
        ({"retry": ValueError}, "such as retry_if_exception_type(ConnectionError), not <class 'ValueError'>"),
        ({"retry": (KeyError, ValueError)}, "such as retry_if_exception_type(ConnectionError), not (<class"),
    ],
)
def test_a_class_is_no_strategy(options, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        Retry(**options)


def test_green_threads_are_refused_and_said_how_to_do_without(monkeypatch):
    def start_new_thread() -> None: ...

    start_new_thread.__module__ = "gevent.thread"
    monkeypatch.setattr(_thread, "start_new_thread", start_new_thread)
    with pytest.raises(RuntimeError, match=re.escape("gevent.thread has replaced them (monkey.patch_all())")):
        Manager()
    with Manager(inline=True) as manager:
        assert manager.run(pow, 2, 3).result() == 8


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.options(timout=3), TypeError, "options() takes no 'timout'; the fields of a Task"),
        (lambda m: m.options(fn=print), TypeError, "options() takes the fields of a Task but fn"),
        (lambda m: m.run(3), TypeError, "run and submit take a callable first, not int"),
        (lambda m: m.submit(Task(print)), TypeError, "not Task; for a Task there is run_task()"),
        (lambda m: m.run_task(print), TypeError, "for a function there are run() and map()"),
        (lambda m: list(m.stream([print])), TypeError, "run_task and stream take Task(...), not "),
        (lambda m: m.stream(print), TypeError, "stream takes an iterable of tasks, not builtin_function_or_method"),
        (lambda m: m.map(print, 3), TypeError, "map takes iterables after the function, such as [1, 2], not int"),
        (lambda m: m.map(print, [1], timeout="3"), TypeError, "timeout takes a number of seconds"),
        (lambda m: m.map(print, [1], timeout=math.nan), ValueError, "timeout must be 0 or more seconds, not nan"),
        (lambda m: m.map(print, [1], chunksize="3"), TypeError, "chunksize takes an int, such as chunksize=4, not '3'"),
        (lambda m: m.map(print, [1], chunksize=math.inf), TypeError, "chunksize takes an int"),
        (lambda m: m.wait("3"), TypeError, "timeout takes a number of seconds"),
        (lambda m: m.close(True), TypeError, "timeout takes a number of seconds"),
        (lambda m: m.map(print, [1], return_exceptions="no"), TypeError, "return_exceptions takes True or False"),
        (lambda m: m.map(print, [1], progress="no"), TypeError, "progress takes True or False, not 'no'"),
        (lambda m: m.stream([], ordered="no"), TypeError, "ordered takes True or False, not 'no'"),
        (lambda m: m.options(isolate="no"), TypeError, "isolate takes True or False, not 'no'"),
        (lambda m: m.closing_on().__enter__(), ValueError, "such as closing_on(signal.SIGTERM, signal.SIGINT)"),
        (lambda m: m.closing_on(True).__enter__(), TypeError, "such as signal.SIGTERM, not True"),
        (lambda m: m.closing_on("SIGTERM").__enter__(), TypeError, "such as signal.SIGTERM, not 'SIGTERM'"),
        (lambda m: m.closing_on(signal.SIGKILL).__enter__(), ValueError, "no program can handle SIGKILL"),
        (lambda m: m.closing_on(timeout="3").__enter__(), TypeError, "timeout takes a number of seconds"),
        (lambda m: current().wait("3"), TypeError, "wait takes a number of seconds, such as wait(0.5), not '3'"),
    ],
)
def test_a_call_says_what_it_takes(manager, call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(manager)
