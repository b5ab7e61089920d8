"""Makes the child audible: its log records, the standard library's and loguru's, travel to the parent's handlers.

Neither library is imported for that: `logging` is 5 ms of a worker's start and loguru 50, which most children need
not spend. What is not there when the worker starts is met at its first import.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable

from procbackground._wire import frames as wire
from procbackground._wire.pickling import PROTOCOL
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
    for library in _libraries:
        if library.name in sys.modules:
            library.join()
        else:
            sys.meta_path.insert(0, library)


def only_waits() -> bool:
    """Whether all that `install` has to do is wait for imports."""
    return not any(library.name in sys.modules for library in _libraries)


def uninstall() -> None:
    """Take back an `install` that only waited for imports."""
    global _channel
    _channel = None
    for library in _libraries:
        sys.meta_path.remove(library)


class _Library:
    """A library that logs. On `sys.meta_path` it waits for the child's first import, and joins once it is loaded."""

    def __init__(self, name: str, join: Callable[[], None]) -> None:
        self.name = name
        self.join = join

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.name:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_join(module: Any) -> None:
                load(module)
                self.join()

            spec.loader.exec_module = load_and_join  # type: ignore[method-assign]
        return spec


def _install_logging() -> None:
    import logging

    from procbackground._worker.log_handler import the_handler

    logging.root.handlers[:] = [the_handler]
    logging.root.setLevel(_level)


def send(library: str, facts: dict[str, Any]) -> None:
    """Send what was logged."""
    if _channel is not None and _channel.is_own:
        _channel.send(wire.LOG_RECORD, 0, pickle.dumps((library, facts), PROTOCOL))


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


_libraries = (_Library("logging", _install_logging), _Library("loguru", _install_loguru))
