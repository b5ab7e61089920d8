"""A view of a manager's inside for tests, and the few faults that they inject there: no part of the library.

Tests speak of workers, requests and waiting callers; how the supervisor keeps them is known here and nowhere else in
the tests, so that it can be rewritten and only this module follows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

from procbackground._state import fleet
from procbackground._submit.map.adapting import AdaptingMapper
from procbackground._supervisor import exiting, machine, stacks, supervisor, zygote
from procbackground.handle import TaskHandle
from procbackground.manager import Manager

# Where a bug can end the supervisor, by what makes it go there: the object that has the method, and the method.
_PLACES = {
    "any pass": ("", "_step"),
    "a command": ("", "_carry_out"),
    "an answer": ("answers", "_take_frames"),
    "a batch of values": ("settler", "_settle_batch"),  # when they are in no list of the scheduler's
    "a death": ("exits", "_finish_exit"),
}


class View:
    """A manager's inside at the moment of each question, which the supervisor thread answers."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._supervisor = manager._supervisor
        self._loop = manager._supervisor._loop
        self._scheduler = self._loop.scheduler

    def _ask(self, question: Callable[[], Any]) -> Any:
        return self._loop.inbox.ask(question) if self._loop.is_ready else question()

    # -- workers -------------------------------------------------------------------------------------------

    @property
    def worker_pids(self) -> list[int]:
        """Pids of all workers whose process was started and is not known to be gone."""
        return self._ask(lambda: [worker.pid for worker in self._scheduler.workers if worker.pid])  # type: ignore[no-any-return]

    @property
    def idle(self) -> int:
        """How many workers are free for a task that would be queued otherwise."""
        return self._ask(lambda: len(self._scheduler.idle) if self._scheduler.has_room else 0)  # type: ignore[no-any-return]

    @property
    def spare_pids(self) -> list[int]:
        """Pids of the processes that have run nothing and are kept ready."""
        return self._ask(lambda: [worker.pid for worker in self._scheduler.spares])  # type: ignore[no-any-return]

    @property
    def spares(self) -> int:
        """How many processes have run nothing and are kept ready."""
        return len(self.spare_pids)

    @property
    def loop_pids(self) -> list[int]:
        """Pids of the workers that were given a loop, whether they have begun it or not."""
        workers = self._scheduler.workers
        return self._ask(lambda: [worker.pid for worker in workers if worker.loop is not None])  # type: ignore[no-any-return]

    def in_flight(self, pid: int) -> int:
        """How many requests were sent to the worker `pid` and are not answered, the running one included."""
        workers = self._scheduler.workers
        return self._ask(lambda: next(len(each.pipeline.jobs) for each in workers if each.pid == pid))  # type: ignore[no-any-return]

    @property
    def is_idle(self) -> bool:
        """Whether no task is queued, running or waiting for a retry, and every worker is idle or spare."""
        scheduler = self._scheduler

        def is_idle() -> bool:
            has_tasks = scheduler.unsettled or scheduler.unsettled_loops
            return not has_tasks and all(each.state in (fleet.IDLE, fleet.SPARE) for each in scheduler.workers)

        return self._ask(is_idle)  # type: ignore[no-any-return]

    # -- tasks and callers ---------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """How many one-offs wait in the queue, those that were sent ahead to a worker not included."""
        return self._ask(lambda: sum(queue.length for queue in self._scheduler.queues()))  # type: ignore[no-any-return]

    @property
    def pending_bytes(self) -> int:
        """How many bytes the arguments of the tasks have that wait."""
        return self._ask(self._scheduler.count_payload_bytes)  # type: ignore[no-any-return]

    @property
    def has_gate(self) -> bool:
        """Whether callers pass where they may have to wait."""
        return self._loop.gate is not None

    @property
    def waiting_callers(self) -> int:
        """How many threads wait in a submit until the queue has room."""
        return self._loop.intake.gate.waiting_callers

    @property
    def has_waiting_callbacks(self) -> bool:
        """Whether a done-callback, or other code of the user's, waits for a thread."""
        return bool(self._loop.user_code.work)

    @property
    def supervisor_thread(self) -> threading.Thread | None:
        return self._supervisor.thread

    def prefetch_depth(self, fn: Callable[..., Any]) -> int:
        """How many tasks of `fn` may be on their way to one worker, by what is known of their duration."""
        return self._manager._submitter.call_recipes[fn].depth

    def rows_learned(self, fn: Callable[..., Any]) -> int:
        """How many rows of `fn` made a chunk in the last map of it."""
        return self._manager._submitter.recall_rows(fn)

    def first_chunk_rows(self, fn: Callable[..., Any], numbers: range) -> int:
        """How many rows a map of `fn` over `numbers` would begin with. It runs the map to its end."""
        mapper = AdaptingMapper(self._manager._submitter, fn, (numbers,), None, 2)
        rows = mapper.sizing.rows
        for _ in mapper.values():
            pass
        return rows

    # -- what is due, and what is under way ---------------------------------------------------------------

    @property
    def timers(self) -> int:
        """How many entries are kept for later times, those of tasks that have ended included."""
        return self._ask(lambda: len(self._scheduler.timers))  # type: ignore[no-any-return]

    @property
    def stacks_being_taken(self) -> int:
        """Of how many workers the stacks were asked for and are not complete."""
        return self._ask(lambda: len(self._loop.stacks.dumps))  # type: ignore[no-any-return]

    @property
    def has_closed(self) -> bool:
        """Whether a close of the manager has come to its end."""
        return self._loop.has_closed.is_set

    # -- memory --------------------------------------------------------------------------------------------

    @property
    def most_memory_seen(self) -> int:
        """The most bytes that the monitor has seen the tree of any worker hold at its present task."""
        records = list(self._loop.monitor._records.values())
        return max((record.peak_bytes for record in records), default=0)

    @property
    def is_memory_unwatched(self) -> bool:
        """Whether the monitor's thread waits to be wanted, without looking at anything."""
        return self._loop.monitor._is_parked

    # -- deaths --------------------------------------------------------------------------------------------

    @property
    def forks_asked_for(self) -> int:
        """How many forks the zygote was asked for and has not answered."""
        launcher = self._loop.launcher
        return len(launcher._pending) if isinstance(launcher, zygote.Zygote) else 0

    # -- faults --------------------------------------------------------------------------------------------

    def kill_zygote_at_next_request(self) -> None:
        """Have the zygote die between the supervisor's last look at it and the next request to it."""
        launcher: Any = self._loop.launcher
        launcher._control = DyingZygote(launcher)

    def break_at(self, place: str, error: BaseException) -> None:
        """Have the supervisor raise `error` when it comes to `place`, one of `PLACES_TO_BREAK`."""

        def fail(*args: object) -> None:
            raise error

        part, method = _PLACES[place]
        setattr(getattr(self._loop, part) if part else self._loop, method, fail)

    def fail_next_look_at_memory(self, error: Exception) -> None:
        """Have the monitor's next look at the workers' memory raise `error`."""
        monitor: Any = self._loop.monitor

        def fail(followed: object) -> float:
            del monitor._watch
            raise error

        monitor._watch = fail

    def looks_at_memory(self) -> list[None]:
        """Return a list that grows by one with each of the monitor's looks at the workers' memory, from now on."""
        monitor: Any = self._loop.monitor
        watch = monitor._watch
        looks: list[None] = []

        def watch_and_count(followed: object) -> float:
            due_s: float = watch(followed)
            looks.append(None)
            return due_s

        monitor._watch = watch_and_count
        return looks

    @contextmanager
    def finalizers_held(self) -> Iterator[threading.Event]:
        """Hold each thread that wants something done soon, as finalizers do; yield an event that is set then."""
        held: Any = self._supervisor
        has_come, may_go_on = threading.Event(), threading.Event()

        def hold(errand: Callable[[], None]) -> None:
            has_come.set()
            may_go_on.wait()
            supervisor.Supervisor.do_soon(held, errand)

        held.do_soon = hold
        try:
            yield has_come
        finally:
            del held.do_soon
            may_go_on.set()

    @contextmanager
    def start_held(self, *, midway: bool) -> Iterator[threading.Event]:
        """Hold the manager's first start, before it begins or `midway`; yield an event that is set then."""
        part: Any = self._loop.events if midway else self._loop
        name = "start" if midway else "start_once"
        has_come, may_go_on = threading.Event(), threading.Event()
        act = getattr(part, name)

        def hold() -> None:
            has_come.set()
            may_go_on.wait()
            act()

        setattr(part, name, hold)
        try:
            yield has_come
        finally:
            delattr(part, name)
            may_go_on.set()

    def hold_supervisor(self, when: Callable[[], bool]) -> HeldSupervisor:
        """Hold the supervisor's thread before its next wait at which `when()` is true. Linux only."""
        return HeldSupervisor(self._loop, when)


PLACES_TO_BREAK = tuple(_PLACES)


class DyingZygote:
    """The parent's end of a zygote's socket: the zygote is killed before the next request is sent."""

    def __init__(self, launcher: Any) -> None:
        self._launcher, self._control = launcher, launcher._control

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)

    def send(self, request: bytes) -> int:
        self._launcher._control = self._control
        self._launcher._process.kill()
        connection.wait([self._launcher._process.sentinel])
        return self._control.send(request)  # type: ignore[no-any-return]


class HeldSupervisor:
    """A supervisor's thread that is held before it waits, so that several things happen in one wait of it."""

    def __init__(self, loop: Any, when: Callable[[], bool]) -> None:
        self.is_held = threading.Event()
        self._loop = loop
        self._may_continue = threading.Event()
        self._when = when
        self._poll = loop.watches.poll
        loop.watches.poll = self._hold

    def release(self) -> None:
        """Let it continue; its next wait reports the zygote's messages first, as the kernel may."""
        self._may_continue.set()

    def _hold(self, timeout_s: float | None) -> list[tuple[int, int]]:
        if not self._when():
            return self._poll(timeout_s)  # type: ignore[no-any-return]
        self.is_held.set()
        self._may_continue.wait()
        self._loop.watches.poll = self._poll
        zygote_fd = self._loop.launcher._control.fileno()
        return sorted(self._poll(0), key=lambda event: event[0] != zygote_fd)


def hasten_exit_notices(*, after_s: float, stacks_after_s: float) -> None:
    """Change when the exit of this interpreter says what it waits for, and where that is."""
    exiting.NOTICE_S, exiting.STACKS_S = after_s, stacks_after_s


@contextmanager
def endless_stack_dumps() -> Iterator[None]:
    """Let requests for stacks wait, also for a worker that is stopped and writes none."""
    before = stacks.GIVE_UP_S
    stacks.GIVE_UP_S = 3600.0
    try:
        yield
    finally:
        stacks.GIVE_UP_S = before


def depth_teller(handle: TaskHandle[Any]) -> Callable[[], int] | None:
    """Return a function that returns how many tasks like this one may be on their way to a worker.

    It works also after the task has ended; if the task has ended already, return None.
    """
    job = handle._job
    if job is None:
        return None
    recipe = job.recipe
    return lambda: recipe.depth


def free_memory_bytes() -> int:
    """Return how much memory the manager takes to be free now."""
    return machine.free_memory_bytes()
