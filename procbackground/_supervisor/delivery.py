"""Settles handles and tells observers, outside every lock, where the user's code cannot hold anybody up.

Seventh stop of a task. Two kinds of threads: one tells the observers, in order; a few, made on demand, run what may
block otherwise: unpickling of values that are more than plain data, retry policies, done-callbacks.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from procbackground.observers.base import events_wanted_by

logger = logging.getLogger("procbackground")

# A thread that has been at one piece of work for longer is held up by the user's code: others get another thread.
HELD_UP_S = 0.05
MAX_THREADS = 64  # of held-up ones; beyond that the rest waits
IDLE_THREAD_S = 5.0


class Errands:
    """Runs pieces of the user's code in threads of its own, in order while none of them blocks."""

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self._name = name
        self._wake = wake  # has the supervisor call `relieve` in a while
        self._work: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._threads: dict[threading.Thread, float | None] = {}  # since when each is at its present work
        self._idle = 0
        self._is_stopping = False
        self._runs_no_threads = False  # none can be started any more

    def put(self, fn: Callable[..., object], *args: Any) -> None:
        """Have `fn(*args)` run soon. What it raises is logged."""
        with self._changed:
            self._work.append((fn, args))
            if not self._threads:
                self._add_thread()
                return
            if self._idle:
                self._changed.notify()
            if len(self._work) > self._idle:
                self._wake()  # all may be held up

    def relieve(self) -> bool:
        """Give waiting work another thread if all are held up; return whether work is still waiting.

        Runs the work here where the interpreter exits and starts no threads any more: that beats losing it.
        """
        if not self._work:
            return False
        while self._runs_no_threads and not self._threads and self._work:
            _run_one(*self._work.popleft())
        with self._changed:
            now_s = time.monotonic()
            is_held_up = all(
                since_s is not None and now_s - since_s > HELD_UP_S for since_s in self._threads.values()
            )
            if self._work and is_held_up and not self._idle and len(self._threads) < MAX_THREADS:
                self._add_thread()
            return bool(self._work)

    @property
    def has_backlog(self) -> bool:
        return bool(self._work)

    def owns(self, thread: threading.Thread) -> bool:
        return thread in self._threads

    def stop(self, timeout_s: float) -> None:
        """Let the threads end when all work is done; wait up to `timeout_s`, and leave to itself what blocks."""
        while self._work and not self._threads:
            _run_one(*self._work.popleft())  # none could be started, and this is the last chance
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
            threads = list(self._threads)
        until_s = time.monotonic() + timeout_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until_s - time.monotonic()))

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}-errand", daemon=True)
        self._threads[thread] = time.monotonic()
        try:
            thread.start()
        except RuntimeError as error:
            # The machine has no thread to give now: `relieve` tries again. Python 3.12 and later give none at all
            # while the interpreter exits, and only the words tell the one from the other before 3.13.
            del self._threads[thread]
            self._runs_no_threads = "shutdown" in str(error)
            self._wake()

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                self._threads[me] = None
                while not self._work:
                    if self._is_stopping or len(self._threads) - self._idle > 4:
                        del self._threads[me]
                        return
                    self._idle += 1
                    was_told = self._changed.wait(IDLE_THREAD_S)
                    self._idle -= 1
                    if not was_told and not self._work:
                        del self._threads[me]
                        return
                fn, args = self._work.popleft()
                self._threads[me] = time.monotonic()
            _run_one(fn, args)
            del fn, args  # keeps nothing of a finished task alive while it waits


def _run_one(fn: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        fn(*args)
    except BaseException:  # SystemExit too: it is the user's code that ends, not this thread
        logger.exception("exception in %r", fn)


class Observers:
    """Passes events to the observers, one at a time, in one thread."""

    def __init__(self, observers: Iterable[Any], name: str) -> None:
        self._observers = [(observer, events_wanted_by(observer)) for observer in observers]
        self.wanted: frozenset[str] = frozenset().union(*(wanted for _, wanted in self._observers))
        self._events: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._name = name

    def start(self) -> None:
        """Make the thread, if anybody listens. Raises: `RuntimeError` when the system has none to give."""
        if self.wanted and self._thread is None:
            from procbackground import events  # noqa: F401  # made on first use, when it may be too late to open files

            thread = threading.Thread(target=self._run, name=f"{self._name}-observers", daemon=True)
            thread.start()
            self._thread = thread

    def put(self, name: str, event: Any) -> None:
        """Have the observers' method `name` called with `event`. Make the event only if `name` is in `wanted`."""
        self._events.put((name, event))

    def owns(self, thread: threading.Thread) -> bool:
        return thread is self._thread

    def stop(self, timeout_s: float) -> bool:
        """Wait until all events are delivered; return False when an observer holds them up for `timeout_s`."""
        if self._thread is None and self._events.empty():
            return True
        self._events.put(None)
        try:
            self.start()  # for a manager that was never used
        except RuntimeError:
            self._run()  # no thread is to be had, as while the interpreter exits: told here, rather than not at all
            return True
        assert self._thread is not None
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (told := self._events.get()) is not None:
            name, event = told
            for observer, wanted in self._observers:
                if name not in wanted:
                    continue
                try:
                    getattr(observer, name)(event)
                except BaseException:  # one bad observer must not cost the others their news
                    logger.exception("observer %r failed in %s", observer, name)
            del told, event
