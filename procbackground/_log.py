"""The logger of this package. Its calls never raise: they are made in threads whose end would be the end of a manager.

A handler or a filter is the user's code, and may raise anything.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any

__all__ = ["logger"]


class _SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """Writes to standard error what a handler raises, and the record that it raised for."""

    def log(self, level: int, msg: object, *args: object, stacklevel: int = 1, **options: Any) -> None:
        try:
            super().log(level, msg, *args, stacklevel=stacklevel + 1, **options)  # `log` here is no caller
        except BaseException as error:
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise  # Ctrl-C
            with suppress(Exception):
                _tell(str(msg), args)


def _tell(text: str, args: tuple[object, ...]) -> None:
    """Write the record and the exception to standard error, if there is one."""
    if sys.stderr is not None:
        with suppress(Exception):  # what cannot be formatted is shown as it is
            text = text % args
        sys.stderr.write(f"procbackground: a log handler failed for {text!r}:\n{traceback.format_exc()}")
        sys.stderr.flush()


logger = _SafeLogger(logging.getLogger("procbackground"))
