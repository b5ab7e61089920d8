"""The supervisor is watched: should a bug end its thread, everybody is told at once, and nothing is left."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading

import pytest

from procbackground import Manager, ProcbackgroundError
from procbackground._supervisor.loop import Supervisor
from tests.support import tasks
from tests.support.facts import wait_until_gone
from tests.support.gate import PATIENCE_S

# Methods of the loop, and what makes it call them: a queued task's cancel wakes it, with a command for a worker's.
PLACES = {
    "_step": "cancel",
    "_carry_out": "cancel",
    "_take": "answer",
    "_settle_values": "answer",  # when the batch of answers is in no list of the scheduler's
    "_bury": "death",
}


class Bug(Exception):
    pass


@pytest.mark.parametrize("place", PLACES)
def test_bug_in_the_loop_fails_all_at_once_and_leaves_nothing(method, gate, monkeypatch, caplog, place):
    grace = 2 * PATIENCE_S  # nobody waits for it
    manager = Manager(max_workers=3, mp_context=multiprocessing.get_context(method), grace=grace)
    is_called_back = threading.Event()
    running = [manager.run(tasks.stop_then_do, gate.address) for _ in range(3)]
    pids = [gate.wait_for_arrival() for _ in range(3)]
    queued = [manager.run(tasks.square, number) for number in range(20)]
    mapped = manager.map(tasks.square, range(20), chunksize=5)
    queued[-1].add_done_callback(lambda handle: is_called_back.set())
    spare = manager.run(tasks.stop_then_do, gate.address)

    def fail(*args: object) -> None:
        raise Bug(f"in {place}")

    monkeypatch.setattr(Supervisor, place, fail)
    if PLACES[place] == "answer":
        gate.release(pids[0], "an answer")
    elif PLACES[place] == "death":
        os.kill(pids[0], signal.SIGKILL)
    else:
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
