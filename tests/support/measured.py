"""Lets coverage.py follow the threads that `_thread` starts. By itself it knows those of `threading`."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from typing import Any

from procbackground import _load
from procbackground._submit import closing


def follow_raw_threads() -> None:
    """Have them begin with the trace function that threads of `threading` begin with; nothing where there is none."""
    trace, start = threading.gettrace(), _thread.start_new_thread
    if trace is None:
        return

    def start_followed(run: Callable[..., object], args: tuple[Any, ...]) -> int:
        def followed() -> None:
            sys.settrace(trace)
            run(*args)

        return start(followed, ())

    _thread.start_new_thread = _load.start_new_thread = closing.start_new_thread = start_followed  # type: ignore
