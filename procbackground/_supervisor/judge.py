"""What an attempt's end means: its error in full words, its record, and whether the policy tries again.

Called in an errand, unless `is_plain_end`: here run the user's `__setstate__`, exceptions' constructors and retry
strategies.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

from procbackground import _platform
from procbackground._wire.parcel import Parcel
from procbackground._wire.pickling import load_failure
from procbackground._state import scheduler as s
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._supervisor.relay import lines_of
from procbackground.errors import (
    MemoryLimitError,
    ProcbackgroundError,
    RemoteTraceback,
    SerializationError,
    TaskTimeoutError,
    death_phrase,
)
from procbackground.report import Outcome
from procbackground.retry import counts_only, delay_by_count_s


class Verdict(NamedTuple):
    """What becomes of an attempt: `value` or `error`, and the seconds to the next attempt, or None."""

    value: Any
    error: BaseException | None
    delay_s: float | None
    ends_loop: bool  # the loop as a whole has failed, not just an iteration


def fallen(body: bytes) -> tuple[BaseException, str]:
    """Return the exception that came as a failure's `body`, and the failure's kind."""
    try:
        return load_failure(body)
    except BaseException as error:
        failure = SerializationError(f"the exception of the task could not be loaded: {error!r}")
        failure.__cause__ = error
        return failure, "exception"


def is_plain_end(command: s.Judge) -> bool:
    """Whether to judge this takes none of the user's code, which may block, and so needs no errand.

    Two changes of threads are a tenth of the time from a death to the retry. Loops go on in errands, in the order of
    their iterations.
    """
    retry, worker = command.job.recipe.retry, command.worker
    return (
        command.kind not in (s.VALUE, s.FAILURE, s.GIVEN)  # there is nothing to load
        and not command.job.recipe.is_loop
        and (retry is None or counts_only(retry))
        and (worker is None or not worker.log_tail)
    )


def pass_verdict(command: s.Judge, wall: Callable[[float], float], now_s: float) -> Verdict:
    """Name what happened, note it as an attempt, and ask the policy."""
    job, worker = command.job, command.worker
    value: Any = None
    error: BaseException | None = None
    can_retry = True
    ends_loop = False
    if command.kind == s.VALUE:
        outcome = Outcome.SUCCEEDED
        try:
            value = _load_value(command.body)
        except BaseException as broken:
            outcome = Outcome.NOT_SERIALIZED
            error = SerializationError(f"the result could not be loaded in the parent: {broken!r}")
            error.__cause__ = broken
    elif command.kind == s.FAILURE:
        error, kind = fallen(command.body)
        outcome = Outcome.RAISED if kind == "raised" else Outcome.NOT_SERIALIZED
        # What the child could not even load will not load in the next one.
        can_retry = kind not in ("function", "arguments")
        ends_loop = not can_retry
    elif command.kind == s.GIVEN:
        error = command.body
        outcome = _outcome_of_error(command.body)
    else:
        outcome = s.outcome_of(command.kind)
        error = _explain_end(command)
        can_retry = command.kind != s.FOR_DEADLINE
        ends_loop = not can_retry
    pid = worker.pid if worker is not None else None
    if isinstance(error, ProcbackgroundError) and error.task is None:
        error.task, error.attempt, error.pid = job.handle.task, job.attempt, pid
    if worker is None and command.kind in (s.GIVEN, s.FAILURE):
        job.record(outcome, now_s, wall, pid=getattr(error, "pid", None), error=error)
    if worker is not None:
        exit_code = None if command.kind in (s.VALUE, s.FAILURE) else worker.exit_code
        job.record(
            outcome, now_s, wall, pid=pid, exit_code=exit_code, error=error, cost=command.cost
        )
    delay_s = None
    if job.recipe.retry is not None and can_retry:
        try:
            delay_s = _ask_policy(job, value, error, now_s)
        except BaseException as broken:
            # The policy itself raised: that is what the caller has to know, and what it was asked about.
            broken.__context__ = error
            error, value = broken, None
    return Verdict(value, error, delay_s, ends_loop)


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


def _load_value(body: bytes | Parcel) -> Any:
    if type(body) is Parcel:
        return body.load()
    return pickle.loads(body) if body else None  # type: ignore[arg-type]


def _ask_policy(job: Job, value: Any, error: BaseException | None, now_s: float) -> float | None:
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


def _whereabouts(worker: Worker) -> str:
    """Return where the worker was when it was to be stopped, or why that is not known, to end a sentence."""
    if worker.notes:
        note = f" ({worker.silence})" if worker.silence else ""
        return f"; it was here{note}:\n{worker.notes}"
    return f"; there is no Python stack: {worker.silence or _why_no_stack()}"


def _why_no_stack() -> str:
    if not _platform.STACK_SIGNAL:
        return "it cannot be taken on this platform"
    return "the process did not answer when asked for it"


def _explain_end(command: s.Judge) -> ProcbackgroundError:
    """Return the error for an attempt that gave no answer."""
    job, worker = command.job, command.worker
    recipe = job.recipe
    error: ProcbackgroundError
    if command.kind in (s.FOR_TIMEOUT, s.FOR_DEADLINE):
        is_timeout = command.kind == s.FOR_TIMEOUT
        limit_s = recipe.timeout_s if is_timeout else recipe.deadline_s
        stack = worker.notes if worker is not None else None
        what = f"attempt {job.attempt} of task {recipe.name!r}" if is_timeout else f"task {recipe.name!r}"
        limit = "timeout" if is_timeout else "deadline"
        where = "; it was not running then" if worker is None else _whereabouts(worker)
        return TaskTimeoutError(
            f"{what} ran over its {limit} of {limit_s:g} s and was stopped{where}",
            timeout=limit_s,
            stack=stack,
        )
    assert worker is not None
    if command.kind == s.FOR_MEMORY:
        limit_bytes, peak_bytes = recipe.memory_limit or 0, worker.peak_bytes
        return MemoryLimitError(
            f"task {recipe.name!r} (process {worker.pid}) held {peak_bytes / 2**20:.0f} MiB, over its memory_limit of "
            f"{limit_bytes / 2**20:.0f} MiB, and was killed",
            limit=limit_bytes,
            peak=peak_bytes,
        )
    from procbackground.errors import WorkerDiedError

    hint = "the task may have run in part; give it a retry policy if it can run again"
    if worker.was_oom:
        hint = (
            "the kernel's OOM killer is the likely cause: the machine ran out of memory. Give the task a "
            "memory_limit, or the manager fewer workers"
        )
    peak_bytes = (command.cost[1] or 0) if command.cost is not None else 0
    peak = f", memory up to {peak_bytes / 2**20:.0f} MiB" if peak_bytes else ""
    log_lines = lines_of(worker.log_tail)
    last_words = "".join(f"\n  {line}" for line in log_lines)
    error = WorkerDiedError(
        f"worker {worker.pid} {death_phrase(worker.exit_code)} while running {recipe.name!r} "
        f"(attempt {job.attempt}{peak}); {hint}" + (f"\nwhat it logged last:{last_words}" if last_words else ""),
        exit_code=worker.exit_code,
        log_lines=log_lines,
        peak_memory=peak_bytes or None,
    )
    if worker.notes:
        error.__cause__ = RemoteTraceback(worker.notes)
    return error
