"""The handler of the child's root logger. A module of its own, because it is imported only where `logging` is."""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class RelayHandler(logging.handlers.QueueHandler):
    """Prepares records as for a queue, and passes their attributes to `send`."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # there is no queue
        self._send = send

    def enqueue(self, record: logging.LogRecord) -> None:
        self._send(record.__dict__)
