"""What `current()` returns in a task that runs in its caller's process, and how it is found there."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from procbackground import context
from procbackground._state.job import Job
from procbackground._wire.pickling import dump_state
from procbackground._worker.task_context import load_state
from procbackground.context import Context
from procbackground.report import Progress

if TYPE_CHECKING:
    from procbackground._supervisor.inline import InlineSupervisor


class InlineContext(Context):
    """What `current()` returns in a task that runs in its caller's process."""

    __slots__ = ("_job", "_supervisor")

    def __init__(self, supervisor: InlineSupervisor, job: Job) -> None:
        super().__init__(job.recipe.name, job.attempt)
        self._supervisor = supervisor
        self._job = job

    @property
    def stopping(self) -> bool:
        return self._supervisor.asks_to_stop(self._job)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        handle = self._job.handle
        handle._progress = Progress(done, total, message)
        self._supervisor.events.task("on_task_progress", self._job, done=done, total=total, message=message)

    def save(self, state: Any) -> None:
        self._job.with_history().checkpoint = dump_state(state)

    @property
    def saved(self) -> Any:
        return load_state(self._job.with_history().checkpoint, self.name)

    def wait(self, seconds: float) -> bool:
        self._supervisor.pause(self._job, seconds)
        return self.stopping


current_context: ContextVar[InlineContext | None] = ContextVar("procbackground_inline", default=None)


def install_finder() -> None:
    """Have `current()` find the task of an inline manager, and otherwise what it found before."""
    find_other = context.finder()
    if find_other is _find_current:
        return
    global _find_outside
    _find_outside = find_other
    context.set_finder(_find_current)


_find_outside: Callable[[], Context] | None = None


def _find_current() -> Context:
    found = current_context.get()
    if found is not None:
        return found
    return context.OUTSIDE if _find_outside is None else _find_outside()
