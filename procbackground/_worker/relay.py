"""Makes the child audible: its log records, the standard library's and loguru's, travel to the parent's handlers.

Neither library is imported for that: `logging` is 5 ms of a worker's start and loguru 50, which most children need
not spend. What is not there when the worker starts is met at its first import.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable

from procbackground import _wire
from procbackground._pickling import PROTOCOL
from procbackground._worker.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_channel: Channel | None = None
_level = 0  # of the parent: records below it stay in the child


def install(channel: Channel, level: int) -> None:
    """Have the records of `level` and above go to the parent, instead of to the handlers that there may be.

    What a module configured while it was imported would print a second time.
    """
    global _channel, _level
    _channel, _level = channel, level
    for library, join in (("logging", _install_logging), ("loguru", _install_loguru)):
        if library in sys.modules:
            join()
        else:
            sys.meta_path.insert(0, _FirstImport(library, join))


class _FirstImport:
    """Waits for the child's first import of a module, and acts once it is loaded."""

    def __init__(self, name: str, act: Callable[[], None]) -> None:
        self._name = name
        self._act = act

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self._name:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_act(module: Any) -> None:
                load(module)
                self._act()

            spec.loader.exec_module = load_and_act  # type: ignore[method-assign]
        return spec


def _install_logging() -> None:
    import logging

    from procbackground._worker.log_handler import the_handler

    logging.root.handlers[:] = [the_handler]
    logging.root.setLevel(_level)


def send(library: str, facts: dict[str, Any]) -> None:
    """Send what was logged."""
    if _channel is not None and _channel.is_own:
        _channel.send(_wire.LOG_RECORD, 0, pickle.dumps((library, facts), PROTOCOL))


def _install_loguru() -> None:
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
    send("loguru", shown)


def _plain(value: Any) -> Any:
    """Return `value` if it crosses by plain pickle, else its text."""
    try:
        pickle.loads(pickle.dumps(value, PROTOCOL))
    except Exception:
        return repr(value)
    return value
