"""`LoggingObserver` and `LoguruObserver`: few lines, from the task's module, and a summary with true counts."""

from __future__ import annotations

import logging
import re

import pytest

from procbackground import Task
from procbackground.observers import LoggingObserver, LoguruObserver
from procbackground.observers.lines import MANAGER, source_of
from tests.support.facts import wait_until
from tests.support.gate import stop_at_gate
from tests.support.tasks import failing, plain


class Lines:
    """The lines of a log: (level, text, module, function, task, attempt, error) of each."""

    def __init__(self):
        self.rows = []

    def texts(self, level=None):
        return [row[1] for row in self.rows if level in (None, row[0])]


@pytest.fixture(params=["logging", "loguru"])
def log(request):
    """An observer, and the lines that it writes at INFO and above."""
    lines = Lines()
    if request.param == "logging":
        handler = logging.Handler(logging.INFO)

        def emit(record):
            error = record.exc_info[1] if record.exc_info else None
            source = record.pathname, record.funcName
            lines.rows.append((record.levelname, record.getMessage(), source, record.task, record.attempt, error))

        handler.emit = emit
        logger = logging.getLogger("tests.observers")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        yield LoggingObserver(logger), lines
        logger.removeHandler(handler)
    else:
        from loguru import logger

        def write(message):
            record = message.record
            extra, error = record["extra"], record["exception"]
            lines.rows.append(
                (
                    record["level"].name, record["message"], (record["file"].path, record["function"]),
                    extra.get("task"), extra.get("attempt"), None if error is None else error.value,
                )
            )  # fmt: skip

        sink = logger.add(write, level="INFO")
        yield LoguruObserver(), lines
        logger.remove(sink)


def test_successes_write_one_line_in_all(make_manager, log):
    observer, lines = log
    manager = make_manager(observer=observer)
    list(manager.map(plain.square, range(500)))
    manager.close()
    wait_until(lines.texts, "the summary is written")  # 1,500 lines; `close` waits a second for it
    (text,) = lines.texts()
    assert text.startswith("manager closed in")
    assert "500 succeeded, 0 failed, 0 cancelled" in text


def test_the_summary_counts_what_happened(make_manager, log):
    observer, lines = log
    manager = make_manager(max_workers=1, observer=observer)
    for number in range(4):
        manager.run(plain.square, number)
    for _ in range(3):
        manager.run_task(Task(failing.fail, retry=2))
    manager.wait()
    manager.close()
    wait_until(lambda: "closed" in (lines.texts() or [""])[-1], "the summary is written")
    assert lines.rows[-1][0] == "WARNING"
    assert re.search(r"4 succeeded, 3 failed, 0 cancelled, 3 retried", lines.texts()[-1])
    assert len(lines.texts("ERROR")) == 3
    assert len(lines.texts("WARNING")) == 3 + 1


def test_a_failure_has_its_error_and_the_tasks_function_as_source(make_manager, log):
    observer, lines = log
    manager = make_manager(observer=observer)
    manager.run_task(Task(failing.fail, args=("100 % {wrong}",), name="print {0} %s"))
    manager.close()
    level, text, (path, function), task, attempt, error = lines.rows[0]
    assert (level, task, attempt) == ("ERROR", "print {0} %s", 1)
    assert "print {0} %s" in text
    assert "100 % {wrong}" in text
    assert isinstance(error, failing.Flaky)
    assert path.endswith("failing.py")
    assert function == "fail"


def test_a_stall_is_told_with_its_stack(make_manager, log, gate, recorder):
    observer, lines = log
    manager = make_manager(observer=[observer, recorder], stalled_threshold=0.1)
    handle = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    (stalled,) = recorder.wait_for("task_stalled")
    gate.release(pid)
    handle.result(timeout=30)
    manager.close()
    (text,) = lines.texts("WARNING")
    assert "stop_at_gate" in text.splitlines()[0]
    assert text.endswith(stalled.stack.rstrip())
    assert "File" in stalled.stack


def test_the_source_of_what_is_no_plain_function():
    from functools import partial

    assert source_of(Task(partial(partial(failing.fail), "x"))).function == "fail"
    assert source_of(Task(pow)).module == "builtins"
    assert source_of(Task(Lines().texts)).function == "Lines.texts"
    assert source_of(Task(lambda: None)).line > 0
    assert source_of(None) is MANAGER
