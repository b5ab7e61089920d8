"""Sends the child's log records, those of the standard library and of loguru, to the parent's handlers.

Neither library is imported for that: `logging` is 5 ms of a worker's start and loguru 50, which most children need
not spend. A library that is not loaded when the worker starts is set up after its first import.
"""

from __future__ import annotations

import functools
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


def prepare() -> None:
    """In a zygote: make now what its forks would each have to make for the libraries that are loaded."""
    if "logging" in sys.modules:
        _logging_handler()


def install(channel: Channel, level: int) -> None:
    """Send the records of `level` and above to the parent.

    Existing handlers are removed: a handler that a module configured during its import would print a record again.
    """
    global _channel, _level
    _channel, _level = channel, level
    for library in _libraries:
        if library.name in sys.modules:
            library.set_up()
        else:
            sys.meta_path.insert(0, library)


def only_waits() -> bool:
    """Whether `install` has nothing to do but wait for imports."""
    return not any(library.name in sys.modules for library in _libraries)


def uninstall() -> None:
    """Undo an `install` that only waited for imports."""
    global _channel
    _channel = None
    for library in _libraries:
        sys.meta_path.remove(library)


class _Library:
    """A library that logs. On `sys.meta_path` it waits for the child's first import, and then calls `set_up`."""

    def __init__(self, name: str, set_up: Callable[[], None]) -> None:
        self.name = name
        self.set_up = set_up

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.name:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_set_up(module: Any) -> None:
                load(module)
                self.set_up()

            spec.loader.exec_module = load_and_set_up  # type: ignore[method-assign]
        return spec


def _send(library: str, facts: dict[str, Any]) -> None:
    if _channel is not None and _channel.is_own:
        _channel.send(wire.LOG_RECORD, 0, pickle.dumps((library, facts), PROTOCOL))


# -- logging -------------------------------------------------------------------------------------------------


@functools.cache
def _logging_handler() -> Any:
    from procbackground._worker.log_handler import RelayHandler

    return RelayHandler(functools.partial(_send, "logging"))


def _set_up_logging() -> None:
    import logging

    logging.root.handlers[:] = [_logging_handler()]
    logging.root.setLevel(_level)


# -- loguru --------------------------------------------------------------------------------------------------


def _set_up_loguru() -> None:
    from loguru import logger

    logger.remove()
    logger.add(_send_loguru, level=0, format="{message}", catch=True)


def _send_loguru(message: Any) -> None:
    record = message.record
    exception = record["exception"]
    facts = {
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
    _send("loguru", facts)


def _plain(value: Any) -> Any:
    """Return `value` if plain pickle can carry it, else its `repr`."""
    try:
        pickle.loads(pickle.dumps(value, PROTOCOL))
    except Exception:
        return repr(value)
    return value


_libraries = (_Library("logging", _set_up_logging), _Library("loguru", _set_up_loguru))
