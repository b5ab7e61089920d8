"""The display of rich at the bottom of the terminal. Managers and maps that run at the same time share it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from procbackground.observers.extras import import_extra
from procbackground.observers.logs_above import LogsAbove, is_terminal

REFRESHES = 8  # a second
STOP_S = 1.0  # for the thread that refreshes, which only reads facts of its run

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
        self._drawn = _Drawn(console)
        self._lock = threading.RLock()  # held while the display changes; the `Live` has one of its own for prints
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="procbackground-display", daemon=True)

    def start(self) -> None:
        if self._live is not None:
            return
        before = sys.stdout, sys.stderr
        self._live = import_extra("rich.live", "rich", "progress").Live(
            get_renderable=self._render,
            console=self.console,
            auto_refresh=False,  # `_refresh` does it, so that nothing is redrawn while `print_last` writes
            redirect_stdout=is_terminal(sys.stdout),  # else what is printed belongs to a file or a pipe
            redirect_stderr=is_terminal(sys.stderr),
        )
        self.console.push_render_hook(self._drawn)
        self._live.start()
        self._logs.redirect(dict(zip(before, (sys.stdout, sys.stderr), strict=True)))
        self._thread.start()

    def _refresh(self) -> None:
        while not self._has_ended.wait(1 / REFRESHES):
            with self._lock:
                if not self._has_ended.is_set():
                    self._live.refresh()

    def print_last(self, render: Callable[[], Any]) -> None:
        """Leave what `render` returns above what is still drawn."""
        with self._lock:  # else it may be redrawn, in another height, before this is written
            self.renders.remove(render)
            self.console.print(render())
            self._live.refresh()

    def stop(self) -> None:
        with self._lock:
            self._has_ended.set()
            self._logs.restore()
            self._live.stop()
            self.console.pop_render_hook()
        self._thread.join(STOP_S)

    def _render(self) -> Any:
        group = import_extra("rich.console", "rich", "progress").Group(*(render() for render in tuple(self.renders)))
        return self._drawn.measured(group)


class _Drawn:
    """The lines that were drawn last: a terminal that becomes narrower wraps them, and they take more rows.

    As a hook of the console, which sees all that is printed, it erases these rows: the `Live` erases only as many as
    there were lines. In the few terminals that cut lines in place of wrapping them, such as xterm, this erases as many
    lines above the display.
    """

    def __init__(self, console: Any) -> None:
        self._console = console
        self._columns: list[int] = []  # of each line

    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        """Return what is to be printed, after what erases these rows."""
        width = max(1, self._console.width)
        rows = sum((columns - 1) // width for columns in self._columns if columns)
        self._columns = []
        if not rows:
            return renderables
        kinds = import_extra("rich.segment", "rich", "progress").ControlType
        erase = ((kinds.CURSOR_UP, 1), (kinds.ERASE_IN_LINE, 2)) * rows
        return [import_extra("rich.control", "rich", "progress").Control(*erase), *renderables]

    def measured(self, renderable: Any) -> _Measured:
        """Return something that is drawn as `renderable`, and is known here then."""
        return _Measured(renderable, self._take)

    def _take(self, columns: list[int]) -> None:
        self._columns = columns[: self._console.height]  # more are not drawn


class _Measured:
    def __init__(self, renderable: Any, take: Callable[[list[int]], None]) -> None:
        self._renderable = renderable
        self._take = take

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        segment = import_extra("rich.segment", "rich", "progress").Segment
        lines = console.render_lines(self._renderable, options, pad=False)
        self._take([segment.get_line_length(line) for line in lines])
        for number, line in enumerate(lines):
            if number:
                yield segment.line()
            yield from line
