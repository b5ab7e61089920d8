"""Lets log handlers that were set up before a display write above it.

A display replaces `sys.stdout` and `sys.stderr`. A handler that was made before keeps the old stream, and its lines
would cut through the display.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any


class LogsAbove:
    """Redirects handlers to other streams, until `restore`."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def redirect(self, streams: dict[Any, Any]) -> None:
        """Have handlers that write to a key of `streams` write to its value. Raises nothing."""
        for old, new in streams.items():
            if old is None or new is old:
                continue
            for handler in _stream_handlers():
                if handler.stream is old:
                    handler.setStream(new)
                    self._undo.append(partial(handler.setStream, old))
            for sink in _loguru_sinks():
                if sink._stream is old:
                    sink._stream = new
                    self._undo.append(partial(setattr, sink, "_stream", old))

    def restore(self) -> None:
        """Let the handlers write where they did before."""
        while self._undo:
            self._undo.pop()()


def _stream_handlers() -> list[logging.StreamHandler[Any]]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]


def _loguru_sinks() -> list[Any]:
    """Return loguru's sinks that write to streams; none where its inside is not as it is known to be."""
    loguru = sys.modules.get("loguru")
    try:
        sinks = [handler._sink for handler in loguru.logger._core.handlers.values()]  # type: ignore[union-attr]
    except AttributeError:
        return []
    return [sink for sink in sinks if hasattr(sink, "_stream")]


def is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except Exception:
        return False  # closed, or absent
