"""Waiting that an exception at any point cannot break.

Nor a fork: a wait for something of the parent process raises `ManagerClosedError` in a fork, whenever that was made.
`acquire_within` is where all threads wait, and keeps to that.

Below every module that waits. `threading.Event` and `Condition` are Python code: a signal handler that raises inside
them can leave their inner lock held for ever. What is here rests on raw locks and on single calls of C functions.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from _thread import LockType, allocate_lock, get_ident
from collections import deque
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from procbackground.errors import ManagerClosedError

if TYPE_CHECKING:
    import asyncio

IN_FORK = "this manager belongs to the process that this one was forked from; make one here"

_life: object = object()  # another one in each process
_asleep: set[LockType] = set()  # what threads wait for, or are about to


def this_life() -> object:
    """Return an object that identifies this process. A fork of it has another one."""
    return _life


def check_life(life: object) -> None:
    """Raise `ManagerClosedError` if what began in the process `life` was copied by a fork."""
    if life is not _life:
        raise ManagerClosedError(IN_FORK)


def acquire_within(lock: LockType, timeout_s: float | None, life: object) -> bool:
    """Acquire `lock`, which is held, and wait up to `timeout_s` seconds for that; None means without end.

    `life` is that of the process whose thread will release it. `timeout_s` may be a user's `timeout`.
    Raises: `ManagerClosedError` in a fork of that process; `TypeError` for what is no number.
    """
    if timeout_s is not None and not hasattr(timeout_s, "__float__"):
        raise TypeError(f"timeout takes a number of seconds, such as timeout=30, not {timeout_s!r}")
    try:
        _asleep.add(lock)  # before the look at `life`: either we see the fork, or the fork sees our lock
        check_life(life)
        if timeout_s is None:
            has_acquired = lock.acquire()
        else:
            has_acquired = lock.acquire(True, max(0.0, float(min(timeout_s, threading.TIMEOUT_MAX))))
        check_life(life)
        return has_acquired
    finally:
        _asleep.discard(lock)


def _wake_in_fork() -> None:
    """In a fork: release what threads wait for. The threads that would release it do not exist here."""
    global _life
    _life = object()
    for lock in _asleep:
        try:
            lock.release()
        except RuntimeError:
            pass  # it was released in the parent, and the wait was about to end
    _asleep.clear()


os.register_at_fork(after_in_child=_wake_in_fork)


# Locks that threads hold for moments, made by `moment_lock`. The thread that forks takes them all meanwhile, else a
# fork might find one held by a thread that it does not have.
_moment_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_held: dict[int, list[list[Any]]] = {}  # by thread, for each fork under way: signal handlers fork, too
LONGEST_MOMENT_S = 1.0


def moment_lock() -> threading.RLock:
    """Return a lock that is never found held by another thread in a fork. No thread may wait while it holds it."""
    _hold_in_forks()
    lock = threading.RLock()
    _moment_locks.add(lock)
    return lock


@cache
def _hold_in_forks() -> None:
    """Have forks take them. Not before there is one: each fork of a zygote, which has none, would copy pages for it."""
    os.register_at_fork(
        before=_hold_moment_locks, after_in_parent=_let_go_moment_locks, after_in_child=_let_go_moment_locks
    )


def _hold_moment_locks() -> None:
    held: list[Any] = []
    _held.setdefault(get_ident(), []).append(held)
    until_s = time.monotonic() + LONGEST_MOMENT_S
    for lock in list(_moment_locks):
        if lock.acquire(True, max(0.0, until_s - time.monotonic())):
            held.append(lock)  # noqa: PERF401  # one by one: a signal handler may raise in between


def _let_go_moment_locks() -> None:
    forks = _held.get(get_ident())
    if not forks:
        return  # the first of these locks was made during this fork, by a signal handler
    for lock in forks.pop():
        lock.release()
    if not forks:
        del _held[get_ident()]


class SafeCondition(threading.Condition):
    """A condition that a signal handler cannot leave locked by raising at the begin or the end of a `with`.

    `Condition.__enter__` is written in Python: the handler may run after it took the lock and before it returns, and
    the lock would never be released then. Here `with` finds the methods of the lock itself, which are C functions.
    """

    __enter__ = property(attrgetter("_lock.__enter__"))  # pyright: ignore[reportAssignmentType]
    __exit__ = property(attrgetter("_lock.__exit__"))  # pyright: ignore[reportAssignmentType]


class Latch:
    """An event that happens once: `set` wakes all waiting threads, and later waits return at once.

    It belongs to the process `life`: by default to this one.
    """

    __slots__ = ("_life", "_waiting", "is_set")

    def __init__(self, life: object = None) -> None:
        self._life = life or _life
        self.is_set: bool = False
        self._waiting: deque[LockType] = deque()  # one held lock for each thread that waits

    def set(self) -> None:
        """Let the event happen. A call that an exception interrupts can be repeated, and then wakes everybody."""
        self.is_set = True
        while True:
            try:
                lock = self._waiting[0]
            except IndexError:
                return
            try:
                lock.release()  # before it leaves the queue: an exception in between costs no waiter its wake-up
            except RuntimeError:
                pass  # another call of `set` has released it, or one that was interrupted here
            self._remove(lock)

    def wake(self, lock: LockType) -> None:
        """Have `lock` released when the event happens, or now if it has. It may be released already."""
        self._waiting.append(lock)
        if self.is_set:
            self.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the event has happened, `timeout_s` seconds at the most; return whether it has."""
        if self.is_set:
            return True
        lock = allocate_lock()
        lock.acquire()
        try:
            self._waiting.append(lock)  # before the look at `is_set`: either we see it, or `set` sees our lock
            return self.is_set or acquire_within(lock, timeout_s, self._life) or self.is_set
        finally:
            self._remove(lock)  # else each wait that times out would leave a lock behind

    def _remove(self, lock: LockType) -> None:
        try:
            self._waiting.remove(lock)
        except ValueError:
            pass  # removed by the other of the two, waiter and `set`


class Sleeper(Protocol):
    """Who waits: a held lock, or something that behaves like one."""

    def release(self) -> object:
        """Wake it."""
        ...


class Bell:
    """Wakes those who wait for something to become true, threads and asyncio tasks, as often as it does.

    The thread that makes it true rings afterwards; it need not while `sleepers` is empty.
    """

    __slots__ = ("_life", "sleepers")

    def __init__(self) -> None:
        self._life = _life  # a thread of a fork of this process waits in vain
        self.sleepers: list[Sleeper] = []

    def ring(self, sleepers: list[Sleeper] | None = None) -> None:
        """Let all who wait look again. Takes no lock, so that finalizers may call it.

        With `sleepers`, they are added to that list, and the caller releases them.
        """
        for sleeper in self.sleepers[:]:
            if sleepers is None:
                sleeper.release()  # before it leaves the list: an exception in between loses no wake-up
            else:
                sleepers.append(sleeper)
            self._remove(sleeper)

    def wait(self, is_so: Callable[[], bool], until_s: float | None = None) -> bool:
        """Wait until `is_so()`, or the monotonic time `until_s`; return whether it is so."""
        while not is_so():
            sleeper = _Thread()
            try:
                self.sleepers.append(sleeper)  # before the look: either we see it, or the ring sees us
                if is_so():
                    return True
                timeout_s = None if until_s is None else until_s - time.monotonic()
                if not acquire_within(sleeper.lock, timeout_s, self._life):
                    return is_so()
            finally:
                self._remove(sleeper)
        return True

    async def wait_in_loop(self, is_so: Callable[[], bool]) -> None:
        """Wait until `is_so()`, in a task of asyncio."""
        while not is_so():
            sleeper = _AsyncTask()
            try:
                self.sleepers.append(sleeper)
                if not is_so():
                    await sleeper.woken
            finally:
                self._remove(sleeper)

    def _remove(self, sleeper: Sleeper) -> None:
        try:
            self.sleepers.remove(sleeper)
        except ValueError:
            pass  # removed by the other of the two


class _Thread:
    """A thread that waits."""

    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock: LockType = allocate_lock()
        self.lock.acquire()

    def release(self) -> None:
        try:
            self.lock.release()
        except RuntimeError:
            pass  # two rang at once


class _AsyncTask:
    """A task of asyncio that waits."""

    __slots__ = ("_loop", "woken")

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self.woken: asyncio.Future[None] = self._loop.create_future()

    def release(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake)  # it never blocks, so any thread may do it
        except RuntimeError:
            pass  # the loop is closed, and so has no waiters

    def _wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)
