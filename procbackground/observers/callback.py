"""An observer made of plain functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from procbackground.observers.base import EVENT_NAMES, Observer


class CallbackObserver(Observer):
    """Calls the given functions: `CallbackObserver(on_task_failed=lambda event: print(event.error))`.

    Takes the `on_...` names of `Observer` as keywords; each function is called with the event.
    Raises: `TypeError` for an unknown name, or for a value that cannot be called.
    """

    def __init__(self, **callbacks: Callable[[Any], object]) -> None:
        for name, callback in callbacks.items():
            if name not in EVENT_NAMES:
                raise TypeError(f"no such event: {name}; there are {', '.join(EVENT_NAMES)}")
            if not callable(callback):
                raise TypeError(f"{name} must be callable, not {callback!r}")
            setattr(self, name, callback)
