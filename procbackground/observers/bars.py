"""The bar of one `map(..., progress=True)`. Any thread may advance it; it is drawn by the library that suits."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from procbackground._printable import printable
from procbackground.observers.extras import import_extra
from procbackground.observers.names import display
from procbackground.observers.plain import EACH_S, FIRST_S
from procbackground.observers.runs import duration, per_second


def make_bar(name: str, total: int | None) -> Bar:
    """Return a bar for `total` items of the function `name`; drawn from the first item on."""
    kind = display()
    if kind == "rich":
        return RichBar(name, total)
    return TqdmBar(name, total) if kind == "tqdm" else PlainBar(name, total)


class Bar:
    """Counts items, and shows how many are done."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        self.total = total
        self.done: int = 0
        self.failed: int = 0
        self.began_s: float = time.monotonic()
        self._lock = threading.Lock()
        self._is_closed = False

    def advance(self, count: int, *, failed: int = 0) -> None:
        """`count` more items are done, `failed` of them by failing."""
        with self._lock:
            if not self._is_closed:
                self.done += count
                self.failed += failed
                self._draw(count)
                if self.done == self.total:
                    self._is_closed = True  # the results may never be taken
                    self._finish()

    def close(self, missing: int = 0) -> None:
        """Draw it for the last time, with `missing` more done. May be called more than once."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                if missing:
                    self.done += missing
                    self._draw(missing)
                self._finish()

    def _draw(self, count: int) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError


class PlainBar(Bar):
    """A line now and then, and one at the end."""

    def __init__(self, name: str, total: int | None) -> None:
        super().__init__(name, total)
        self._due_s = self.began_s + FIRST_S

    def _draw(self, count: int) -> None:
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + EACH_S
            self._write()

    def _finish(self) -> None:
        self._write()

    def _write(self) -> None:
        seconds = time.monotonic() - self.began_s
        of_total = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.done}{of_total} items"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        parts.append(per_second(self.done / max(1e-3, seconds)))
        left = None if self.total is None or not self.done else (self.total - self.done) * seconds / self.done
        parts.append(f"{duration(left)} left" if left else f"in {duration(seconds)}")
        if sys.stderr is not None:
            sys.stderr.write(f"procbackground: {printable(self.name)}: {', '.join(parts)}\n")
            sys.stderr.flush()


class TqdmBar(Bar):
    """A bar of tqdm."""

    def __init__(self, name: str, total: int | None) -> None:
        tqdm = import_extra("tqdm.auto", "tqdm", "progress").tqdm
        super().__init__(name, total)
        self._bar: Any = tqdm(total=total, desc=printable(name), dynamic_ncols=True)

    def _draw(self, count: int) -> None:
        if self.failed:
            self._bar.set_postfix(failed=self.failed, refresh=False)
        self._bar.update(count)

    def _finish(self) -> None:
        self._bar.close()


class RichBar(Bar):
    """A bar of rich; what is printed or logged meanwhile appears above it."""

    def __init__(self, name: str, total: int | None) -> None:
        progress = import_extra("rich.progress", "rich", "progress")
        console = import_extra("rich.console", "rich", "progress").Console(stderr=True)

        from procbackground.observers.live import show
        from procbackground.observers.rich import free_of_echo

        super().__init__(name, total)
        columns = [
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[failures]}", style="red", markup=False),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        ]
        self._progress = progress.Progress(*columns, console=console, expand=True)  # not started: it makes the text
        self._task = self._progress.add_task(printable(name), total=total, failures="")
        self._hide = show(console, lambda: free_of_echo(self._progress.get_renderable(), console))

    def _draw(self, count: int) -> None:
        failures = f"{self.failed} failed" if self.failed else ""
        self._progress.update(self._task, completed=self.done, failures=failures)

    def _finish(self) -> None:
        self._hide()
