"""Makes the child audible: its log records, the standard library's and loguru's, travel to the parent's handlers."""

from __future__ import annotations

import logging
import logging.handlers
import pickle
import sys
from typing import Any

from procbackground import _wire
from procbackground._pickling import PROTOCOL
from procbackground._worker.channel import Channel

_channel: Channel | None = None


class _RelayHandler(logging.handlers.QueueHandler):
    """Prepares records as for a queue, and sends them up the worker's pipe."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # there is no queue: `enqueue` sends

    def enqueue(self, record: logging.LogRecord) -> None:
        if _channel is not None and _channel.is_own:
            body = pickle.dumps(("logging", record.__dict__), PROTOCOL)
            _channel.send(_wire.LOG_RECORD, 0, body)


_handler: _RelayHandler | None = None


def prepare() -> None:
    """Make what `install` needs, in a process that workers are forked from: a tenth of what starting one costs."""
    global _handler
    _handler = _RelayHandler()


def install(channel: Channel, level: int) -> None:
    """Replace the root logger's handlers by one that sends records of `level` and above to the parent.

    What a module configured while it was imported would print a second time.
    """
    global _channel
    _channel = channel
    if _handler is None:
        prepare()
    logging.root.handlers[:] = [_handler]  # type: ignore[list-item]
    logging.root.setLevel(level)
    if "loguru" in sys.modules:
        _install_loguru()
    else:
        sys.meta_path.insert(0, _LoguruImport())


class _LoguruImport:
    """Waits for the child's first import of loguru, which is 50 ms that most children need not spend."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "loguru":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_install(module: Any) -> None:
                load(module)
                _install_loguru()

            spec.loader.exec_module = load_and_install  # type: ignore[method-assign]
        return spec


def _install_loguru() -> None:
    """Likewise for loguru."""
    from loguru import logger

    logger.remove()
    logger.add(_send_loguru, level=0, format="{message}", catch=True)


def _send_loguru(message: Any) -> None:
    record = message.record
    exception = record["exception"]
    shown = {
        "level": record["level"].name,
        "level_no": record["level"].no,
        "message": record["message"],
        "name": record["name"],
        "function": record["function"],
        "line": record["line"],
        "time": record["time"],
        "extra": {str(key): _plain(value) for key, value in record["extra"].items()},
        "exception": str(message) if exception is not None else None,
    }
    if _channel is not None and _channel.is_own:
        _channel.send(_wire.LOG_RECORD, 0, pickle.dumps(("loguru", shown), PROTOCOL))


def _plain(value: Any) -> Any:
    """Return `value` if it crosses by plain pickle, else its text."""
    try:
        pickle.loads(pickle.dumps(value, PROTOCOL))
    except Exception:
        return repr(value)
    return value
