"""In the child: `current()`, signals, groups, logging, and managers within tasks."""

from __future__ import annotations

import logging
import os
import threading

import pytest

import procbackground
from procbackground import Progress, Task
from tests.support.gate import PATIENCE_S
from tests.support.tasks import failing, plain, surroundings


def test_the_context_knows_attempt_and_name(manager):
    handle = manager.run_task(Task(surroundings.context_facts, name="the census"))
    assert handle.result(timeout=PATIENCE_S) == (1, "the census", False)


def test_the_name_is_the_functions_by_default(manager):
    assert manager.run(surroundings.context_facts).result(timeout=PATIENCE_S) == (1, "context_facts", False)


@pytest.mark.parametrize("name", ["x" * 65534 + "東", "y" * 100_000, "\udcff of a file", ""])
def test_the_context_knows_a_name_of_any_length_and_any_characters(manager, name):
    handle = manager.run_task(Task(surroundings.context_facts, name=name))
    assert handle.result(timeout=PATIENCE_S)[1] == (name or "context_facts")


def test_the_context_knows_the_retries_attempt(manager):
    handle = manager.run_task(Task(failing.mishap_before, args=(3, "raises"), retry=3))
    assert handle.result(timeout=PATIENCE_S)[0] == 3


def test_a_reused_process_has_the_context_of_its_present_task(make_manager):
    manager = make_manager(max_workers=1)
    names = [f"task {number}" for number in range(4)]
    handles = [manager.run_task(Task(surroundings.context_facts, name=name)) for name in names]
    assert [handle.result(timeout=PATIENCE_S)[1] for handle in handles] == names


def test_progress_is_seen_at_the_handle_while_the_task_runs(make_manager, gate, recorder):
    manager = make_manager(observer=recorder)
    handle = manager.run(surroundings.progress_then_stop, gate.address)
    gate.wait_for_arrival()
    recorder.wait_for("task_progress")
    assert handle.progress == Progress(1, 4, "one of four")
    assert not handle.done()


def test_the_last_progress_stays_at_the_handle(manager):
    handle = manager.run(surroundings.report_progress, 50)
    assert handle.result(timeout=PATIENCE_S) == 50
    assert handle.progress == Progress(50, 50, "item 50")


def test_a_task_without_progress_has_none(manager):
    handle = manager.run(plain.nothing)
    handle.result(timeout=PATIENCE_S)
    assert handle.progress is None


def test_outside_a_task_the_context_does_nothing():
    context = procbackground.current()
    assert context.progress(1, total=2, message="half") is None
    assert context.heartbeat() is None
    assert context.stopping is False
    assert context.wait(0) is False


def test_functions_with_a_context_stay_callable_in_plain_code():
    assert surroundings.report_progress(3) == 3


def test_ctrl_c_does_not_reach_a_child(make_manager):
    manager = make_manager(max_workers=1)
    pid = manager.run(surroundings.survive_sigint).result(timeout=PATIENCE_S)
    assert manager.run(os.getpid).result(timeout=PATIENCE_S) == pid


def test_a_child_leads_its_own_process_group(manager):
    group, pid = manager.run(surroundings.group_and_pid).result(timeout=PATIENCE_S)
    assert group == pid != os.getpgid(0)


def test_a_manager_works_within_a_task(manager):
    assert manager.run(surroundings.nested, 6).result(timeout=60) == 36


class Keeping(logging.Handler):
    """Keeps records, and tells that one came."""

    def __init__(self):
        super().__init__()
        self.records = []
        self.has_come = threading.Event()

    def emit(self, record):
        self.records.append(record)
        self.has_come.set()


@pytest.fixture
def keeping():
    handler = Keeping()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def test_logging_in_a_child_reaches_the_parents_handlers(manager, keeping):
    task = Task(surroundings.log_by_logging, args=("from the child",), name="logging task")
    pid = manager.run_task(task).result(timeout=PATIENCE_S)
    manager.close()
    (record,) = [record for record in keeping.records if record.getMessage() == "from the child"]
    assert (record.name, record.levelno) == ("tests.child", logging.WARNING)
    assert record.process == pid
    assert record.task == "logging task"
    assert record.pid == pid


def test_a_childs_log_keeps_its_order(make_manager, keeping):
    manager = make_manager(max_workers=1)
    texts = [f"line {number}" for number in range(30)]
    for text in texts:
        manager.run(surroundings.log_by_logging, text)
    manager.close()
    assert [record.getMessage() for record in keeping.records if record.name == "tests.child"] == texts


def test_loguru_in_a_child_reaches_the_parents_sinks(manager):
    from loguru import logger

    records = []
    sink = logger.add(lambda message: records.append(message.record), level="DEBUG")
    try:
        task = Task(surroundings.log_by_loguru, args=("from the child",), name="logging task")
        pid = manager.run_task(task).result(timeout=PATIENCE_S)
        manager.close()
    finally:
        logger.remove(sink)
    (record,) = [record for record in records if record["message"] == "from the child"]
    assert record["level"].name == "WARNING"
    assert record["extra"]["task"] == "logging task"
    assert record["extra"]["pid"] == pid
