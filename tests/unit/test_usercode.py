"""The threads for the user's code cost nothing while they have nothing to do."""

from __future__ import annotations

import threading

from procbackground._supervisor.usercode import UserCodeRunner
from tests.support.gate import PATIENCE_S


def test_a_thread_without_work_waits_without_end():
    runner = UserCodeRunner("test", lambda: None)
    waits, is_waiting = [], threading.Event()

    class Watched(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            is_waiting.set()
            return super().wait(timeout)

    runner._changed = Watched(threading.Lock())
    done = threading.Event()
    runner.put(done.set)
    assert done.wait(PATIENCE_S)
    assert is_waiting.wait(PATIENCE_S)
    assert waits == [None]
    assert runner.stop(PATIENCE_S)
