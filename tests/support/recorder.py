"""An observer that keeps everything it is told, and lets a test wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from procbackground.observers import Observer
from tests.support.gate import PATIENCE_S


class Recorder(Observer):
    """Keeps (kind, event) of every event but samples; the kind is the method's name without `on_`."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.threads: set[int] = set()
        self._changed = threading.Condition()

    def note(self, kind: str, event: Any) -> None:
        with self._changed:
            self.seen.append((kind, event))
            self.threads.add(threading.get_ident())
            self._changed.notify_all()

    def events(self, kind: str) -> list[Any]:
        with self._changed:
            return [event for seen, event in self.seen if seen == kind]

    def kinds(self, handle: Any) -> list[str]:
        """Return the kinds of the task events of `handle`, in the order in which they came."""
        with self._changed:
            return [kind for kind, event in self.seen if event.handle is handle and kind.startswith("task")]

    def wait_for(self, kind: str, count: int = 1, timeout: float = PATIENCE_S) -> list[Any]:
        """Return the events of `kind` once there are `count`."""
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                events = [event for seen, event in self.seen if seen == kind]
                if len(events) >= count:
                    return events
                if not self._changed.wait(end - time.monotonic()) and time.monotonic() > end:
                    kinds = [seen for seen, _ in self.seen]
                    raise AssertionError(f"{len(events)} of {count} {kind} after {timeout} s; seen: {kinds}")


def _noting(kind: str) -> Callable[[Recorder, Any], None]:
    return lambda self, event: self.note(kind, event)


for _name in vars(Observer):
    if _name.startswith("on_") and _name != "on_process_sampled":
        setattr(Recorder, _name, _noting(_name.removeprefix("on_")))


class SampleRecorder(Recorder):
    """Keeps samples too; a manager measures only if somebody wants that."""

    def on_process_sampled(self, event: Any) -> None:
        self.note("process_sampled", event)
