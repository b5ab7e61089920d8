"""Passes the log records of children to the parent's handlers, with task and pid attached."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable
from typing import Any

LINE_LIMIT = 2000  # characters of a record in the message of a death: enough for a short traceback


def relay_record(body: bytes, task_name: str | None, attempt: int | None, pid: int) -> None:
    """Log a child's record in the parent, subject to the parent's levels and handlers."""
    library, facts = pickle.loads(body)
    if library == "loguru":
        _relay_to_loguru(facts, task_name, attempt, pid)
        return
    record = logging.makeLogRecord(facts)
    record.task, record.attempt, record.pid = task_name, attempt, pid
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def lines_of(records: Iterable[bytes]) -> tuple[str, ...]:
    """Return records of a child as lines of text, for the message of its death. Unpickling may run user code."""
    lines = []
    for body in records:
        try:
            library, facts = pickle.loads(body)
            if library == "loguru":
                level, name, text = facts["level"], facts["name"], facts["exception"] or facts["message"]
            else:
                level, name, text = facts["levelname"], facts["name"], facts["msg"]
            lines.append(f"{level} {name}: {str(text).rstrip()}"[:LINE_LIMIT])
        except Exception as error:
            lines.append(f"(a record that could not be loaded: {type(error).__name__})")
    return tuple(lines)


def _relay_to_loguru(facts: dict[str, Any], task_name: str | None, attempt: int | None, pid: int) -> None:
    from loguru import logger

    def restore(record: Any) -> None:
        record.update({name: facts[name] for name in ("name", "function", "line", "time")})
        record["process"].id = pid

    message = facts["message"]
    if facts["exception"]:
        message = facts["exception"].rstrip()  # the text with its traceback, as the child formatted it
    bound = logger.bind(**facts["extra"], task=task_name, attempt=attempt, pid=pid).patch(restore)
    try:
        bound.log(facts["level"], "{}", message)
    except ValueError:  # a level that is defined in the child only
        bound.log(facts["level_no"], "{}", message)


def lowest_log_level() -> int:
    """Return the lowest level at which any of the parent's loggers lets records through."""
    levels = [logging.root.level or logging.WARNING]
    known = logging.root.manager.loggerDict.values()
    levels += [logger.level for logger in known if isinstance(logger, logging.Logger) and logger.level]
    return min(levels)
