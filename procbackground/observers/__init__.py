"""Observers of a manager's events.

The modules:

    base                `Observer`, the class to derive from
    callback            `CallbackObserver`: plain functions
    lines, log, loguru  `LoggingObserver` and `LoguruObserver`: events as log records, and what both have in common
    jsonlines           `JsonLinesObserver`: events as objects in a file
    runs                the state of a run, for those that show it
    plain, rich, tqdm   `PlainProgressObserver`, `RichProgressObserver`, `TqdmObserver`: progress as lines or bars
    live                the display of rich, which all of them share in one terminal
    logs_above          log lines above a display at the bottom of the terminal
    bars                the bar of one `map`
    prometheus          `PrometheusObserver`: metrics
    opentelemetry       `OpenTelemetryObserver`: traces and metrics
    extras              imports of optional libraries
    names               observers by name
"""

from typing import TYPE_CHECKING, Any

from procbackground._load import load
from procbackground.observers.base import EVENT_NAMES, Observer, events_wanted_by

if TYPE_CHECKING:
    from procbackground.observers.callback import CallbackObserver
    from procbackground.observers.jsonlines import JsonLinesObserver
    from procbackground.observers.log import LoggingObserver
    from procbackground.observers.loguru import LoguruObserver
    from procbackground.observers.opentelemetry import OpenTelemetryObserver
    from procbackground.observers.plain import PlainProgressObserver
    from procbackground.observers.prometheus import PrometheusObserver
    from procbackground.observers.rich import RichProgressObserver
    from procbackground.observers.tqdm import TqdmObserver

__all__ = [
    "EVENT_NAMES",
    "CallbackObserver",
    "JsonLinesObserver",
    "LoggingObserver",
    "LoguruObserver",
    "Observer",
    "OpenTelemetryObserver",
    "PlainProgressObserver",
    "PrometheusObserver",
    "RichProgressObserver",
    "TqdmObserver",
    "events_wanted_by",
]


def __getattr__(name: str) -> Any:
    # On first use: a manager without observers need not load them.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = {cls: module for module, cls in load("procbackground.observers.names").OWN.values()}
    return getattr(load(f"{__name__}.{modules.get(name, 'callback')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
