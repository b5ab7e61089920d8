"""Shows a tqdm bar, in a terminal or a notebook."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from procbackground.observers.extras import import_extra
from procbackground.observers.runs import Run, RunObserver

if TYPE_CHECKING:
    from procbackground import events

EACH_S = 0.1


class TqdmObserver(RunObserver):
    """One tqdm bar for all one-off tasks of a manager, with the numbers of failed and running ones behind it.

    In a notebook it is a widget, as `tqdm.auto` chooses. Needs the extra `tqdm`.

    Args:
        options: passed to `tqdm`, such as `desc`, `leave` or `file`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._make = import_extra("tqdm.auto", "tqdm", "TqdmObserver").tqdm
        self._options = {"unit": "task", "dynamic_ncols": True, **options}
        self._bar: Any = None
        self._due_s = 0.0

    def on_manager_closed(self, event: events.ManagerClosed) -> None:
        if self._bar is not None:
            self._look(is_last=True)
            self._bar.close()
            self._bar, self._run = None, Run()

    def _look(self, *, is_last: bool = False) -> None:
        """Draw the bar anew, ten times a second at the most."""
        if self._bar is None:
            self._bar = self._make(total=self._run.added, **self._options)
        now_s = time.monotonic()
        if now_s < self._due_s and not is_last:
            return
        self._due_s = now_s + EACH_S
        run, facts = self._run, {}
        if self._bar.total != run.added:
            self._set_total(run.added)
        for name in ("failed", "cancelled", "retried"):
            if getattr(run, name):
                facts[name] = getattr(run, name)
        if run.running and not is_last:
            facts["running"] = len(run.running)
        self._bar.set_postfix(facts, refresh=False)
        self._bar.update(run.ended - self._bar.n)
        if is_last:
            self._bar.refresh()

    def _set_total(self, total: int) -> None:
        self._bar.total = total
        widget = getattr(self._bar, "container", None)
        if widget is not None:  # tqdm tells the widget of a notebook only when it makes or resets a bar
            widget.children[1].max = total
