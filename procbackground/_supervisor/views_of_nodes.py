"""What a manager with an engine shows of a run: its nodes are asked, and those that do not answer soon are left out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from procbackground._supervisor.views import Running
from procbackground._wire import attempts as w
from procbackground.report import ProcessInfo

if TYPE_CHECKING:
    from procbackground._state.job import Job
    from procbackground._supervisor.engine_loop import EngineLoop

ASK_S = 2.0  # longer than a busy node takes, short enough for people
NO_ANSWER = f"its node has not answered within {ASK_S:g} s"


def take_processes(loop: EngineLoop) -> list[ProcessInfo]:
    """Return the processes of the nodes."""
    answers = _ask(loop, w.PROCESSES, None)
    tasks = loop.inbox.ask(lambda: {number: job.handle.task for number, (_, job) in loop.workers.running().items()})
    return [
        ProcessInfo(pid, tasks.get(number), attempt if number in tasks else None, since, rss, cpu_percent, node)
        for node, processes in answers
        for number, pid, attempt, since, rss, cpu_percent in processes
    ]


def take_stacks(loop: EngineLoop, job: Job | None) -> list[Running]:
    """Return the attempts that run, or only that of `job`, the oldest first."""

    def look() -> dict[int, tuple[Job, int, str, float]]:
        return {
            number: (each, worker.pid, worker.process.node, worker.pipeline.head_since_s)
            for number, (worker, each) in loop.workers.running().items()
            if worker.pid and (job is None or each is job)
        }

    running = loop.inbox.ask(look)
    if not running:
        return []
    node = next(iter(running.values()))[2] if job is not None else None
    found = {facts[0]: facts[1:] for _, stacks in _ask(loop, w.STACKS, node) for facts in stacks}
    now_s = time.monotonic()
    taken = []
    for number, (each, pid, place, since_s) in running.items():
        running_for_s, stack, reason = found.get(number, (max(0.0, now_s - since_s), None, NO_ANSWER))
        taken.append(Running(each.recipe.name, each.attempt, pid, running_for_s, stack, reason, place))
    return sorted(taken, key=lambda each: -each.running_for_s)


def _ask(loop: EngineLoop, question: str, node: str | None) -> list[tuple[str, Any]]:
    try:
        return loop.engine.ask(question, node, ASK_S)
    except Exception:  # the engine cannot ask: its scheduler is lost, or slow
        return []
