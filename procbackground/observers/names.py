"""Observers by name: those of this package, and those that other packages offer as entry points."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from procbackground.observers.base import events_wanted_by
from procbackground.observers.logs_above import is_terminal

GROUP = "procbackground.observers"

# name: (module, class)
OWN = {
    "logging": ("log", "LoggingObserver"),
    "loguru": ("loguru", "LoguruObserver"),
    "jsonlines": ("jsonlines", "JsonLinesObserver"),
    "plain": ("plain", "PlainProgressObserver"),
    "rich": ("rich", "RichProgressObserver"),
    "tqdm": ("tqdm", "TqdmObserver"),
    "prometheus": ("prometheus", "PrometheusObserver"),
    "opentelemetry": ("opentelemetry", "OpenTelemetryObserver"),
}


def observer_by_name(name: str) -> Any:
    """Return a new observer: one of `OWN`, else the entry point `name` of the group `procbackground.observers`.

    An entry point names a class, or a function, that is called without arguments; or an observer itself.
    Raises: `ValueError` for an unknown name; what the import or the call raises.
    """
    if name in OWN:
        module, cls = OWN[name]
        return getattr(import_module(f"procbackground.observers.{module}"), cls)()
    from importlib.metadata import entry_points  # takes longer to load than all of this package

    found = [*entry_points(group=GROUP, name=name)]
    if not found:
        offered = sorted({*OWN, *(each.name for each in entry_points(group=GROUP))})
        raise ValueError(f"there is no observer named {name!r}; there are {', '.join(offered)}")
    offer = found[0].load()
    is_observer = not isinstance(offer, type) and bool(events_wanted_by(offer))
    return offer if is_observer else offer()


def progress_observer() -> Any:
    """Return the observer for `Manager(progress=True)`.

    In a terminal that of rich, else that of tqdm, where they are installed; in a notebook that of tqdm; else, and where
    standard error is no terminal or NO_COLOR is set, plain lines.
    """
    return observer_by_name(display())


def display() -> str:
    """Return the name of what shows progress here: "rich", "tqdm" or "plain"."""

    def can_import(module: str) -> bool:
        try:
            import_module(module)
        except ImportError:
            return False
        return True

    if is_notebook():
        return "tqdm" if can_import("tqdm.auto") else "plain"
    if not is_terminal(sys.stderr) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return "plain"
    if can_import("rich.live"):
        return "rich"
    return "tqdm" if can_import("tqdm.auto") else "plain"


def is_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
