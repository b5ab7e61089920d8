"""What is kept, and for how long: nothing grows with the number of tasks that have ended."""

from __future__ import annotations

from procbackground import Task
from procbackground._state.timers import COMPACT_FROM
from procbackground._testing import View
from tests.support.tasks import plain

BUFFER = 32


def test_a_stream_with_a_deadline_keeps_the_number_of_timers_flat(make_manager):
    manager = make_manager(max_workers=2)
    view = View(manager)
    tasks = (Task(plain.square, args=(number,), deadline=3600) for number in range(5000))
    most = 0
    for count, handle in enumerate(manager.stream(tasks, buffersize=BUFFER)):
        handle.result()
        if count % 50 == 0:
            most = max(most, view.timers)
    assert 0 < most <= 2 * BUFFER + COMPACT_FROM + 10
    assert view.timers <= COMPACT_FROM + 10
