"""Runs calls through a manager, no faster than they end, and ends early when asked to.

A thread reads the calls and gives them to the manager. The main thread owns everything else: it gets what happened
by one queue (a call ended, the calls ended, a signal came), and decides.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from procbackground._cli.errors import Wrong, say
from procbackground._cli.inputs import Call, Inputs
from procbackground._cli.records import CANCELLED, LEFT_OUT, SUCCEEDED, Ended, ended_of
from procbackground._cli.signals import Requests, signals_into
from procbackground.errors import ManagerClosedError
from procbackground.task import Task

if TYPE_CHECKING:
    from procbackground._cli.values import Halt
    from procbackground.manager import Manager
    from procbackground.report import Stats

LOOKS_AT_LOAD_S = 1.0  # the kernel updates the load every five seconds


class Pace(NamedTuple):
    """How calls are held back: seconds between two starts, and the load above which none begins."""

    delay_s: float = 0.0
    load: float | None = None

    @property
    def is_any(self) -> bool:
        return bool(self.delay_s) or self.load is not None


class Plan(Protocol):
    """Decides what becomes of a call: a task, or how it ended without one (in an earlier run, or as left out)."""

    def __call__(self, call: Call) -> Task[Any] | Ended: ...


class Batch:
    """A run over all calls: iterate over it once.

    Args:
        window: most calls that are given and not yet yielded.
        is_ordered: yield in the order in which the calls came, by their index.
    """

    def __init__(
        self,
        manager: Manager,
        inputs: Inputs,
        plan: Plan,
        *,
        window: int | None,
        is_ordered: bool = False,
        halt: Halt | None = None,
        pace: Pace = Pace(),  # noqa: B008  # immutable
    ) -> None:
        self._manager = manager
        self._inputs = inputs
        self._plan = plan
        self._is_ordered = is_ordered
        self._halt = halt
        self._pace = pace
        self._news: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._room = None if window is None else threading.Semaphore(window)
        self._stop = threading.Event()
        self._given = 0
        self._ended = 0
        self._without_task = 0
        self._failed = 0
        self._succeeded = 0
        self._has_read_all = False
        self._requests = Requests()
        self._killer: threading.Thread | None = None
        self._feeder = threading.Thread(target=self._feed, name="procbackground-input", daemon=True)
        self.signal: int | None = None  # the first that came
        self.error: BaseException | None = None  # of the input
        self.halted: str | None = None
        self.was_closed = False  # from outside, as by `top`

    @property
    def is_reading(self) -> bool:
        """Whether the thread that reads the input still does: it cannot be stopped while the input blocks."""
        return self._feeder.is_alive()

    # -- the main thread -----------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Ended]:
        with signals_into(self._news):
            self._feeder.start()
            try:
                yield from self._in_order() if self._is_ordered else self._as_they_end()
            finally:
                self._stop_giving()
                if self._killer is not None:
                    self._killer.join()

    def _as_they_end(self) -> Iterator[Ended]:
        while not self._is_over:
            kind, *facts = self._news.get()
            if kind == "ended":
                self._ended += 1
                ended = facts[0] if isinstance(facts[0], Ended) else ended_of(*facts[0])
                self._note(ended)
                yield ended
                if not self._is_ordered:
                    self._make_room()
            elif kind == "read":
                self._has_read_all, self.error = True, facts[0]
                if self.error is not None:
                    self._drain()
            elif kind == "signal":
                self._take_signal(*facts)

    def _in_order(self) -> Iterator[Ended]:
        waiting: dict[int, Ended] = {}
        expected = 0
        for ended in self._as_they_end():
            waiting[ended.call.index] = ended
            while expected in waiting:
                yield waiting.pop(expected)
                self._make_room()
                expected += 1
        # What was not started leaves gaps.
        for index in sorted(waiting):
            yield waiting[index]

    @property
    def _is_over(self) -> bool:
        has_given_all = self._has_read_all or (self._stop.is_set() and not self._is_giving)
        return has_given_all and self._ended >= self._given

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.release()

    def _note(self, ended: Ended) -> None:
        self._failed += ended.has_failed
        self._succeeded += ended.outcome == SUCCEEDED
        if ended.outcome == CANCELLED and not ended.attempts and not self._stop.is_set():
            self.was_closed = True
        halt = self._halt
        if halt is None or self.halted is not None or ended.outcome in (CANCELLED, LEFT_OUT):
            return
        if halt.is_due(self._failed, self._succeeded, self._inputs.total):
            what = {"fail": f"{self._failed} failed", "success": f"{self._succeeded} succeeded"}
            self.halted = what.get(halt.why, f"{self._failed + self._succeeded} done")
            if halt.is_now:
                self._terminate(f"{self.halted}: stopping")
            else:
                self._drain(f"{self.halted}: ")

    # -- ending early --------------------------------------------------------------------------------------

    def _take_signal(self, number: int, came_s: float) -> None:
        if not self._requests.is_new(came_s):
            return
        if self.signal is None:
            self.signal = number
        if number == signal.SIGHUP and self._requests.count == 1:
            self._requests.count = 2  # the terminal is gone: a second SIGHUP cannot come
        again = "Ctrl-C" if number == signal.SIGINT else "the same signal"
        if self._requests.count == 1:
            self._drain("", f"; {again} again terminates them")
        elif self._requests.count == 2:
            self._terminate("terminating", f"; {again} again kills them")
        else:
            self._kill()

    def _drain(self, why: str = "", hint: str = "") -> None:
        self._stop_giving()
        # What is queued is cancelled, what is at a worker is finished.
        self._manager.shutdown(wait=False, cancel_futures=True)
        stats = self._manager.stats()
        finishing = stats.running + stats.queued
        left = self._unbegun(stats, finishing)
        self._requests.answer()
        say(f"{why}finishing {finishing}, {left} not started{hint if finishing else ''}")

    def _unbegun(self, stats: Stats, at_work: int) -> str:
        """Return how many tasks have not begun, in words, when `at_work` are at the workers."""
        total = self._inputs.total
        begun = stats.succeeded + stats.failed + self._without_task + at_work
        return "the rest" if total is None else str(max(0, total - begun))

    def _terminate(self, why: str, hint: str = "") -> None:
        has_drained = self._stop.is_set()  # and said what was not started
        self._stop_giving()
        stats = self._manager.stats()
        left = "" if has_drained else f", {self._unbegun(stats, stats.running)} not started"
        self._requests.answer()
        say(f"{why} {stats.running}{left}{hint}")
        self._killer = threading.Thread(target=self._manager.close, args=(0.0,), daemon=True)
        self._killer.start()

    def _kill(self) -> None:
        processes = [each.pid for each in self._manager.processes()]
        say(f"killing {self._running()}")
        for pid in processes:
            try:
                os.killpg(pid, signal.SIGKILL)  # each worker leads a group; the manager ends what left it
            except (ProcessLookupError, PermissionError):
                pass

    def _running(self) -> int:
        return self._manager.stats().running

    def _stop_giving(self) -> None:
        self._stop.set()
        if self._room is not None:
            self._room.release()  # the feeder may wait for it

    # -- the feeder ----------------------------------------------------------------------------------------

    _is_giving = False

    def _feed(self) -> None:
        error: BaseException | None = None
        try:
            for call in self._inputs.calls:
                if self._room is not None:
                    self._room.acquire()
                if self._pace.is_any:
                    self._hold_back()
                self._is_giving = True
                if self._stop.is_set():
                    break
                self._give(call)
                self._is_giving = False
                if self._stop.is_set():
                    break  # and say so: the main thread may have looked before
        except ManagerClosedError:
            self.was_closed = not self._stop.is_set()  # else by us, to end early
        except BaseException as raised:  # the main thread says what it was
            error = raised
        self._news.put(("read", error))
        self._is_giving = False

    def _give(self, call: Call) -> None:
        try:
            planned = self._plan(call)
        except (TypeError, ValueError) as error:  # of `Task`: this function can be no task
            raise Wrong(str(error)) from None
        self._given += 1
        if isinstance(planned, Ended):
            self._without_task += 1
            self._news.put(("ended", planned))
        else:
            try:
                try:
                    handle = self._manager.run_task(planned)
                except ValueError as error:  # it needs what there is not
                    raise Wrong(f"{planned.name}: {error}") from None
            except BaseException:
                self._given -= 1
                raise
            handle.add_done_callback(lambda done: self._news.put(("ended", (call, done))))

    def _hold_back(self) -> None:
        if self._pace.delay_s and self._given:
            self._stop.wait(self._pace.delay_s)
        while self._pace.load is not None and os.getloadavg()[0] > self._pace.load:
            if self._stop.wait(LOOKS_AT_LOAD_S):
                return


def window_of(jobs: int, pace: Pace, halt: Halt | None) -> int:
    """Return how many calls may be given and not yet ended: enough for workers never to wait for one."""
    # With a pace a call is given when it may begin, and that is when a worker is free. So it is where the end of one
    # call may keep the next from beginning.
    return jobs if pace.is_any or halt is not None else max(64, 8 * jobs)
