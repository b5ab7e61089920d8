"""The handler of the child's root logger; loaded only where `logging` is."""

from __future__ import annotations

import logging
import logging.handlers

from procbackground._worker import relay


class _RelayHandler(logging.handlers.QueueHandler):
    """Prepares records as for a queue, and sends them up the worker's pipe."""

    def enqueue(self, record: logging.LogRecord) -> None:
        relay.send("logging", record.__dict__)


the_handler = _RelayHandler(None)  # type: ignore[arg-type]  # there is no queue: `enqueue` sends
