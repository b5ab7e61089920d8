"""Why a manager can start no workers any more, in full words, and the error that says so to each caller.

`explain` runs once, in an errand: it loads exceptions and log records, which may run the user's code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from procbackground import _platform
from procbackground._state import scheduler as s
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._supervisor.judge import fallen
from procbackground._supervisor.relay import lines_of
from procbackground.errors import ProcbackgroundError, RemoteTraceback, death_phrase

FORGOTTEN_GUARD = "a script that starts a manager when it is imported lacks `if __name__ == '__main__':`"


class Breakage(NamedTuple):
    """What there is to say: `pid` of the worker that showed it, if one did, and what the child said of it."""

    message: str
    pid: int | None = None
    cause: BaseException | None = None

    def error(self, job: Job | None = None) -> ProcbackgroundError:
        """Return a new error for the handle of `job`, or for a caller who submits now."""
        from procbackground.errors import InitializerError

        facts: dict[str, Any] = {} if job is None else {"task": job.handle.task, "attempt": job.attempt}
        error = InitializerError(self.message, pid=self.pid, **facts)
        error.__cause__ = self.cause
        return error


def explain(what: str, why: Any) -> Breakage:
    """Put the scheduler's `broken_by` into words: `why` is an exception, the body of a failure, or a worker."""
    if isinstance(why, Exception):
        return Breakage(f"{what}: {why}", None, why)
    if isinstance(why, bytes):
        from procbackground._submit.setup import SetupError

        raised, _ = fallen(why)
        if isinstance(raised, SetupError):
            return Breakage(str(raised), None, raised)
        return Breakage(f"{what}: {type(raised).__name__}: {raised}", None, raised)
    assert isinstance(why, Worker)
    stacks = RemoteTraceback(why.notes) if why.notes else None
    return Breakage(f"{what}{_end_of(why)}{_last_words(why)}", why.pid, stacks)


def _end_of(worker: Worker) -> str:
    if worker.stop_reason == s.FOR_START:
        if worker.notes:
            return f"; it was here:\n{worker.notes}"
        silence = worker.silence or "it was not yet so far that it could tell; it may import the main module"
        if not _platform.STACK_SIGNAL:
            silence = "it cannot be taken on this platform"
        return f"; there is no Python stack: {silence}"
    notes = f"\n{worker.notes}" if worker.notes else ""
    phrase = death_phrase(worker.exit_code)
    return f": the last one {phrase}. Its own output, above, may say why; {FORGOTTEN_GUARD}{notes}"


def _last_words(worker: Worker) -> str:
    lines = "".join(f"\n  {line}" for line in lines_of(worker.log_tail))
    return f"\nwhat it logged last:{lines}" if lines else ""
