"""Writes events to the standard library's `logging`."""

from __future__ import annotations

import logging
from typing import Any

from procbackground.observers.lines import LogLines, Source


class LoggingObserver(LogLines):
    """Logs through `logging`: failures as errors, retries and stalls as warnings, successes as debug, and a summary.

    Each record has `task` (the name), `attempt`, `meta` and, where it is known, `pid` as attributes; in records about
    the manager or a process the ones that make no sense there are None. `module`, `funcName` and `lineno` are those of
    the task's function. The child's traceback goes with a failure.

    Args:
        logger: a logger or its name; the logger "procbackground" by default.
    """

    def __init__(self, logger: logging.Logger | str = "procbackground") -> None:
        super().__init__()
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger

    def _is_muted(self, level: int) -> bool:
        return not self._logger.isEnabledFor(level)

    def _write(self, level: int, source: Source, text: str, facts: dict[str, Any], error: BaseException | None) -> None:
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        extra = {"task": None, "attempt": None, "pid": None, "meta": {}, **facts}
        logger = self._logger
        # The text is whole: a percent sign in it is no placeholder.
        record = logger.makeRecord(
            logger.name, level, source.path or "(procbackground)", source.line, text, (), exc_info,
            source.function or None, extra,
        )  # fmt: skip
        logger.handle(record)
