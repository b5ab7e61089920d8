"""Shows a run in the terminal by rich: a bar for all tasks, a line for each that runs, and the last failures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from procbackground._printable import printable
from procbackground.observers.base import EVENT_NAMES
from procbackground.observers.extras import import_extra
from procbackground.observers.live import show
from procbackground.observers.logs_above import is_terminal
from procbackground.observers.plain import PlainProgressObserver
from procbackground.observers.runs import Run, Running, RunObserver, duration, number

if TYPE_CHECKING:
    from procbackground import events

SHOWN_AFTER_S = 0.5  # tasks that have run for less have no line, unless they report progress: it could not be read
OTHER_LINES = 8  # of the terminal, for the bar, the failures and a line of the shell
ECHO = 4  # columns: ^C twice between two refreshes
NARROW = 100  # columns, below which messages and CPU are left out


class RichProgressObserver(RunObserver):
    """A display at the bottom of the terminal; what is printed or logged meanwhile appears above it.

    The bar counts one-off tasks. A line shows a running task's own progress, its time, memory and CPU. Where standard
    error is no terminal, or NO_COLOR is set, plain lines are written instead; see `PlainProgressObserver`. Needs the
    extra `rich`.

    What tasks write to the terminal themselves does not pass through the parent, and cuts through the display; with
    `Manager(output="relay")` it appears above it, too.

    Args:
        console: a `rich.console.Console`; one for standard error by default.
    """

    def __init__(self, console: Any = None) -> None:
        super().__init__()
        self._console: Any = _rich("console").Console(stderr=True) if console is None else console
        self._hide: Callable[[], None] | None = None
        self._lines = 0  # most that there were for running tasks: the display never shrinks, so that nothing jumps
        is_drawn = self._console.is_terminal and not self._console.is_dumb_terminal and not os.environ.get("NO_COLOR")
        if console is None and not self._console.is_jupyter and not is_terminal(sys.stderr):
            is_drawn = False  # FORCE_COLOR has rich take a pipe for a terminal: for colours, but nothing can move there
        if not is_drawn:
            plain = PlainProgressObserver(None if console is None else console.file)
            for name in EVENT_NAMES:
                setattr(self, name, getattr(plain, name))

    # -- events --------------------------------------------------------------------------------------------

    def on_task_progress(self, event: events.TaskProgress) -> None:
        self._run.take_progress(event)

    def on_process_sampled(self, event: events.ProcessSampled) -> None:
        self._run.take_sample(event)

    def on_manager_closed(self, event: events.ManagerClosed) -> None:
        self._run.running.clear()
        self._lines = 0
        if self._hide is not None:
            self._hide()
            self._hide, self._run = None, Run()

    # -- the display ---------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self._hide is None:
            self._hide = show(self._console, self._render)

    def _render(self) -> Any:
        parts = [self._total()]
        running = self._shown()
        most = max(1, self._console.height - OTHER_LINES)
        hidden = max(0, len(running) - most)
        if running:
            parts.append(self._tasks(running[:most]))
        if hidden:
            parts.append(_text(f"... and {hidden} more that run", "dim"))
        lines = min(len(running), most) + bool(hidden)
        self._lines = max(self._lines, lines)
        parts += [_text(" ")] * (self._lines - lines)
        parts += [_text(f"failed: {printable(each)}", "red") for each in list(self._run.failures)]
        return free_of_echo(_rich("console").Group(*parts), self._console)

    def _shown(self) -> list[Running]:
        now = time.time()
        running = list(self._run.running.values())
        return [each for each in running if each.done is not None or now - each.since > SHOWN_AFTER_S]

    def _total(self) -> Any:
        run = self._run
        grid = _rich("table").Table.grid(padding=(0, 1), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        share = 100 * run.ended / run.added if run.added else 0.0
        style = "red" if run.failed else "bar.complete"
        bar = _rich("progress_bar").ProgressBar(
            total=max(1, run.added), completed=run.ended, complete_style=style, finished_style=style
        )
        grid.add_row(bar, _text(f"{share:3.0f}% {run.summary()}"))
        return grid

    def _tasks(self, running: list[Running]) -> Any:
        is_wide = self._console.width >= NARROW
        grid = _rich("table").Table.grid(padding=(0, 1), expand=True)
        grid.add_column(ratio=2, no_wrap=True, overflow="ellipsis")  # name
        grid.add_column(width=24 if is_wide else 12, no_wrap=True)  # bar
        grid.add_column(ratio=3 if is_wide else 2, no_wrap=True, overflow="ellipsis", style="dim")  # words
        grid.add_column(justify="right", no_wrap=True)  # time
        grid.add_column(justify="right", no_wrap=True)  # memory
        if is_wide:
            grid.add_column(justify="right", no_wrap=True)  # CPU
        now = time.time()
        for each in running:
            name = each.name if each.attempt == 1 else f"{each.name} (attempt {each.attempt})"
            memory = "" if each.rss is None else f"{each.rss / 2**20:.0f} MiB"
            cells = [
                _text(printable(name)), _bar_of(each), _text(_words_of(each)),
                _text(duration(max(0.0, now - each.since))), _text(memory),
            ]  # fmt: skip
            if is_wide:
                cells.append(_text("" if each.cpu_percent is None else f"{each.cpu_percent:.0f}% CPU"))
            grid.add_row(*cells)
        return grid


def free_of_echo(renderable: Any, console: Any) -> Any:
    """Return what is drawn without the last columns. The terminal writes ^C there, where the cursor is. In a line that
    is full, it would begin another line, and the display would be drawn again below."""
    return _rich("constrain").Constrain(renderable, max(1, console.width - ECHO))


def _rich(module: str) -> Any:
    return import_extra(f"rich.{module}", "rich", "RichProgressObserver")


def _words_of(running: Running) -> str:
    parts = []
    if running.done is not None:
        of_total = "" if running.total is None else f"/{number(running.total)}"
        parts.append(f"{number(running.done)}{of_total}")
    if running.message:
        parts.append(printable(running.message))
    return " ".join(parts)


def _bar_of(running: Running) -> Any:
    if running.done is None or not running.total:
        return _text("")
    return _rich("progress_bar").ProgressBar(total=running.total, completed=running.done)


def _text(text: str, style: str = "") -> Any:
    # Not markup: a name may contain brackets.
    return _rich("text").Text(text, style=style, no_wrap=True, overflow="ellipsis")
