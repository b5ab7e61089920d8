"""Sends the child's log records, those of the standard library and of loguru, to the parent's handlers.

Neither library is imported for that: `logging` is 5 ms of a worker's start and loguru 50, which most children need
not spend. A library that is not loaded when the worker starts is set up after its first import.
"""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Callable, Sequence

from procbackground._wire import frames as wire
from procbackground._wire.failures import dump_failure
from procbackground._wire.mainmodule import MAIN_NAMES, renamed
from procbackground._wire.pickling import PROTOCOL
from procbackground._worker.channel import Channel
from procbackground._worker.late_imports import OnImport
from procbackground.errors import repr_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LAST_RESORT_LEVEL = 30  # WARNING, as `logging.lastResort` has it
_PLAIN = frozenset({str, int, float, bool, type(None)})


class Levels:
    """The parent's levels: records below them are not made in a child."""

    def __init__(
        self,
        root: int = 0,
        loggers: dict[str, int] | None = None,
        disabled: int = 0,
        loguru: int = 0,
        activation: Sequence[tuple[str, bool]] = (),
        captures_warnings: bool = False,
    ) -> None:
        self.root: int = root
        self.loggers: dict[str, int] = loggers or {}  # by name, of those that have a level of their own
        self.disabled: int = disabled  # as in `logging.disable`
        self.loguru: int = loguru  # the lowest of any sink
        self.activation = activation  # names of modules that loguru was told to enable or disable
        self.captures_warnings = captures_warnings  # by `logging.captureWarnings`


_channel: Channel | None = None
_levels = Levels()
_find_sequence: Callable[[], int] = int  # returns the number of the running request, or 0
_prepared: set[str] = set()  # names of libraries that were set up before a fork


def prepare(levels: Levels) -> None:
    """In a zygote: set up `logging` if it is loaded, so that the forks need not: 100 page faults less each, of 620.

    What the zygote itself logs is printed then, if it is a warning or worse. What may run the user's code, and so may
    never end, is left to each fork: loguru, which stops its sinks, and loggers of the user's own classes.
    """
    global _levels
    forget_preparation()
    if levels.captures_warnings:
        import logging  # noqa: F401  # each fork needs it
    if "logging" in sys.modules:
        from procbackground._worker.log_handler import is_plain, take_over

        if is_plain():
            _levels = levels
            take_over(_logging_handler(), levels)
            _prepared.add("logging")


def forget_preparation() -> None:
    """Modules were imported since `prepare`, that may have set up loggers."""
    _prepared.clear()


def install(channel: Channel, levels: Levels, find_sequence: Callable[[], int]) -> None:
    """Send records to the parent from now on, as far as the parent's `levels` let them through."""
    global _channel, _levels, _find_sequence
    _channel, _levels, _find_sequence = channel, levels, find_sequence
    if levels.captures_warnings:
        import logging  # noqa: F401
    for library in _libraries:
        if library.name not in sys.modules:
            sys.meta_path.insert(0, library)
        elif library.name not in _prepared:
            library.set_up()


def is_prepared() -> bool:
    """Whether `install` sets up no library, which may run the user's code: all that are loaded are prepared."""
    return all(library.name in _prepared or library.name not in sys.modules for library in _libraries)


def uninstall() -> None:
    """Undo an `install` that has set up no library, and keep nothing of who called it: each fork would free that."""
    global _channel, _find_sequence
    _channel, _find_sequence = None, int
    for library in _libraries:
        if library in sys.meta_path:
            sys.meta_path.remove(library)


def _send(library: str, facts: dict[str, Any], extra: dict[str, Any], error: BaseException | None) -> None:
    """Send a record: what is plain data in one pickle, and each extra value that is not in a pickle of its own."""
    channel = _channel
    if channel is None or not channel.is_own:
        if facts.get("levelno", 0) >= LAST_RESORT_LEVEL:
            # Of a process that the task forked, which has no pipe of its own.
            print(facts["msg"] % facts["args"] if facts.get("args") else facts["msg"], file=sys.stderr)
        return
    plain = {name: value for name, value in extra.items() if type(value) in _PLAIN}
    packed = {str(name): _pack(value) for name, value in extra.items() if type(value) not in _PLAIN}
    failure = None if error is None else dump_failure(error, frames_to_skip=0)
    if facts["name"]:
        facts["name"] = renamed(facts["name"], *reversed(MAIN_NAMES))  # as the parent calls its main module
    channel.send(wire.LOG_RECORD, _find_sequence(), pickle.dumps((library, facts, plain, packed, failure), PROTOCOL))


def _pack(value: Any) -> bytes | str:
    """Return the pickled `value`, or its `repr` where it cannot be pickled."""
    try:
        return pickle.dumps(value, PROTOCOL)
    except Exception:
        return repr_of(value)


# -- logging -------------------------------------------------------------------------------------------------


@functools.cache
def _logging_handler() -> Any:
    from procbackground._worker.log_handler import RelayHandler

    return RelayHandler(functools.partial(_send, "logging"))


def _set_up_logging() -> None:
    from procbackground._worker.log_handler import take_over

    take_over(_logging_handler(), _levels)


# -- loguru --------------------------------------------------------------------------------------------------


def _set_up_loguru() -> None:
    from loguru import logger

    logger.remove()
    logger.add(_send_loguru, level=_levels.loguru, format=lambda record: "", catch=True)
    logger.configure(activation=_levels.activation)


def _send_loguru(message: Any) -> None:
    record = message.record
    level, exception, file, thread = (record[name] for name in ("level", "exception", "file", "thread"))
    facts = {
        "level": (level.name, level.no, level.icon),
        "levelno": level.no,
        "msg": record["message"],
        "name": record["name"],
        "function": record["function"],
        "module": record["module"],
        "line": record["line"],
        "time": record["time"],
        "file": (file.name, file.path),
        "thread": (thread.id, thread.name),
        "process_name": record["process"].name,
    }
    _send("loguru", facts, record["extra"], None if exception is None else exception.value)


_libraries = (OnImport("logging", _set_up_logging), OnImport("loguru", _set_up_loguru))
