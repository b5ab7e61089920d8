"""What tests see of a manager's inside, and the few faults that they inject there: no part of the library.

Tests speak of workers, requests and waiting callers; how the supervisor keeps them is known here and nowhere else in
the tests, so that it can be rewritten and only this module follows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from procbackground._state import fleet
from procbackground._submit.map.mapper import AdaptingMapper
from procbackground._supervisor import loop, machine
from procbackground.handle import TaskHandle
from procbackground.manager import Manager

# Where a bug can end the supervisor, by what makes it go there, and the method that does it.
_PLACES = {
    "any pass": "_step",
    "a command": "_carry_out",
    "an answer": "_take",
    "a batch of values": "_settle_values",  # when they are in no list of the scheduler's
    "a death": "_bury",
}


class View:
    """A manager's inside at the moment of each question."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._supervisor = manager._supervisor
        self._scheduler = manager._supervisor.scheduler

    # -- workers -------------------------------------------------------------------------------------------

    @property
    def worker_pids(self) -> list[int]:
        """Pids of all workers whose process was started and is not known to be gone."""
        with self._supervisor.lock:
            return [worker.pid for worker in self._scheduler.workers if worker.pid]

    @property
    def idle(self) -> int:
        """How many workers are free for a task that would be queued otherwise."""
        with self._supervisor.lock:
            return len(self._scheduler.idle) if self._scheduler.has_room else 0

    @property
    def spare_pids(self) -> list[int]:
        """Pids of the processes that have run nothing and are kept ready."""
        with self._supervisor.lock:
            return [worker.pid for worker in self._scheduler.spares]

    @property
    def spares(self) -> int:
        """How many processes have run nothing and are kept ready."""
        return len(self.spare_pids)

    @property
    def loop_pids(self) -> list[int]:
        """Pids of the workers that were given a loop, whether they have begun it or not."""
        with self._supervisor.lock:
            return [worker.pid for worker in self._scheduler.workers if worker.loop is not None]

    def in_flight(self, pid: int) -> int:
        """How many requests were sent to the worker `pid` and are not answered, the running one included."""
        with self._supervisor.lock:
            return next(len(worker.inflight) for worker in self._scheduler.workers if worker.pid == pid)

    @property
    def is_idle(self) -> bool:
        """Whether no task is queued, running or waiting for a retry, and every worker is idle or spare."""
        with self._supervisor.lock:
            resting = (fleet.IDLE, fleet.SPARE)
            has_tasks = self._scheduler.unsettled or self._scheduler.unsettled_loops
            return not has_tasks and all(worker.state in resting for worker in self._scheduler.workers)

    # -- tasks and callers ---------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """How many one-offs wait in the queue, those that were sent ahead to a worker not included."""
        with self._supervisor.lock:
            return self._scheduler.queue.length + self._scheduler.fresh_queue.length

    @property
    def waiting_callers(self) -> int:
        """How many threads wait in a submit until the queue has room."""
        with self._supervisor.lock:
            return len(self._supervisor._room._line)

    @property
    def has_waiting_callbacks(self) -> bool:
        """Whether a done-callback, or other code of the user's, waits for a thread."""
        return self._supervisor._errands.has_backlog

    @property
    def supervisor_thread(self) -> threading.Thread | None:
        return self._supervisor.thread

    def prefetch_depth(self, fn: Callable[..., Any]) -> int:
        """How many tasks of `fn` may be on their way to one worker, by what is known of their duration."""
        depth: int = self._manager._recipes[fn].depth
        return depth

    def rows_learned(self, fn: Callable[..., Any]) -> int:
        """How many rows of `fn` made a chunk in the last map of it."""
        return self._manager._chunk_rows[fn]

    def first_chunk_rows(self, fn: Callable[..., Any], numbers: range) -> int:
        """How many rows a map of `fn` over `numbers` would begin with. It runs the map to its end."""
        mapper = AdaptingMapper(self._manager.options(), self._supervisor, fn, (numbers,), None, 2)
        rows = mapper.size
        for _ in mapper.results():
            pass
        return rows

    # -- memory --------------------------------------------------------------------------------------------

    @property
    def most_memory_seen(self) -> int:
        """The most bytes that the monitor has seen the tree of any worker hold at its present task."""
        records = list(self._supervisor._monitor._records.values())
        return max((record.peak_bytes for record in records), default=0)

    @property
    def is_memory_unwatched(self) -> bool:
        """Whether the monitor's thread waits to be wanted, without looking at anything."""
        return self._supervisor._monitor._is_parked

    # -- deaths --------------------------------------------------------------------------------------------

    @property
    def exit_code_bounds(self) -> list[float]:
        """Until when the supervisor waits for the exit code of each worker that has ended; later after each look."""
        return list(dict(self._supervisor._dying).values())

    @property
    def forks_asked_for(self) -> int:
        """How many forks the zygote was asked for and has not answered."""
        zygote = self._supervisor._zygote
        return 0 if zygote is None else len(zygote._pending)

    # -- faults --------------------------------------------------------------------------------------------

    def break_at(self, place: str, error: BaseException) -> None:
        """Have the supervisor raise `error` when it comes to `place`, one of `PLACES_TO_BREAK`."""

        def fail(*args: object) -> None:
            raise error

        setattr(self._supervisor, _PLACES[place], fail)

    def fail_next_look_at_memory(self, error: Exception) -> None:
        """Have the monitor's next look at the workers' memory raise `error`."""
        monitor: Any = self._supervisor._monitor

        def fail(followed: object) -> float:
            del monitor._watch
            raise error

        monitor._watch = fail

    @contextmanager
    def finalizers_held(self) -> Iterator[threading.Event]:
        """Hold each thread that wants something done soon, as finalizers do; yield an event that is set then."""
        supervisor: Any = self._supervisor
        has_come, may_go_on = threading.Event(), threading.Event()

        def hold(errand: Callable[[], None]) -> None:
            has_come.set()
            may_go_on.wait()
            loop.Supervisor.do_soon(supervisor, errand)

        supervisor.do_soon = hold
        try:
            yield has_come
        finally:
            del supervisor.do_soon
            may_go_on.set()

    def hold_supervisor(self, when: Callable[[], bool]) -> HeldSupervisor:
        """Hold the supervisor's thread before its next wait at which `when()` is true. Linux only."""
        return HeldSupervisor(self._supervisor, when)


PLACES_TO_BREAK = tuple(_PLACES)


class HeldSupervisor:
    """A supervisor's thread that is held before it waits, so that several things happen in one wait of it."""

    def __init__(self, supervisor: Any, when: Callable[[], bool]) -> None:
        self.is_held = threading.Event()
        self._supervisor = supervisor
        self._may_go_on = threading.Event()
        self._when = when
        self._poll = supervisor._poller.poll
        supervisor._poller.poll = self._hold

    def release(self) -> None:
        """Let it go on; its next wait reports what the zygote says first, as the kernel may."""
        self._may_go_on.set()

    def _hold(self, timeout_s: float | None) -> list[tuple[int, int]]:
        if not self._when():
            return self._poll(timeout_s)  # type: ignore[no-any-return]
        self.is_held.set()
        self._may_go_on.wait()
        self._supervisor._poller.poll = self._poll
        zygote_fd = self._supervisor._zygote._control.fileno()
        return sorted(self._poll(0), key=lambda event: event[0] != zygote_fd)


@contextmanager
def patience(*, exit_code_s: float, zygote_answer_s: float) -> Iterator[None]:
    """Change how long exit codes and the zygote's answers are waited for."""
    constants: Any = loop
    before = constants.EXIT_CODE_S, constants.ANSWER_S
    constants.EXIT_CODE_S, constants.ANSWER_S = exit_code_s, zygote_answer_s
    try:
        yield
    finally:
        constants.EXIT_CODE_S, constants.ANSWER_S = before


def depth_teller(handle: TaskHandle[Any]) -> Callable[[], int] | None:
    """Return a function that tells how many tasks like this one may be on their way to a worker.

    It goes on to tell when the task has ended; when that is so already, there is none.
    """
    job = handle._job
    if job is None:
        return None
    recipe = job.recipe
    return lambda: recipe.depth


def free_memory_bytes() -> int:
    """Return how much memory the manager takes to be free now."""
    return machine.free_memory_bytes()
