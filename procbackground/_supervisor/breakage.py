"""Why a manager can start no workers any more, in full words, and the error that says so to each caller.

`explain` runs once, in a thread for user code: it loads exceptions and log records, which may run the user's code.
"""

from __future__ import annotations

from typing import Any

from procbackground import _platform
from procbackground._named import NamedTuple
from procbackground._state import commands as c
from procbackground._state.fleet import Death, Worker
from procbackground._state.job import Job
from procbackground._supervisor.judge import load_failure_safely
from procbackground._supervisor.obstacles import HelperLost, advice, advice_on_exit
from procbackground._supervisor.output import last_lines
from procbackground._supervisor.relay import lines_of
from procbackground._wire.pickling import text_of
from procbackground._wire.surroundings import SetupError
from procbackground.errors import ProcbackgroundError, RemoteTraceback, death_phrase

FORGOTTEN_GUARD = "a script that starts a manager when it is imported lacks `if __name__ == '__main__':`"


class Breakage(NamedTuple):
    """The message, the `pid` of the worker that failed, if one did, and the child's error as `cause`.

    `is_initializers`: as far as is known, the initializer has failed.
    """

    message: str
    is_initializers: bool
    pid: int | None = None
    cause: BaseException | None = None

    def error(self, job: Job | None = None) -> ProcbackgroundError:
        """Return a new error for the handle of `job`, or for a caller who submits now."""
        from procbackground.errors import InitializerError, WorkerStartError

        facts: dict[str, Any] = {} if job is None else {"task": job.handle.task, "attempt": job.attempt}
        kind = InitializerError if self.is_initializers else WorkerStartError
        error = kind(self.message, pid=self.pid, **facts)
        error.__cause__ = self.cause
        return error


def first_words(what: str, why: Any, has_initializer: bool) -> Breakage:
    """Return what can be said of the scheduler's `broken_by` at once."""
    if isinstance(why, Exception) and type(why).__module__ in ("builtins", HelperLost.__module__):
        return _explain_error(what, why)  # which runs no code of the user's
    return Breakage(what, isinstance(why, bytes) or (isinstance(why, Worker) and has_initializer))


def explain(what: str, why: Any, has_initializer: bool) -> Breakage:
    """Put the scheduler's `broken_by` into words: `why` is an exception, the body of a failure, or a worker."""
    if isinstance(why, Exception):
        return _explain_error(what, why)
    is_initializers = isinstance(why, bytes) or has_initializer
    if isinstance(why, bytes):
        raised, _ = load_failure_safely(why)
        if isinstance(raised, SetupError):
            return Breakage(str(raised), is_initializers, None, raised)
        return Breakage(f"{what}: {type(raised).__name__}: {text_of(raised)}", is_initializers, None, raised)
    assert isinstance(why, Worker)
    death = why.death
    stacks = RemoteTraceback(death.stack) if death.stack else None
    return Breakage(f"{what}{_end_of(why)}{_last_words(death)}", is_initializers, why.pid, stacks)


def _explain_error(what: str, why: Exception) -> Breakage:
    reason = text_of(why) or type(why).__name__
    return Breakage(f"{what}: {reason}{advice(why)}", False, None, why)


def _end_of(worker: Worker) -> str:
    death = worker.death
    if worker.stop_reason == c.FOR_START:
        if death.stack:
            return f"; it was here:\n{death.stack}"
        reason = death.no_stack_reason or "it could not take one yet; it may be importing the main module"
        if not _platform.STACK_SIGNAL:
            reason = "it cannot be taken on this platform"
        return f"; there is no Python stack: {reason}"
    stack = f"\n{death.stack}" if death.stack else ""
    phrase = death_phrase(death.exit_code) + advice_on_exit(death.exit_code)
    return f": the last one {phrase}. Its own output, above, may say why; {FORGOTTEN_GUARD}{stack}"


def _last_words(death: Death) -> str:
    logged = "".join(f"\n  {line}" for line in lines_of(death.log_records))
    written = "".join(f"\n  {line}" for line in last_lines(death.stderr).splitlines())
    return (f"\nwhat it logged last:{logged}" if logged else "") + (
        f"\nwhat it wrote last to sys.stderr:{written}" if written else ""
    )
