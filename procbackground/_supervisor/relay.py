"""Passes the log records of children to the parent's handlers, with task and pid attached.

Handlers are the user's code and may block, so they run in a thread of their own, in order. A task's handle is done only
after the records of the task: what settles it waits in `RecordRelay` until that thread has come to it, for a time.
"""

from __future__ import annotations

import logging
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any

from procbackground._state.job import Job
from procbackground._supervisor.usercode import UserCodeRunner
from procbackground._wire.failures import load_failure
from procbackground._wire.mainmodule import MAIN_NAMES, renamed
from procbackground._worker.relay import Levels
from procbackground.errors import repr_of

LINE_LIMIT = 2000  # characters of a record in the message of a death: enough for a short traceback

# A handler that is at one record for longer is blocked: tasks are settled without it. Long enough for a slow disk or
# a server that has to be connected first.
BLOCKED_S = 5.0
STRANDED_S = 0.05  # between two tries to start the thread, where the machine has none to give
MARGIN_S = 0.2  # before the end of a close's timeout: what has ended by then still counts


class RecordRelay:
    """The thread that passes records on, and what waits for it. All methods are called by the supervisor."""

    def __init__(self, name: str, wake: Callable[[], None], post: Callable[[Callable[[], object]], None]) -> None:
        self._runner = UserCodeRunner(name, wake)  # of one thread: `add_thread_if_blocked` is never called
        self.post = post  # to the supervisor
        self.waiting: dict[int, tuple[Callable[[], object], float]] = {}  # by ticket; what to do, since when it waits
        self._tickets = 0
        self._patience_ends_s = float("inf")  # nothing waits after this: a close must be over then
        self.owns = self._runner.owns
        self.stop = self._runner.stop

    def put(self, fn: Callable[..., object], *args: Any) -> None:
        """Have `fn(*args)` run in the thread, after what was put before."""
        self._runner.put(fn, *args)

    def after_records(self, act: Callable[[], object]) -> None:
        """Call `act` once all that was put before is done; at once, or later, where that takes too long."""
        now_s = time.monotonic()
        if now_s >= self._patience_ends_s or now_s - (self._runner.busy_since_s or now_s) > BLOCKED_S:
            act()
            return
        self._tickets = ticket = self._tickets + 1
        self.waiting[ticket] = (act, now_s)
        self._runner.put(self.post, lambda: self._serve(ticket))

    def bound(self, end_s: float | None) -> None:
        """Let nothing wait longer than until shortly before `end_s`, the end of a close's timeout."""
        if end_s is not None:
            now_s = time.monotonic()
            self._patience_ends_s = min(self._patience_ends_s, max(end_s - MARGIN_S, (now_s + end_s) / 2))

    @property
    def look_s(self) -> float:
        """When `look` is due."""
        if not self.waiting:
            return float("inf")
        if self._runner.is_stranded:
            return time.monotonic() + STRANDED_S
        return min(self._patience_ends_s, self._blocked_from_s())

    def look(self, now_s: float) -> None:
        """Let go what waits in vain."""
        self._runner.add_thread_if_stranded()
        if self.waiting and now_s >= min(self._patience_ends_s, self._blocked_from_s()):
            for ticket in list(self.waiting):
                self._serve(ticket)

    def _blocked_from_s(self) -> float:
        since_s = self._runner.busy_since_s
        waiting_s = next((since_s for _, since_s in self.waiting.values()), float("inf"))
        return max(waiting_s, since_s or 0.0) + BLOCKED_S

    def _serve(self, ticket: int) -> None:
        waiting = self.waiting.pop(ticket, None)
        if waiting is not None:
            waiting[0]()


def origin_of(pid: int, job: Job | None) -> dict[str, Any]:
    """Return what is attached to a record; outside a task only the pid is known."""
    if job is None:
        return {"task": "", "task_id": 0, "attempt": 0, "pid": pid}
    return {"task": job.recipe.name, "task_id": job.number, "attempt": job.attempt, "pid": pid}


def relay_record(body: bytes, origin: dict[str, Any]) -> None:
    """Log a child's record in the parent, subject to the parent's levels and handlers. Unpickling may run user code."""
    library, facts, extra, packed, failure = pickle.loads(body)
    for name, value in packed.items():
        extra[name] = value if type(value) is str else _load_extra(name, value)
    error = None if failure is None else load_failure(failure)[0]
    if library == "loguru":
        _relay_to_loguru(facts, extra, error, origin)
    else:
        _relay_to_logging(facts, extra, error, origin)


def _load_extra(name: str, value: bytes) -> Any:
    try:
        return pickle.loads(value)
    except Exception as error:
        return f"(the value of {name!r} could not be loaded: {repr_of(error)})"


def _relay_to_logging(
    facts: dict[str, Any], extra: dict[str, Any], error: BaseException | None, origin: dict[str, Any]
) -> None:
    facts.update(origin)
    facts.update(extra)  # an extra value of the same name is the user's own, and is kept
    record = logging.makeLogRecord(facts)
    if error is not None:
        record.exc_info = (type(error), error, None)
        record.exc_text = str(getattr(error.__cause__, "text", error)).rstrip("\n")  # the child's traceback
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _relay_to_loguru(
    facts: dict[str, Any], extra: dict[str, Any], error: BaseException | None, origin: dict[str, Any]
) -> None:
    from loguru import logger

    level_name, level_no, icon = facts["level"]

    def restore(record: Any) -> None:
        record.update({name: facts[name] for name in ("function", "module", "line", "time")})
        record["file"].name, record["file"].path = facts["file"]
        record["thread"].id, record["thread"].name = facts["thread"]
        record["process"].id, record["process"].name = origin["pid"], facts["process_name"]
        record["level"].name, record["level"].icon = level_name, icon

    exception = None if error is None else (type(error), error, None)
    bound = logger.opt(exception=exception).bind(**{**origin, **extra}).patch(restore)
    # loguru takes the name from the globals of its caller, and looks up whether the user has disabled that module.
    log = FunctionType(_log_to_loguru.__code__, {"__name__": facts["name"]})
    try:
        log(bound, level_name, facts["msg"])
    except ValueError:  # a level that is defined in the child only
        log(bound, level_no, facts["msg"])


def _log_to_loguru(logger: Any, level: str | int, text: str) -> None:
    logger.log(level, "{}", text)


def lines_of(records: Iterable[bytes]) -> tuple[str, ...]:
    """Return records of a child as lines of text, for the message of its death. Unpickling may run user code."""
    lines = []
    for body in records:
        try:
            library, facts, _, _, failure = pickle.loads(body)
            level = facts["level"][0] if library == "loguru" else facts["levelname"]
            text = facts["msg"] % facts["args"] if facts.get("args") else facts["msg"]
            if failure is not None:
                text = f"{text}\n{getattr(load_failure(failure)[0].__cause__, 'text', '')}"
            lines.append(f"{level} {facts['name']}: {str(text).rstrip()}"[:LINE_LIMIT])
        except Exception as error:
            lines.append(f"(a record that could not be loaded: {type(error).__name__})")
    return tuple(lines)


def parent_levels() -> Levels:
    """Return the levels that the parent's loggers have now."""
    known = logging.root.manager.loggerDict.items()
    loggers = {name: each.level for name, each in known if isinstance(each, logging.Logger) and each.level}
    # No public attribute has the lowest level of loguru's sinks, or the modules that are disabled.
    core = getattr(getattr(sys.modules.get("loguru"), "logger", None), "_core", None)
    lowest = getattr(core, "min_level", 0)
    lowest = int(lowest) if isinstance(lowest, (int, float)) and lowest != float("inf") else 0
    # A package before its modules, since what is said of a package replaces what was said of these.
    told: Sequence[tuple[str, bool]] = getattr(core, "activation_list", ())
    activation = [(name.rstrip("."), is_on) for name, is_on in reversed(told)]
    # A child has the main module under another name, or under the same where it is a fork.
    loggers |= {renamed(name, *MAIN_NAMES): level for name, level in loggers.items()}
    activation += [(renamed(name, *MAIN_NAMES), is_on) for name, is_on in activation]
    captures_warnings = getattr(warnings.showwarning, "__module__", None) == "logging"
    disabled = logging.root.manager.disable
    return Levels(logging.root.level, loggers, disabled, max(0, lowest), activation, captures_warnings)
