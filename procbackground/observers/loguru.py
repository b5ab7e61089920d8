"""Writes events to loguru, with their facts as structured fields."""

from __future__ import annotations

import logging
import os
from typing import Any

from procbackground.observers.extras import import_extra
from procbackground.observers.lines import LogLines, Source


class LoguruObserver(LogLines):
    """Logs through loguru: failures as errors, retries and stalls as warnings, successes as debug, and a summary.

    Each record carries `task` (the name), `attempt`, `pid` where there is one, and the task's `meta`, in its
    `extra`; those of the manager carry `counts` and `report` at the end. `name`, `function` and `line` are those of the
    task's function, so that filters by module work. The child's traceback goes with a failure.

    Args:
        logger: a loguru logger, bound or patched as you like; `loguru.logger` by default.
    """

    def __init__(self, logger: Any = None) -> None:
        super().__init__()
        # On first use: loguru takes 50 ms to import.
        self._logger = import_extra("loguru", "loguru", "LoguruObserver").logger if logger is None else logger

    def _write(self, level: int, source: Source, text: str, facts: dict[str, Any], error: BaseException | None) -> None:
        def set_source(record: Any) -> None:
            file_type = type(record["file"])
            record.update(
                name=source.module, function=source.function, line=source.line,
                module=source.module.rpartition(".")[2], file=file_type(os.path.basename(source.path), source.path),
            )  # fmt: skip

        logger = self._logger.bind(**facts).patch(set_source)
        if error is not None:
            logger = logger.opt(exception=error)
        # As an argument: a brace in it is no placeholder.
        logger.log(logging.getLevelName(level), "{}", text)
