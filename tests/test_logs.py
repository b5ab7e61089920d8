"""Log records of children: they reach the parent's handlers whole, in order, once, and before their task is done."""

from __future__ import annotations

import copy
import importlib
import logging
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from procbackground import Manager, Task, TaskTimeoutError, TaskType, WorkerDiedError
from procbackground._testing import View
from procbackground.logs import TaskFilter
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, Gate
from tests.support.tasks import logs
from tests.support.tasks.logs import NAME

METHODS = ["forkserver", "spawn", "fork"]
MakeManager = Callable[..., Manager]


class BlockingHandler(logging.Handler):
    """Blocks at its first record until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = threading.Event()
        self.has_one = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.has_one.set()
        assert self.may_go.wait(PATIENCE_S)


class SlowHandler(logging.Handler):
    """Takes its time for each record, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        time.sleep(0.001)
        self.seen.append(record.getMessage())


@pytest.fixture
def slow_handler():
    handler = SlowHandler()
    logger = logging.getLogger(NAME)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


@pytest.fixture
def blocking_handler():
    handler = BlockingHandler()
    logging.getLogger(NAME).addHandler(handler)
    yield handler
    handler.may_go.set()
    logging.getLogger(NAME).removeHandler(handler)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == NAME]


@pytest.mark.parametrize("method", METHODS)
def test_all_records_are_there_when_the_result_is(make_manager: MakeManager, method: str, caplog):
    caplog.set_level(logging.INFO)
    manager = make_manager(mp_context=multiprocessing.get_context(method))
    for turn in range(20):
        caplog.clear()
        assert manager.run(logs.log, 5, f"turn {turn}").result(timeout=PATIENCE_S) == 5
        assert messages(caplog) == [f"turn {turn} {number}" for number in range(5)]


def test_all_records_are_there_when_a_task_fails_dies_or_is_stopped(manager: Manager, caplog):
    with pytest.raises(ValueError, match="alas"):
        manager.run(logs.log_and_fail, "alas").result(timeout=PATIENCE_S)
    assert messages(caplog) == ["alas"]
    with pytest.raises(WorkerDiedError) as died:
        manager.run(logs.log_and_die, "last words").result(timeout=PATIENCE_S)
    assert messages(caplog) == ["alas", "last words"]
    assert died.value.log_lines == (f"WARNING {NAME}: last words",)
    assert "last words" in str(died.value)


def test_records_of_retries_have_their_attempt(make_manager: MakeManager, caplog):
    manager = make_manager(retry=3)
    handle = manager.run(logs.log_and_fail, "again")
    assert isinstance(handle.exception(timeout=PATIENCE_S), ValueError)
    records = [record for record in caplog.records if record.name == NAME]
    assert [record.attempt for record in records] == [1, 2, 3]
    assert [record.pid for record in records] == [attempt.pid for attempt in handle.attempts]
    assert {record.task for record in records} == {"log_and_fail"}
    assert len({record.task_id for record in records}) == 1


def test_records_of_a_map_are_there_with_its_results(manager: Manager, caplog):
    caplog.set_level(logging.INFO)
    assert list(manager.map(logs.log, [1] * 50)) == [1] * 50
    assert len(messages(caplog)) == 50


def test_records_of_short_tasks_are_there_with_each_result(make_manager: MakeManager, slow_handler):
    """The next one logs before the end of the one before is dealt with."""
    manager = make_manager(max_workers=1)
    handles = [manager.run(logs.log, 1, f"task {number}") for number in range(300)]
    for number, handle in enumerate(handles):
        handle.result(timeout=PATIENCE_S)
        assert f"task {number} 0" in slow_handler.seen


def test_no_row_is_lost_where_the_next_chunk_logs_before_an_answer_is_dealt_with(
    make_manager: MakeManager, gate: Gate, blocking_handler
):
    manager = make_manager(max_workers=1)
    view = View(manager)
    quick, count = 600, 604  # so many that the worker is sent several chunks at once
    rows = range(count)
    found = manager.map(logs.log_and_stop_at_row, [gate.address] * count, rows, [quick] * count, chunksize=2)
    assert gate.wait_for_label() == "before its answer"
    pid = view.worker_pids[0]
    wait_until(blocking_handler.has_one.is_set, "a record is at the handler")
    if view.in_flight(pid) < 2:
        pytest.skip("on this busy machine the rows were not quick")
    supervisor = view.hold_supervisor(when=lambda: True)
    manager.stats()
    assert supervisor.is_held.wait(PATIENCE_S)
    gate.release(pid)
    assert gate.wait_for_label() == "next chunk"
    supervisor.release()
    blocking_handler.may_go.set()
    assert list(found) == list(rows)


def test_records_of_a_loop_are_there_when_it_has_ended(manager: Manager, caplog):
    caplog.set_level(logging.INFO)
    handle = manager.run_task(Task(logs.log, (3, "of a loop"), type=TaskType.LOOP, interval=0.001))
    end = time.monotonic() + PATIENCE_S
    while len(messages(caplog)) < 6 and time.monotonic() < end:
        time.sleep(0.001)
    assert manager.cancel(timeout=PATIENCE_S)
    assert handle.cancelled()
    count = len(messages(caplog))
    assert count % 3 == 0
    manager.close(timeout=PATIENCE_S)
    assert len(messages(caplog)) == count


def test_a_record_keeps_what_it_has(manager: Manager, caplog):
    manager.run(logs.log_everything).result(timeout=PATIENCE_S)
    first, second = [record for record in caplog.records if record.name == NAME]
    assert first.getMessage() == "changing: ['before']"
    assert (first.user, first.parts, first.attempt) == (7, {1, 2}, "mine")
    assert "could not be loaded" in first.broken
    assert "TextIOWrapper" in first.lock
    assert first.stack_info.startswith("Stack (most recent call last)")
    assert first.pathname == logs.__file__
    assert (first.funcName, first.levelname, first.process) == ("log_everything", "WARNING", first.pid)
    kind, error, _ = second.exc_info
    assert (kind, error.args) == (KeyError, ("inner",))
    text = logging.Formatter("%(message)s").format(second)
    assert text.startswith("caught\nTraceback")
    assert text.endswith("KeyError: 'inner'")
    assert text.count("Traceback") == 1


def test_one_format_serves_records_of_tasks_and_others(manager: Manager):
    shown: list[str] = []

    class Shows(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(self.format(record))

    handler = Shows()
    handler.addFilter(TaskFilter())
    handler.setFormatter(logging.Formatter("[%(task)s #%(task_id)d.%(attempt)d] %(message)s"))
    logging.getLogger(NAME).addHandler(handler)
    try:
        manager.run(logs.log_and_fail, "child").exception(timeout=PATIENCE_S)
        logging.getLogger(NAME).warning("parent")
    finally:
        logging.getLogger(NAME).removeHandler(handler)
    assert shown == ["[log_and_fail #1.1] child", "[ #0.0] parent"]


@pytest.mark.parametrize("method", METHODS)
def test_levels_are_the_parents(make_manager: MakeManager, method: str, caplog):
    caplog.set_level(logging.ERROR)
    caplog.set_level(logging.INFO, logger=NAME)
    manager = make_manager(mp_context=multiprocessing.get_context(method))
    assert manager.run(logs.level_of, "some.other").result(timeout=PATIENCE_S) == (False, False, False)
    assert manager.run(logs.level_of, NAME).result(timeout=PATIENCE_S) == (False, True, True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("default")
def test_warnings_are_captured_where_the_parent_captures_its_own(make_manager: MakeManager, method: str, caplog, capfd):
    context = multiprocessing.get_context(method)
    logging.captureWarnings(True)
    try:
        captures = make_manager(mp_context=context)
        captures.run(logs.warn, "captured").result(timeout=PATIENCE_S)
    finally:
        logging.captureWarnings(False)
    make_manager(mp_context=context).run(logs.warn, "printed").result(timeout=PATIENCE_S)
    # Of the first manager only; Python 3.12 and later warn here of a fork, too.
    captured = [each for each in caplog.records if each.name == "py.warnings"]
    (record,) = (each for each in captured if "UserWarning" in each.getMessage())
    assert "UserWarning: captured" in record.getMessage()
    assert (record.task, record.levelname) == ("warn", "WARNING")
    assert "captured" not in capfd.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_a_record_comes_once_whatever_handlers_a_module_adds(
    make_manager: MakeManager, method: str, caplog, capfd, tmp_path
):
    manager = make_manager(mp_context=multiprocessing.get_context(method))
    manager.run(logs.add_handlers_and_log, str(tmp_path / "own.log")).result(timeout=PATIENCE_S)
    assert messages(caplog) == ["once"]
    assert "once" not in capfd.readouterr().err
    assert (tmp_path / "own.log").read_text() == "once\n"


LATE = """
import logging, sys
logger = logging.getLogger("late")
logger.addHandler(logging.StreamHandler(sys.stderr))
def say():
    logger.warning("once")
"""


def test_a_record_comes_once_though_a_module_adds_handlers_after_the_first_worker(
    make_manager: MakeManager, caplog, capfd, tmp_path, monkeypatch
):
    (tmp_path / "late_handlers.py").write_text(LATE)
    monkeypatch.syspath_prepend(str(tmp_path))
    manager = make_manager()
    manager.run(logs.level_of, NAME).result(timeout=PATIENCE_S)
    say = importlib.import_module("late_handlers").say
    logging.getLogger("late").handlers.clear()  # here
    for count in (1, 2, 3):
        manager.run_task(Task(say, isolate=True)).result(timeout=PATIENCE_S)
        assert [record.name for record in caplog.records] == ["late"] * count
    assert "once" not in capfd.readouterr().err


ODD = """
import logging, time
from procbackground import Manager, Task

class Endless(logging.NullHandler):
    def __del__(self):
        while __name__ != "__main__":
            time.sleep(1)

class Loud(logging.Logger):
    pass

logging.basicConfig(format="%(name)s %(message)s", handlers=[logging.StreamHandler()])
logging.getLogger("odd").addHandler(Endless())
if {has_own_class}:
    logging.setLoggerClass(Loud)
    logging.getLogger("loud")

def say():
    logging.getLogger("odd").warning("once")

if __name__ == "__main__":
    with Manager(max_workers=1, start_timeout=10) as manager:
        for _ in range(2):
            manager.run_task(Task(say, isolate=True)).result(timeout=30)
"""


@pytest.mark.parametrize("has_own_class", [False, True])
def test_odd_handlers_and_loggers_of_the_main_module_keep_no_worker_from_starting(tmp_path, has_own_class):
    (tmp_path / "odd.py").write_text(ODD.replace("{has_own_class}", str(has_own_class)))
    done = subprocess.run(
        [sys.executable, "odd.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "odd once\n" * 2)


MAIN = """
import logging, sys
from loguru import logger as loguru_logger
from procbackground import Manager

logger = logging.getLogger(__name__)

def say():
    logger.debug("debug")
    logging.getLogger(f"{__name__}.part").debug("part")
    logging.getLogger(f"{__name__}.muted").warning("muted")
    loguru_logger.info("loguru")

if __name__ == "__main__":
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s %(task)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logging.getLogger("__main__.muted").setLevel(logging.ERROR)
    loguru_logger.remove()
    loguru_logger.add(sys.stderr, filter="__main__", format="{name} {extra[task]} {message}")
    with Manager(max_workers=1, mp_context=sys.argv[1]) as manager:
        manager.run(say).result(timeout=30)
        loguru_logger.disable("__main__")
        logger.setLevel(logging.ERROR)
        manager.run(say).result(timeout=30)
    with Manager(max_workers=1, mp_context=sys.argv[1]) as manager:
        manager.run(say).result(timeout=30)
"""


@pytest.mark.parametrize("method", METHODS)
def test_loggers_of_the_main_module_are_those_of_the_parent(tmp_path, method: str):
    (tmp_path / "script.py").write_text(MAIN)
    done = subprocess.run(
        [sys.executable, "script.py", method], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    lines = ["__main__ say debug", "__main__.part say part", "__main__ say loguru"]
    assert (done.returncode, done.stderr.splitlines()) == (0, lines)


def test_a_fork_made_by_the_task_says_it_on_stderr(make_manager: MakeManager, caplog, capfd):
    manager = make_manager(mp_context=multiprocessing.get_context("spawn"))  # whose workers have the test's stderr
    manager.run(logs.log_in_a_fork).result(timeout=PATIENCE_S)
    assert messages(caplog) == ["of the worker"]
    assert "of a fork" in capfd.readouterr().err


def test_loguru_records_keep_what_they_have(make_manager: MakeManager):
    from loguru import logger

    seen: list[Any] = []
    texts: list[str] = []
    sink = logger.add(lambda message: (seen.append(message.record), texts.append(str(message))), level="INFO")
    try:
        manager = make_manager()
        manager.run(logs.loguru_log, "{curly} <red>text</red>").result(timeout=PATIENCE_S)
    finally:
        logger.remove(sink)
    first, second, third = seen
    assert first["message"] == "{curly} <red>text</red>"
    assert {"user": 7, "parts": {1, 2}, "task": "mine", "task_id": 1, "attempt": 1}.items() <= first["extra"].items()
    assert (first["function"], first["module"], first["file"].path) == ("loguru_log", "logs", logs.__file__)
    assert first["process"].id == first["extra"]["pid"]
    assert (second["exception"].type, second["exception"].value.args) == (KeyError, ("inner",))
    assert "in loguru_log" in texts[1]
    assert (third["level"].name, third["level"].no) == ("LOUD", 35)


@pytest.mark.parametrize("is_late", [False, True])
def test_modules_that_loguru_was_told_to_disable_are_muted_and_no_others(make_manager: MakeManager, is_late: bool):
    from loguru import logger

    seen: list[str] = []
    sink = logger.add(lambda message: seen.append(message.record["message"]), level="INFO")
    manager = make_manager()
    try:
        if is_late:
            manager.run(pow, 2, 5).result(timeout=PATIENCE_S)  # the worker was started before
        logger.disable(logs.__name__)
        logger.disable("procbackground")  # which is not where the records come from
        assert manager.run(logs.loguru_log, "muted").exception(timeout=PATIENCE_S) is None
        logger.enable(logs.__name__)
        assert make_manager().run(logs.loguru_log, "shown").exception(timeout=PATIENCE_S) is None
        logger.disable(logs.__name__.rpartition(".")[0])
        logger.enable(logs.__name__)
        assert make_manager().run(logs.loguru_log, "shown again").exception(timeout=PATIENCE_S) is None
    finally:
        logger.enable("tests")
        logger.enable("procbackground")
        logger.remove(sink)
    assert seen == ["shown", "caught", "loud", "shown again", "caught", "loud"]


def log_by(logger: Any, text: str) -> None:
    logger.info(text)


def picklable_sink(message: Any) -> None:
    sunk.append(message.record)


def print_message(message: Any) -> None:
    print(message.record["message"])


sunk: list[Any] = []


@pytest.mark.parametrize("is_picklable", [False, True])
@pytest.mark.parametrize("how", ["in a function sent by value", "bound and an argument", "patched and an argument"])
def test_a_logger_of_loguru_that_is_sent_leaves_its_sinks_behind(make_manager: MakeManager, how: str, is_picklable):
    from loguru import logger

    sunk.clear()
    sink = logger.add(picklable_sink if is_picklable else lambda message: sunk.append(message.record), level="INFO")
    try:
        manager = make_manager()
        if how == "in a function sent by value":
            handle = manager.run(lambda: logger.info("text"))
        elif how == "bound and an argument":
            handle = manager.run(log_by, logger.bind(user=7), "text")
        else:
            handle = manager.run(log_by, logger.patch(lambda record: record["extra"].update(user=7)), "text")
        handle.result(timeout=PATIENCE_S)
    finally:
        logger.remove(sink)
    (record,) = sunk
    extra = {"task_id": 1, "attempt": 1, "pid": handle.attempts[0].pid}
    assert record["message"] == "text"
    assert (extra if how.startswith("in") else extra | {"user": 7}).items() <= record["extra"].items()


def test_a_logger_of_loguru_with_sinks_of_its_own_keeps_them(make_manager: MakeManager):
    from loguru import logger

    logger.remove()  # what cannot be copied
    apart = copy.deepcopy(logger)
    apart.add(print_message)
    handle = make_manager(output="capture").run(log_by, apart, "text")
    handle.result(timeout=PATIENCE_S)
    assert handle.output == "text\n"


def test_a_call_that_loguru_mutes_makes_no_record_in_the_child(make_manager: MakeManager):
    from loguru import logger

    logger.disable(logs.__name__)
    try:
        assert make_manager().run(logs.loguru_formats).result(timeout=PATIENCE_S) == 0
    finally:
        logger.enable(logs.__name__)
    assert make_manager().run(logs.loguru_formats).result(timeout=PATIENCE_S) == 1


def test_a_handler_that_blocks_does_not_keep_a_close_from_its_bound(
    make_manager: MakeManager, blocking_handler: BlockingHandler
):
    manager = make_manager()
    handle = manager.run(logs.log_and_fail, "stuck")
    assert blocking_handler.has_one.wait(PATIENCE_S)
    other = manager.run(pow, 2, 5)
    assert other.result(timeout=PATIENCE_S) == 32  # it logged nothing, and does not wait
    assert not handle.done()
    report = manager.close(timeout=0.5)
    assert isinstance(handle.exception(timeout=0), ValueError)
    assert report.seconds < 3
    assert report.left == ("a log handler",)


@pytest.mark.parametrize("method", METHODS)
def test_a_task_is_not_far_ahead_of_a_slow_handler(
    make_manager: MakeManager, slow_handler: SlowHandler, method: str, monkeypatch
):
    leads: list[float] = []

    def measure(record: logging.LogRecord) -> None:
        progress = handle.progress
        leads.append((progress.done if progress is not None else 0) - len(leads))
        time.sleep(0.001)

    monkeypatch.setattr(slow_handler, "emit", measure)
    handle = make_manager(mp_context=multiprocessing.get_context(method)).run(logs.log_and_count, 1500)
    handle.result(timeout=PATIENCE_S)
    assert len(leads) == 1500
    assert max(leads) < 750  # 256 KiB, and what two reads and the pipe hold


def test_a_task_that_waits_for_a_slow_handler_is_stopped_and_killed_as_others(
    make_manager: MakeManager, slow_handler: SlowHandler
):
    manager = make_manager(timeout=0.5, grace=0.5)
    for _ in range(2):
        with pytest.raises(TaskTimeoutError):
            manager.run(logs.log_and_count, 10**9).result(timeout=PATIENCE_S)
    assert manager.run(pow, 2, 5).result(timeout=PATIENCE_S) == 32


def test_a_task_waits_for_a_blocked_handler_only_for_a_time(
    make_manager: MakeManager, blocking_handler: BlockingHandler, monkeypatch
):
    monkeypatch.setattr("procbackground._supervisor.relay.BLOCKED_S", 0.1)
    manager = make_manager()
    assert isinstance(manager.run(logs.log_and_fail, "stuck").exception(timeout=PATIENCE_S), ValueError)
    assert isinstance(manager.run(logs.log_and_fail, "stuck too").exception(timeout=PATIENCE_S), ValueError)
    blocking_handler.may_go.set()


def test_records_count_before_a_timeout_is_reported(make_manager: MakeManager, caplog):
    manager = make_manager(timeout=0.3)
    with pytest.raises(TaskTimeoutError):
        manager.run(log_and_hang).result(timeout=PATIENCE_S)
    assert messages(caplog) == ["before the end"]


def log_and_hang() -> None:
    logging.getLogger(NAME).warning("before the end")
    time.sleep(PATIENCE_S)
