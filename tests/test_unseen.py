"""A failure that is never retrieved is reported once in the log; one that was retrieved never is."""

from __future__ import annotations

import asyncio
import gc
import logging
from concurrent.futures import wait

import pytest

from procbackground import Task
from procbackground.observers import CallbackObserver
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import failing, plain


@pytest.fixture
def reports(caplog):
    """A function that returns the reports so far."""
    caplog.set_level(logging.WARNING, logger="procbackground")
    return lambda: [record for record in caplog.records if "never retrieved" in record.getMessage()]


def test_a_failure_whose_handle_goes_away_is_reported_once(manager, reports):
    manager.run_task(Task(failing.fail, args=("out of ink",), name="printing"))
    manager.wait(PATIENCE_S)
    gc.collect()
    wait_until(lambda: len(reports()) == 1, "the failure is reported")
    (record,) = reports()
    assert "printing" in record.getMessage()
    assert "out of ink" in str(record.exc_info[1])
    manager.close()
    assert len(reports()) == 1


def test_a_failure_whose_handle_is_kept_is_reported_at_the_close(manager, reports):
    handle = manager.run(failing.fail)
    manager.wait(PATIENCE_S)
    assert reports() == []
    manager.close()
    assert len(reports()) == 1
    assert handle.exception() is not None
    del handle
    gc.collect()
    assert len(reports()) == 1


def _result(handle):
    with pytest.raises(failing.Flaky):
        handle.result(PATIENCE_S)


def _await(handle):
    async def look():
        with pytest.raises(failing.Flaky):
            await handle

    asyncio.run(look())


LOOKS = {
    "result": _result,
    "exception": lambda handle: handle.exception(PATIENCE_S),
    "exception later": lambda handle: (wait([handle], PATIENCE_S), handle.exception()),
    "callback": lambda handle: handle.add_done_callback(lambda _: None),
    "callback later": lambda handle: (wait([handle], PATIENCE_S), handle.add_done_callback(lambda _: None)),
    "await": _await,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_failure_that_somebody_has_looked_at_is_not(manager, reports, look):
    look(manager.run(failing.fail))
    manager.wait(PATIENCE_S)
    gc.collect()
    manager.close()
    assert reports() == []


def test_waiting_alone_is_no_look(manager, reports):
    handle = manager.run(failing.fail)
    wait([handle], PATIENCE_S)
    manager.close()
    assert len(reports()) == 1


@pytest.mark.parametrize("ordered", [False, True])
def test_what_a_stream_has_yielded_is_seen(manager, reports, ordered):
    handles = list(manager.stream((Task(failing.fail) for _ in range(3)), ordered=ordered))
    assert len(handles) == 3
    manager.close()
    assert reports() == []


@pytest.mark.parametrize("chunksize", [1, 5, None])
def test_what_a_map_has_raised_is_seen_and_so_are_the_others(manager, reports, chunksize):
    with pytest.raises(failing.Flaky):
        list(manager.map(failing.fail_if_negative, [-1] * 20, chunksize=chunksize))
    manager.close()
    gc.collect()
    assert reports() == []


def test_an_observer_of_failures_looks(make_manager, reports):
    seen = []
    manager = make_manager(observer=CallbackObserver(on_task_failed=seen.append))
    manager.run(failing.fail)
    manager.close()
    assert len(seen) == 1
    assert reports() == []


def test_an_inline_manager_reports_at_its_close(make_manager, reports):
    manager = make_manager(inline=True)
    manager.run(failing.fail)
    gc.collect()
    kept = manager.run(failing.fail)
    manager.run(failing.fail).exception()
    assert reports() == []
    manager.close()
    assert len(reports()) == 2
    assert kept.done()


def test_successes_and_cancelled_tasks_are_not_reported(make_manager, reports):
    manager = make_manager(max_workers=1)
    handles = [manager.run(plain.square, number) for number in range(20)]
    handles[-1].cancel()
    manager.close()
    assert reports() == []


def test_of_many_some_are_named_and_the_rest_counted(manager, reports):
    handles = [manager.run(failing.fail, f"fault {number}") for number in range(25)]
    manager.close()
    assert all(handle.done() for handle in handles)
    assert len(reports()) == 10 + 1
    assert "15 more" in reports()[-1].getMessage()


@pytest.mark.parametrize("is_kept", [True, False])
def test_of_failures_that_are_alike_one_is_named_and_the_rest_counted(manager, reports, is_kept):
    handles = [manager.run(failing.fail) for _ in range(25)]
    handles.append(manager.run(failing.fail, "another fault"))
    manager.wait(PATIENCE_S)
    if not is_kept:
        handles.clear()
        gc.collect()
    manager.close()
    assert len(reports()) == 2 + 1
    assert "24 more" in reports()[-1].getMessage()
