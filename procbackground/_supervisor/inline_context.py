"""What `current()` returns in a task that runs in its caller's process, and how it is found there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Condition
from typing import TYPE_CHECKING, Any

from procbackground import context
from procbackground._state.job import Job
from procbackground._state.ledger import Ledger
from procbackground._supervisor.inline_progress import as_reported
from procbackground._wire import frames as wire
from procbackground._wire.parcel import Parcel
from procbackground._wire.pickling import dump_state
from procbackground._worker.task_context import load_state
from procbackground.context import Context

if TYPE_CHECKING:
    from procbackground._supervisor.inline_runs import InlineRuns
    from procbackground.task import Task


class InlineContext(Context):
    """What `current()` returns in a task that runs in its caller's process."""

    __slots__ = ("_job", "_outer", "_runs", "_slots")

    def __init__(self, runs: InlineRuns, job: Job, slots: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(job.recipe.name, job.attempt)
        self._runs = runs
        self._job = job
        self._outer = current_context.get()  # of the task that gave this one
        self._slots = slots

    @property
    def slots(self) -> dict[str, tuple[int, ...]]:
        return dict(self._slots)

    @property
    def stopping(self) -> bool:
        return self._runs.asks_to_stop(self._job)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        self._runs.report(self._job, as_reported(done, total, message))

    def save(self, state: Any) -> None:
        self._job.with_history().checkpoint = dump_state(state)

    @property
    def saved(self) -> Any:
        return load_state(self._job.with_history().checkpoint, self.name)

    def wait(self, seconds: float) -> bool:
        self._runs.pause(self._job, seconds)
        return self.stopping


current_context: ContextVar[InlineContext | None] = ContextVar("procbackground_inline", default=None)


def enclosing_jobs() -> set[Job]:
    """Return the tasks that this thread is in, which it cannot wait for."""
    jobs = set()
    context = current_context.get()
    while context is not None:
        jobs.add(context._job)
        context = context._outer
    return jobs


class InlineSlots:
    """The slots of an inline manager; `changed` guards them."""

    def __init__(self, slots: Mapping[str, int], changed: Condition) -> None:
        self._ledger = Ledger(slots)
        self._changed = changed

    @contextmanager
    def held(self, job: Job) -> Iterator[dict[str, tuple[int, ...]]]:
        """Yield the slots of an attempt, by name. They are waited for, while other threads have them.

        A task that another one runs would wait for that for ever, and has the same slots in place of it.
        """
        needs = job.recipe.needs
        if needs is None or not needs.slots:
            yield {}
            return
        wanted = needs
        with self._changed:
            if current_context.get() is None:
                self._changed.wait_for(lambda: self._ledger.kind_for(wanted) is not None)
            kind = self._ledger.kind_for(wanted)
            if kind is not None:
                self._ledger.take_slots(kind)
        try:
            yield dict(kind.slots) if kind is not None else {name: tuple(range(count)) for name, count in needs.slots}
        finally:
            if kind is not None:
                with self._changed:
                    self._ledger.return_slots(kind)
                    self._changed.notify_all()


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


def with_shared_values(job: Job, task: Task[Any]) -> tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]:
    """Return the call of a task, with values in place of the shared values in it, read-only as in a worker."""
    payload = job.payload
    if type(payload) is not Parcel or not payload.shares:
        return task.fn, task.args, task.kwargs
    loaded = payload.open_here().load()
    args, kwargs = loaded if job.flags & wire.HAS_KWARGS else (loaded, {})
    own = len(args) - len(task.args)  # before them come context variables, and a function that is sent as an argument
    return args[own - 1] if job.recipe.carried else task.fn, args[own:], kwargs


@contextmanager
def as_current(own: InlineContext) -> Iterator[None]:
    """Have `current()` return this context."""
    token = current_context.set(own)
    try:
        yield
    finally:
        current_context.reset(token)
