"""Classifies the end of an attempt: makes its error and its record, and asks the retry policy.

Called in a thread for user code, unless `is_plain_end`: the user's `__setstate__`, constructors of exceptions and retry
strategies run here.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from procbackground import _platform
from procbackground._named import NamedTuple
from procbackground._state import commands as c
from procbackground._state.fleet import ALIVE, Death
from procbackground._state.job import Job
from procbackground._state.outcomes import outcome_of
from procbackground._supervisor.machine import BY_CONTAINER
from procbackground._supervisor.output import last_lines
from procbackground._supervisor.relay import lines_of
from procbackground._wire.failures import load_failure
from procbackground._wire.loading import loads
from procbackground._wire.parcel import ReceivedParcel
from procbackground.errors import (
    MemoryLimitError,
    ProcbackgroundError,
    RemoteTraceback,
    SerializationError,
    TaskTimeoutError,
    death_phrase,
    repr_of,
    set_context,
)
from procbackground.report import Outcome
from procbackground.retry import counts_only, delay_by_count_s


class Verdict(NamedTuple):
    """The result of an attempt: `value` or `error`, and the seconds to the next attempt, or None."""

    value: Any
    error: BaseException | None
    delay_s: float | None
    ends_loop: bool  # the loop as a whole has failed, not just an iteration


def load_failure_safely(body: bytes) -> tuple[BaseException, str]:
    """Return the exception that came as a failure's `body`, and the failure's kind."""
    try:
        return load_failure(body)
    except BaseException as error:
        failure = SerializationError(f"the exception of the task could not be loaded: {repr_of(error)}")
        failure.__cause__ = error
        return failure, "exception"


def is_plain_end(command: c.Judge) -> bool:
    """Whether to judge this takes none of the user's code, which may block, and so needs no other thread.

    Two changes of threads are a tenth of the time from a death to the retry. Loops are judged in the other thread, in
    the order of their iterations.
    """
    retry, worker = command.job.recipe.retry, command.worker
    return (
        command.kind not in (c.VALUE, c.FAILURE, c.FAILED_IN_MAP)  # there is nothing to load
        and not command.job.recipe.is_loop
        and (retry is None or counts_only(retry))
        and command.job.recipe.output is None
        and (worker is None or not worker.death.log_records)
    )


def pass_verdict(command: c.Judge, wall: Callable[[float], float], now_s: float) -> Verdict:
    """Classify the outcome, append an Attempt, ask the retry policy."""
    job, worker = command.job, command.worker
    value: Any = None
    error: BaseException | None = None
    can_retry = True
    ends_loop = False
    if command.kind == c.VALUE:
        outcome = Outcome.SUCCEEDED
        try:
            value = _load_value(command.body)
        except BaseException as broken:
            outcome = Outcome.NOT_SERIALIZED
            error = SerializationError(f"the result could not be loaded in the parent: {repr_of(broken)}")
            error.__cause__ = broken
    elif command.kind == c.FAILURE:
        error, kind = load_failure_safely(command.body)
        outcome = Outcome.RAISED if kind == "raised" else Outcome.NOT_SERIALIZED
        # A function or argument that one child could not load will not load in another.
        can_retry = kind not in ("function", "arguments")
        ends_loop = not can_retry
    elif command.kind == c.LOST:
        error = command.body
        outcome = Outcome.DIED
        can_retry, ends_loop = False, True
    elif command.kind == c.FAILED_IN_MAP:
        error = command.body
        outcome = _outcome_of_error(command.body)
    else:
        outcome = outcome_of(command.kind)
        error = _explain_end(command)
        if command.kind == c.FOR_DEADLINE and job.history is not None and job.history.attempts:
            set_context(error, job.history.attempts[-1].error)  # why it was not done by then
        can_retry = command.kind != c.FOR_DEADLINE
        ends_loop = not can_retry
    pid = worker.pid or None if worker is not None else None
    death = worker.death if worker is not None else ALIVE
    if isinstance(error, ProcbackgroundError) and error.task is None:
        error.task, error.attempt, error.pid = job.handle.task, job.attempt, pid
    if error is not None and worker is not None:
        output = job.handle._output
        if output is not None:
            _add_output(error, command.kind, "what it wrote last", output.last_lines())
        elif command.kind not in (c.VALUE, c.FAILURE):
            _add_output(error, command.kind, "what it wrote last to sys.stderr", last_lines(death.stderr))
    if worker is None and command.kind in (c.FAILED_IN_MAP, c.FAILURE):
        job.record(outcome, now_s, wall, pid=getattr(error, "pid", None), error=error)
    if worker is not None:
        exit_code = None if command.kind in (c.VALUE, c.FAILURE) else death.exit_code
        job.record(outcome, now_s, wall, pid=pid, exit_code=exit_code, error=error, cost=command.cost)
    delay_s = None
    if job.recipe.retry is not None and can_retry:
        try:
            delay_s = ask_policy(job, value, error, now_s)
        except BaseException as broken:
            # The policy itself raised: that is what the caller has to know, and what it was asked about.
            set_context(broken, error)
            error, value = broken, None
    return Verdict(value, error, delay_s, ends_loop)


def _add_output(error: BaseException, kind: str, what: str, text: str) -> None:
    """Add the last lines that the attempt wrote to its error; to one that it raised, as a note of the cause."""
    if not text:
        return
    shown = f"{what}:" + "".join(f"\n  {line}" for line in text.splitlines())
    if kind in (c.VALUE, c.FAILURE):
        if error.__cause__ is not None:
            error.__cause__.add_note(shown)
    elif isinstance(error, ProcbackgroundError):
        error.output = text
        error.args = (f"{error}\n{shown}", *error.args[1:])


def _outcome_of_error(error: BaseException) -> Outcome:
    from procbackground.errors import WorkerDiedError

    for kind, outcome in (
        (TaskTimeoutError, Outcome.TIMED_OUT),
        (MemoryLimitError, Outcome.OVER_MEMORY),
        (WorkerDiedError, Outcome.DIED),
    ):
        if isinstance(error, kind):
            return outcome
    return Outcome.RAISED


def _load_value(body: bytes | ReceivedParcel) -> Any:
    if type(body) is ReceivedParcel:
        return body.load()
    return loads(body) if body else None  # type: ignore[arg-type]


def ask_policy(job: Job, value: Any, error: BaseException | None, now_s: float) -> float | None:
    """Return the seconds to the job's next attempt, or None: there is none. Raises: what the policy raises."""
    retry, history = job.recipe.retry, job.with_history()
    assert retry is not None
    if counts_only(retry):
        return delay_by_count_s(retry, job.attempt, error)
    task = job.handle.task
    first_started_s = history.first_started_s
    return retry.next_delay_s(
        call=(task.fn, task.args, dict(task.kwargs)),
        attempt_number=job.attempt,
        outcome=(error is not None, value if error is None else error),
        first_started_s=now_s if first_started_s is None else first_started_s,
        idle_for_s=history.idle_for_s,
        now_s=now_s,
    )


def _whereabouts(death: Death) -> str:
    """Return where the worker was when it was to be stopped, or why that is not known, to end a sentence."""
    if death.stack:
        note = f" ({death.no_stack_reason})" if death.no_stack_reason else ""
        return f"; it was here{note}:\n{death.stack}"
    return f"; there is no Python stack: {death.no_stack_reason or why_no_stack()}"


def why_no_stack() -> str:
    """Return why a process that was asked for its stacks gave none."""
    if not _platform.STACK_SIGNAL:
        return "it cannot be taken on this platform"
    return "the process did not answer when asked for it"


def _explain_end(command: c.Judge) -> ProcbackgroundError:
    """Return the error for an attempt that gave no answer."""
    job, worker = command.job, command.worker
    if command.kind in (c.FOR_TIMEOUT, c.FOR_DEADLINE, c.FOR_LOADING):
        return _explain_timeout(job, command.kind, None if worker is None else worker.death, command.body)
    assert worker is not None
    peak_bytes = (command.cost[1] or 0) if command.cost is not None else 0
    if command.kind == c.FOR_MEMORY:
        limit_bytes = job.recipe.memory_limit or 0
        return MemoryLimitError(
            f"task {job.recipe.name!r} (process {worker.pid}) held {peak_bytes / 2**20:.0f} MiB, over its memory_limit "
            f"of {limit_bytes / 2**20:.0f} MiB, and was killed; if it needs so much, give it a higher one",
            limit=limit_bytes,
            peak=peak_bytes,
        )
    return _explain_death(job, worker.pid, worker.death, peak_bytes)


def _explain_timeout(job: Job, kind: str, death: Death | None, start_timeout_s: float) -> TaskTimeoutError:
    recipe = job.recipe
    where = "; it was not running then" if death is None else _whereabouts(death)
    if kind == c.FOR_LOADING:
        return TaskTimeoutError(
            f"attempt {job.attempt} of task {recipe.name!r} was still loading its function, and what that imports, "
            f"after the start_timeout of {start_timeout_s:g} s, and was stopped; if that takes so "
            f"long, give the manager a longer one{where}",
            timeout=start_timeout_s,
            stack=death.stack if death is not None else None,
        )
    if kind == c.FOR_TIMEOUT:
        what, limit, limit_s = f"attempt {job.attempt} of task {recipe.name!r}", "timeout", recipe.timeout_s
    else:
        what, limit, limit_s = f"task {recipe.name!r}", "deadline", recipe.deadline_s
    return TaskTimeoutError(
        f"{what} ran over its {limit} of {limit_s:g} s and was stopped{where}",
        timeout=limit_s,
        stack=death.stack if death is not None else None,
    )


def _explain_death(job: Job, pid: int, death: Death, peak_bytes: int) -> ProcbackgroundError:
    from procbackground.errors import WorkerDiedError

    how = death_phrase(death.exit_code)
    hint = "the task may have run in part; give it a retry policy if it can run again"
    if death.protocol_error is not None:
        how = f"was killed, because its result pipe held what no worker sends ({death.protocol_error}),"
        hint = "something that the task runs writes to descriptors that are not its own"
    elif death.how_cut_off:
        how = f"{death.how_cut_off}, and was killed,"
        hint = "run programs by subprocess, since exec ends the worker, and close only the task's own descriptors"
    elif death.oom == BY_CONTAINER:
        hint = (
            "the kernel's OOM killer is the likely cause: the container (cgroup) reached its limit of memory, not the "
            "machine. Give the task a memory_limit, the manager fewer workers, or the container more memory"
        )
    elif death.oom:
        hint = (
            "the kernel's OOM killer is the likely cause: the machine ran out of memory. Give the task a "
            "memory_limit, or the manager fewer workers"
        )
    elif job.recipe.output is None and death.exit_code not in (-signal.SIGKILL, -signal.SIGTERM):
        hint += ". What C code wrote is on this program's standard error; with output='relay' it would be here, too"
    peak = f", memory up to {peak_bytes / 2**20:.0f} MiB" if peak_bytes else ""
    log_lines = lines_of(death.log_records)
    last_lines = "".join(f"\n  {line}" for line in log_lines)
    error = WorkerDiedError(
        f"worker {pid} {how} while running {job.recipe.name!r} (attempt {job.attempt}{peak}); {hint}"
        + (f"\nwhat it logged last:{last_lines}" if last_lines else ""),
        exit_code=death.exit_code,
        log_lines=log_lines,
        peak_memory=peak_bytes or None,
    )
    if death.stack:
        error.__cause__ = RemoteTraceback(death.stack)
    return error
