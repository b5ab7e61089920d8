"""Hands the log records of children to the parent's handlers, with task and pid attached."""

from __future__ import annotations

import logging
import pickle
from typing import Any


def tell_parent(body: bytes, task_name: str | None, attempt: int | None, pid: int) -> None:
    """Log in the parent what a child logged. The parent's levels and handlers decide what becomes of it."""
    library, facts = pickle.loads(body)
    if library == "loguru":
        _tell_loguru(facts, task_name, attempt, pid)
        return
    record = logging.makeLogRecord(facts)
    record.task, record.attempt, record.pid = task_name, attempt, pid
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _tell_loguru(facts: dict[str, Any], task_name: str | None, attempt: int | None, pid: int) -> None:
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
    except ValueError:  # a level that only the child has
        bound.log(facts["level_no"], "{}", message)
