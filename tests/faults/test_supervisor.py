"""A bug that ends the supervisor's thread fails every task at once, and leaves no process behind."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading

import pytest

from procbackground import Manager, ProcbackgroundError
from procbackground._testing import PLACES_TO_BREAK, View
from tests.support.facts import wait_until_gone
from tests.support.gate import PATIENCE_S
from tests.support.tasks import gated, plain


class Bug(Exception):
    pass


@pytest.mark.parametrize("place", PLACES_TO_BREAK)
def test_bug_in_the_loop_fails_all_at_once_and_leaves_nothing(method, gate, caplog, place):
    grace = 2 * PATIENCE_S  # nobody waits for it
    manager = Manager(max_workers=3, mp_context=multiprocessing.get_context(method), grace=grace)
    is_called_back = threading.Event()
    running = [manager.run(gated.stop_then_do, gate.address) for _ in range(3)]
    pids = [gate.wait_for_arrival() for _ in range(3)]
    queued = [manager.run(plain.square, number) for number in range(20)]
    mapped = manager.map(plain.square, range(20), chunksize=5)
    queued[-1].add_done_callback(lambda handle: is_called_back.set())
    spare = manager.run(gated.stop_then_do, gate.address)

    View(manager).break_at(place, Bug(f"in {place}"))
    if place in ("an answer", "a batch of values"):
        gate.release(pids[0], "an answer")
    elif place == "a death":
        os.kill(pids[0], signal.SIGKILL)
    else:  # the cancel of a queued task wakes it; that of a running one leaves it a command
        spare.cancel()
        running.pop().cancel()
    errors = [handle.exception(timeout=PATIENCE_S) for handle in (*running, *queued)]
    assert is_called_back.wait(PATIENCE_S)
    for error in errors:
        assert isinstance(error, ProcbackgroundError)
        assert f"supervisor failed (Bug('in {place}'))" in str(error)
        assert isinstance(error.__cause__, Bug)
    assert len(set(map(id, errors))) == len(errors)
    assert [error.task for error in errors] == [handle.task for handle in (*running, *queued)]
    for ask in (lambda: list(mapped), lambda: manager.run(pow, 2, 2), manager.close):
        with pytest.raises(ProcbackgroundError, match="supervisor failed"):
            ask()
    wait_until_gone(pids)
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert record.exc_info[0] is Bug
