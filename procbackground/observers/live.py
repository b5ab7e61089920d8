"""The display of rich at the bottom of the terminal. Managers and maps that run at the same time share it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from procbackground.observers.extras import import_extra
from procbackground.observers.logs_above import LogsAbove, is_terminal

REFRESHES = 8  # a second

_lock = threading.Lock()
_displays: dict[int, _Display] = {}  # that are drawn now, by the id of their stream


def show(console: Any, render: Callable[[], Any]) -> Callable[[], None]:
    """Draw what `render` returns from now on; return a function that ends this, and leaves it as it is then.

    What is printed or logged meanwhile appears above it. In one terminal a second display would draw over the first.
    """
    with _lock:
        key = id(console.file)
        display = _displays.get(key)
        if display is None:
            display = _displays[key] = _Display(console)
        display.renders.append(render)
        display.start()
    return partial(_hide, key, render)


def _hide(key: int, render: Callable[[], Any]) -> None:
    with _lock:
        display = _displays[key]
        if display.renders == [render]:
            del _displays[key]
            display.stop()
        else:
            display.print_last(render)


class _Display:
    def __init__(self, console: Any) -> None:
        self.console = console
        self.renders: list[Callable[[], Any]] = []
        self._live: Any = None
        self._logs = LogsAbove()

    def start(self) -> None:
        if self._live is not None:
            return
        before = sys.stdout, sys.stderr
        self._live = import_extra("rich.live", "rich", "progress").Live(
            get_renderable=self._render,
            console=self.console,
            refresh_per_second=REFRESHES,
            redirect_stdout=is_terminal(sys.stdout),  # else what is printed belongs to a file or a pipe
            redirect_stderr=is_terminal(sys.stderr),
        )
        self._live.start()
        self._logs.redirect(dict(zip(before, (sys.stdout, sys.stderr), strict=True)))

    def print_last(self, render: Callable[[], Any]) -> None:
        """Leave what `render` returns above what is still drawn."""
        with self._live._lock:  # else it may be redrawn, in another height, before this is written
            self.renders.remove(render)
            self.console.print(render())
            self._live.refresh()

    def stop(self) -> None:
        self._logs.restore()
        self._live.stop()

    def _render(self) -> Any:
        return import_extra("rich.console", "rich", "progress").Group(*(render() for render in tuple(self.renders)))
