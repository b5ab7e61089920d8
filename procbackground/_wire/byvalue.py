"""Pickles what plain pickle cannot, and by value what the other side cannot import; imported on first need.

With cloudpickle and the reducers that others have registered with `multiprocessing`. Differs from cloudpickle in five
points. An open file is refused. A logger of loguru is the other side's own, without the sinks of this side. What the
other side's main module has is referred to, so that a lambda and the arguments of its task mean the same classes. Code
keeps the name of its file, with its source lines where no file has them, as in a notebook: tracebacks show what they
show in the parent. A `lazy import` is resolved when it is sent.
"""

from __future__ import annotations

import io
import linecache
import os
import sys
import types
from collections import ChainMap
from multiprocessing.reduction import ForkingPickler
from pickle import PicklingError
from types import CodeType

import cloudpickle  # type: ignore[import-untyped]

from procbackground._wire.mainmodule import belongs_to_main, can_refer_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

_BY_VALUE: Any = cloudpickle.Pickler.dispatch_table
# Types that others have registered with `multiprocessing`.
_REGISTERED: Any = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
LOGURU = "loguru._logger"  # where the class of its loggers is
_MOST_LINES = 2000  # of one function; more are left out of the traceback


def dumps(value: Any, protocol: int, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """Pickle `value`. Raises whatever cloudpickle raises."""
    with io.BytesIO() as file:
        _Pickler(file, protocol=protocol, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()


def _refuse_file(file: io.TextIOWrapper) -> tuple[Any, ...]:
    """Refuse an open file: cloudpickle would send a copy of its content, and nothing written to it would come back."""
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name):
            return getattr, (sys, name)
    raise PicklingError("cannot pickle an open file; give the task the file's path")


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    rebuild, parts = _BY_VALUE[CodeType](code)
    return _restore_code, (rebuild, parts, code.co_filename, code.co_firstlineno, _lines_of(code))


def _reduce_loguru(logger: Any) -> Any:
    """Refer to the other side's logger, whose records are passed on; a copy of the sinks would write there."""
    if getattr(logger, "_core", None) is not sys.modules["loguru"].logger._core:
        return NotImplemented  # a copy with sinks of its own
    return _restore_loguru, (logger._options,)


def _restore_loguru(options: tuple[Any, ...]) -> Any:
    from loguru import logger

    own: Any = logger
    return type(own)(own._core, *options)  # with what was bound, patched and opted for


def _reduce_lazy_import(lazy: Any) -> tuple[Any, ...]:
    """Import what a name stands for that was not used yet after its `lazy import`, and send that."""
    return _itself, (lazy.resolve(),)


def _itself(value: Any) -> Any:
    return value


_OWN: Any = {io.TextIOWrapper: _refuse_file, CodeType: _reduce_code}
_LAZY_IMPORT: Any = getattr(types, "LazyImportType", None)  # of Python 3.15; cloudpickle 3.1 does not know it
if _LAZY_IMPORT is not None:
    _OWN[_LAZY_IMPORT] = _reduce_lazy_import


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it is untyped
    dispatch_table: ClassVar[ChainMap[Any, Any]] = ChainMap(_OWN, _BY_VALUE, _REGISTERED)

    def reducer_override(self, obj: Any) -> Any:
        if belongs_to_main(obj) and can_refer_to(obj):
            return NotImplemented  # by name
        if type(obj).__module__ == LOGURU:
            return _reduce_loguru(obj)
        return super().reducer_override(obj)


def _lines_of(code: CodeType) -> list[str]:
    """Return the source lines of a function that no file has; none where a file has them, or nothing does."""
    if os.path.isfile(code.co_filename):
        return []
    # Newer Pythons keep the source of `-c` and of the prompt by code object.
    by_code: Callable[[CodeType], list[str]] | None = getattr(linecache, "_getlines_from_code", None)
    main = sys.modules.get("__main__")
    names = main.__dict__ if getattr(main, "__file__", None) == code.co_filename else None  # an archive's loader
    lines = linecache.getlines(code.co_filename, names) or (by_code(code) if by_code is not None else [])
    numbers = [number for _, _, number in code.co_lines() if number is not None]
    first, last = code.co_firstlineno, max(numbers, default=code.co_firstlineno)
    return lines[max(first - 1, 0) : min(last, first + _MOST_LINES)]


def _restore_code(
    rebuild: Callable[..., CodeType], parts: tuple[Any, ...], filename: str, first: int, lines: list[str]
) -> CodeType:
    """Return the code, and have tracebacks find its lines. Runs where it is loaded."""
    if lines and not os.path.isfile(filename):
        entry = linecache.cache.get(filename)
        known = entry[2] if entry is not None and len(entry) == 4 else []
        start = max(first - 1, 0)
        merged = list(known) + ["\n"] * (start + len(lines) - len(known))
        merged[start : start + len(lines)] = lines
        linecache.cache[filename] = (sum(map(len, merged)), None, merged, filename)  # no time: it is not checked again
    return rebuild(*parts).replace(co_filename=filename)
