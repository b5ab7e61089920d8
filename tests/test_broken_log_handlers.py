"""A log handler that raises ends no thread of a manager: what it raises is on standard error, and all else goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from procbackground._log import logger
from procbackground.observers import Observer
from tests.support.gate import PATIENCE_S
from tests.support.tasks import logs
from tests.support.tasks.logs import NAME


class RaisingHandler(logging.Handler):
    """Remembers each record, and raises for it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())
        raise self.error


class RaisingObserver(Observer):
    """Counts successes, and raises for each."""

    def __init__(self) -> None:
        self.count = 0

    def on_task_succeeded(self, event: Any) -> None:
        self.count += 1
        raise ValueError("of the observer")


@pytest.fixture(params=[RuntimeError("broken handler"), SystemExit("broken handler")], ids=["error", "exit"])
def handler(request: pytest.FixtureRequest) -> Iterator[RaisingHandler]:
    handler = RaisingHandler(request.param)
    names = (NAME, "procbackground", "concurrent.futures")
    logging.getLogger(NAME).setLevel(logging.INFO)
    for name in names:
        logging.getLogger(name).addHandler(handler)
    yield handler
    for name in names:
        logging.getLogger(name).removeHandler(handler)
    logging.getLogger(NAME).setLevel(logging.NOTSET)


def test_each_record_of_a_task_comes_to_a_handler_that_raises(make_manager, handler: RaisingHandler, capsys):
    manager = make_manager()
    assert manager.run(logs.log, 3).result(timeout=PATIENCE_S) == 3
    assert [text for text in handler.seen if text.startswith("record")] == ["record 0", "record 1", "record 2"]
    assert capsys.readouterr().err.count("procbackground: a log handler failed for 'exception in") == 3


def test_events_go_on_where_the_failure_of_an_observer_cannot_be_logged(make_manager, handler: RaisingHandler, capsys):
    observer = RaisingObserver()
    manager = make_manager(observer=observer)
    assert [manager.run(abs, -number).result(timeout=PATIENCE_S) for number in range(3)] == [0, 1, 2]
    manager.close(timeout=PATIENCE_S)
    assert observer.count == 3
    assert "ValueError: of the observer" in capsys.readouterr().err


def test_tasks_go_on_where_the_failure_of_a_callback_cannot_be_logged(make_manager, handler: RaisingHandler):
    manager = make_manager()
    for number in range(3):
        handle = manager.run(abs, -number)
        with suppress(RuntimeError, SystemExit):  # raised here where the handle is done already
            handle.add_done_callback(lambda handle: 1 / 0)
        assert handle.result(timeout=PATIENCE_S) == number


def test_a_record_of_the_package_tells_who_made_it(caplog):
    logger.warning("%d %s", 1, "word")
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("procbackground", "1 word")
    assert record.pathname == __file__
    assert record.funcName == "test_a_record_of_the_package_tells_who_made_it"


def test_ctrl_c_in_a_handler_passes(handler: RaisingHandler):
    handler.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        logger.warning("interrupted")
