"""Runs a loop until a signal: what `procbackground loop` does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from procbackground._cli.errors import say
from procbackground._cli.records import failure_of
from procbackground._cli.sdnotify import notify, watchdog_s
from procbackground._cli.signals import Requests, signals_into
from procbackground._cli.work import make_manager, retry_of
from procbackground._printable import printable
from procbackground.observers import Observer
from procbackground.task import Task, TaskType

if TYPE_CHECKING:
    from procbackground import events
    from procbackground.handle import TaskHandle
    from procbackground.manager import Manager


class _Reporter(Observer):
    """Says what happens to the loop, and forwards what the main thread must know."""

    def __init__(self, news: SimpleQueue[Any]) -> None:
        self._news = news
        self._is_stalled = False

    def on_task_started(self, event: events.TaskStarted) -> None:
        self._news.put(("started", None))

    def on_task_retrying(self, event: events.TaskRetrying) -> None:
        why = "its result is not accepted" if event.error is None else str(failure_of(event.error))
        say(f"attempt {event.attempt} failed, the next one is in {event.delay:.1f} s: {why}")

    def on_task_failed(self, event: events.TaskFailed) -> None:
        say(f"an iteration failed: {failure_of(event.error)}")

    def on_task_stalled(self, event: events.TaskStalled) -> None:
        say(f"an iteration has been silent for {event.silent_for:.0f} s")
        self._news.put(("stalled", None))


class _Service:
    """Run a loop, and notify the service manager of its state. Everything happens in the main thread."""

    def __init__(self, manager: Manager, handle: TaskHandle[Any], news: SimpleQueue[Any]) -> None:
        self._manager = manager
        self._handle = handle
        self._news = news
        limit_s = watchdog_s()
        self._ping_s = None if limit_s is None else limit_s / 2  # as sd_watchdog_enabled(3) recommends
        self._is_stalled = False
        self._is_ready = False
        self._requests = Requests()
        self.signal: int | None = None

    def run(self) -> None:
        """Return when the loop has ended."""
        while not self._handle.done():
            try:
                kind, *facts = self._news.get(timeout=self._ping_s)
            except Empty:
                self._ping()
                continue
            if kind == "started":
                self._is_stalled = False
                if not self._is_ready:
                    self._is_ready = True
                    notify("READY=1", f"STATUS=running {printable(self._handle.task.name)}")
                self._ping()
            elif kind == "stalled":
                self._is_stalled = True
                notify("STATUS=an iteration has stalled")
            elif kind == "signal":
                self._stop(*facts)

    def _ping(self) -> None:
        if self._ping_s is not None and not self._is_stalled:
            notify("WATCHDOG=1")

    def _stop(self, number: int, came_s: float) -> None:
        if not self._requests.is_new(came_s):
            return
        self.signal = self.signal or number
        if self._requests.count == 1:
            notify("STOPPING=1")
            self._requests.answer()
            say("finishing the running iteration; the same signal again terminates it")
            threading.Thread(target=self._manager.cancel, daemon=True).start()
        elif self._requests.count == 2:
            self._requests.answer()
            say("terminating; the same signal again kills")
            threading.Thread(target=self._manager.close, args=(0.0,), daemon=True).start()
        else:
            say("killing")
            for each in self._manager.processes():
                try:
                    os.killpg(each.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass


def serve(fn: Callable[..., Any], args: tuple[Any, ...], title: str, asked: dict[str, Any]) -> int:
    """Run the loop; return the exit code."""
    news: SimpleQueue[Any] = SimpleQueue()
    asked = {**asked, "jobs": 1, "min_free_memory": None, "observers": [_Reporter(news)]}
    with ExitStack() as stack:
        manager, _ = make_manager(title, asked, stack)
        stack.enter_context(signals_into(news))
        loop = Task(
            fn, args=args, type=TaskType.LOOP, interval=asked["interval"], stalled_threshold=asked["stalled_after"],
            retry=retry_of(asked["retries"], asked["retry_delay"]),
        )  # fmt: skip
        handle = manager.run_task(loop)
        handle.add_done_callback(lambda done: news.put(("done", None)))
        service = _Service(manager, handle, news)
        service.run()
        manager.close(None if service.signal is None else 0.0)
    if service.signal is not None:
        return 128 + service.signal
    error = None if handle.cancelled() else handle.exception(0)
    if error is not None:
        say(f"the loop ended: {failure_of(error)}")
    return 1
