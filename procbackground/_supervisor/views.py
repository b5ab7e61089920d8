"""What a manager shows of a run while it lasts: its line of status, and the Python stacks of what runs now."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from procbackground._named import NamedTuple
from procbackground._state.job import Job
from procbackground._supervisor.inbox import Question
from procbackground._supervisor.judge import why_no_stack
from procbackground._supervisor.stack_text import readable

if TYPE_CHECKING:
    from procbackground._state.fleet import Worker
    from procbackground._supervisor.loop import Loop


class Running(NamedTuple):
    """An attempt that runs now, and where it is."""

    name: str
    attempt: int
    pid: int
    running_for_s: float
    raw_stack: str | None
    reason: str | None  # why there is no stack, where that is known
    node: str = ""  # where it runs, with an engine

    def __str__(self) -> str:
        where = self.stack
        if where is None:
            where = f"  there is no Python stack: {self.reason or why_no_stack()}"
        place = f" of {self.node}" if self.node else ""
        head = (
            f"{self.name!r} (attempt {self.attempt}), process {self.pid}{place}, running for {self.running_for_s:.1f} s"
        )
        return f"{head}:\n{where}"

    @property
    def stack(self) -> str | None:
        """The stacks as `stack_text.readable` gives them, or None."""
        return None if self.raw_stack is None else readable(self.raw_stack) or None


def take_stacks(loop: Loop, job: Job | None = None) -> list[Running]:
    """Return the attempts that run now, or only that of `job`, the oldest first. Blocks for a twentieth of a second at
    most, while each process that is asked writes down its stacks."""
    taken: list[Running] = []
    question = Question(lambda: taken)
    loop.inbox.wait_for(question, lambda: _begin(loop, job, taken, question))
    return sorted(taken, key=lambda running: -running.running_for_s)


def _begin(loop: Loop, job: Job | None, taken: list[Running], question: Question) -> None:
    """In the supervisor thread: ask the processes, and have the question answered once all have."""
    now_s = time.monotonic()
    workers = [
        worker
        for worker in loop.scheduler.workers
        if worker.pid and (current := worker.current) is not None and (job is None or current is job)
    ]

    def note(worker: Worker, current: Job, began_s: float, stack: str | None, reason: str | None) -> None:
        running_for_s = max(0.0, now_s - began_s)
        taken.append(Running(current.recipe.name, current.attempt, worker.pid, running_for_s, stack, reason))
        if len(taken) == len(workers):
            question()

    for worker in workers:
        current = worker.current
        assert current is not None
        began_s = worker.since_s if worker.loop is not None else worker.pipeline.head_since_s
        loop.stacks.take(worker, now_s, partial(note, worker, current, began_s))
    if not workers:
        question()


def status_line(loop: Loop) -> str:
    """Return how many workers there are and what they have to do.

    Takes no lock and waits for no thread, so that a debugger may call it: figures that change meanwhile may not fit
    together.
    """
    scheduler = loop.scheduler
    if loop.acceptance.is_foreign:
        return "of another process"
    state = state_of(loop)
    workers = list(scheduler.workers)
    running = len([worker for worker in workers if worker.is_running and worker.pid])  # else it waits at an engine
    done = scheduler.succeeded + scheduler.failed + scheduler.cancelled
    queued = max(0, scheduler.unsettled + scheduler.unsettled_loops - running)
    return f"{state}: {len(workers)} workers, {running} running, {queued} queued, {done} done"


def state_of(loop: Loop) -> str:
    """Return one word: unused, open, closing, closed or broken. Waits for no thread."""
    acceptance = loop.acceptance
    if loop.has_closed.is_set:
        return "closed"
    if acceptance.failure is not None or acceptance.breakage is not None:
        return "broken"
    if acceptance.is_refusing:
        return "closing"
    return "open" if loop.is_ready else "unused"
