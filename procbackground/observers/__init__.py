"""Observers of a manager's events.

    base        `Observer`, the class to derive from
    callback    `CallbackObserver`: plain functions
    loguru      `LoguruObserver`: events as records of loguru
"""

from procbackground.observers.base import EVENT_NAMES, Observer, events_wanted_by
from procbackground.observers.callback import CallbackObserver
from procbackground.observers.loguru import LoguruObserver

__all__ = ["EVENT_NAMES", "CallbackObserver", "LoguruObserver", "Observer", "events_wanted_by"]
