"""Gives log records that a task makes in its caller's process the attributes that those of workers' tasks have."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any

_origin: ContextVar[Mapping[str, Any] | None] = ContextVar("procbackground_inline_origin", default=None)
_made_by: Callable[..., logging.LogRecord] | None = None  # what was replaced


def install_log_attributes() -> None:
    """Have `logging` give them, from the first inline manager on.

    In place of `Logger.makeRecord`, because a record factory comes too early: `makeRecord` refuses `extra` values that
    have the name of an attribute, and the user's own value of such a name must be kept.
    """
    global _made_by
    if _made_by is not None:
        return
    make = _made_by = logging.Logger.makeRecord

    @wraps(make)
    def make_record(self: logging.Logger, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(self, *args, **kwargs)
        for name, value in (_origin.get() or {}).items():
            record.__dict__.setdefault(name, value)
        return record

    logging.Logger.makeRecord = make_record  # type: ignore[method-assign]


@contextmanager
def records_from(task: str, task_id: int, attempt: int) -> Iterator[None]:
    """Have the records of this thread say that they come from this attempt; those of loguru have it as `extra`."""
    origin = {"task": task, "task_id": task_id, "attempt": attempt, "pid": os.getpid()}
    # Not imported for this, as it takes 50 ms. A task that is the first to import it has no such extra in this attempt.
    loguru = getattr(sys.modules.get("loguru"), "logger", None)
    contextualized: AbstractContextManager[Any] = nullcontext() if loguru is None else loguru.contextualize(**origin)
    token = _origin.set(origin)
    try:
        with contextualized:
            yield
    finally:
        _origin.reset(token)
