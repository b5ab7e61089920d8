"""The handler of the child's loggers. A module of its own, because it is imported only where `logging` is."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from procbackground._worker.relay import Levels

_PLAIN = frozenset({str, int, float, bool, type(None)})
_removed: list[logging.Handler] = []  # kept, because the end of a handler may run the user's code, which may never end
_STANDARD = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime"})


class RelayHandler(logging.Handler):
    """Passes the attributes of records to `send`, with the extra ones apart, and the exception."""

    def __init__(self, send: Callable[[dict[str, Any], dict[str, Any], BaseException | None], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            attributes = record.__dict__
            facts = attributes.copy()
            extra = {name: facts.pop(name) for name in attributes.keys() - _STANDARD}
            args = record.args
            # Arguments that a task may change later, or that cannot cross, are formatted now.
            if type(record.msg) is not str or (
                args and not (type(args) is tuple and all(type(each) in _PLAIN for each in args))
            ):
                facts["msg"], facts["args"] = record.getMessage(), None
            error = record.exc_info[1] if record.exc_info else None
            facts["exc_info"] = None
            self._send(facts, extra, error)
        except Exception:
            self.handleError(record)


def is_plain() -> bool:
    """Whether `take_over` runs none of the user's code."""
    known = logging.root.manager.loggerDict.values()
    kinds = {type(logging.root), logging.getLoggerClass(), *map(type, known)}
    return kinds <= {logging.RootLogger, logging.Logger, logging.PlaceHolder}


def take_over(handler: logging.Handler, levels: Levels) -> None:
    """Have every record that the parent may want pass through `handler` once, wherever its logger is.

    Handlers that modules have set up during their import are removed: the parent has them too, and a record would
    appear twice. Later ones are called as well, such as those for a file of the worker's own, but not those for the
    console.
    """
    root = logging.root
    loggers = [each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    _removed.extend(each for logger in (root, *loggers) for each in logger.handlers if each is not handler)
    for logger in (root, *loggers):
        logger.handlers[:] = []
    root.handlers[:] = [handler]  # so that `basicConfig` in a module does nothing
    root.setLevel(levels.root)
    for name, level in levels.loggers.items():
        logging.getLogger(name).setLevel(level)
    logging.disable(levels.disabled)
    if levels.captures_warnings:
        logging.captureWarnings(True)

    def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        handler.handle(record)
        current: logging.Logger | None = self
        while current is not None:
            for each in current.handlers:
                if each is not handler and record.levelno >= each.level and not _is_console(each):
                    each.handle(record)
            current = current.parent if current.propagate else None

    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]


def _is_console(handler: logging.Handler) -> bool:
    consoles = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, logging.StreamHandler) and handler.stream in consoles
