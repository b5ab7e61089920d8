"""Observers of a manager's events, a module each. `Observer` is the base to derive from."""

from procbackground.observers.base import EVENT_NAMES, Observer, events_wanted_by
from procbackground.observers.callback import CallbackObserver
from procbackground.observers.loguru import LoguruObserver

__all__ = ["EVENT_NAMES", "CallbackObserver", "LoguruObserver", "Observer", "events_wanted_by"]
