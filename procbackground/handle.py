"""The caller's end of a task: a `concurrent.futures.Future` that makes its condition only once a thread waits.

Eighth and last stop of a task: the supervisor settles the handle, and the threads that wait for it continue. A plain
Future costs 3.6 µs and 2 kB over its life, more than all else that happens to a task that succeeds at once;
this one costs 0.9 µs, and a third of the memory. The price is the claim protocol below, which lives here only.
"""

from __future__ import annotations

import _thread
import sys
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, LOGGER
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from procbackground._sync import SafeCondition, Sleeper, acquire_within, this_life
from procbackground.errors import ManagerClosedError, repr_of
from procbackground.report import Attempt, Outcome, Progress
from procbackground.task import Task

if TYPE_CHECKING:
    from procbackground._state.job import Job

R = TypeVar("R")

_DONE = frozenset({FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED})
# Whether a handle's dict is made before other threads see the handle, for 35 ns and 64 bytes. Python 3.11 may collect
# garbage while it makes one, and a finalizer lets another thread in: two dicts, and a crash. 3.12 collects elsewhere.
_MAKES_DICT = sys.version_info < (3, 12)
_FINISHER = object()  # in the claim: the handle is being settled, and no thread waits under a condition


class Guard(Protocol):
    """What a failed handle keeps until its failure is retrieved."""

    def dismiss(self) -> None:
        """Somebody has looked."""
        ...


class Owner(Protocol):
    """The part of the supervisor that a handle uses."""

    def cancel_job(self, handle: TaskHandle[Any]) -> bool:
        """End the job of a handle, queued or running; False when it has ended by itself."""
        ...

    def is_running(self, job: Job) -> bool:
        """Whether an attempt of the job is in a process now."""
        ...

    def stack_of(self, job: Job) -> str | None:
        """Return the Python stacks of the running attempt, or None."""
        ...

    def hold(self) -> None:
        """Have a close wait until `let_go`, as for one more task."""
        ...

    def let_go(self) -> None:
        """End one `hold`."""
        ...

    def do_soon(self, act: Callable[[], None]) -> None:
        """Have `act` run in another thread, unless all is over; for finalizers, which may run at any point."""
        ...

    def accepting_more(self) -> AbstractContextManager[None]:
        """Within it this thread may give work to a manager that closes: what follows from work accepted before."""
        ...

    def check_usable(self) -> None:
        """Raise `ManagerClosedError` in a fork of the manager's process, where no wait for a handle would end."""
        ...


class _MadeOnFirstTouch:
    """An attribute of `Future` that exists only from the first touch on, in the instance's dict."""

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name, self.make = name, make

    def __get__(self, handle: Any, owner: type | None = None) -> Any:
        return self if handle is None else handle.__dict__.setdefault(self.name, self.make())


class _ConditionOnFirstTouch:
    """`Future._condition`, made when it is first needed. See `TaskHandle._settle` for the other half."""

    def __get__(self, handle: Any, owner: type | None = None) -> Any:
        if handle is None:
            return self
        try:
            handle._owner.check_usable()
        except ManagerClosedError as error:
            if handle._state not in _DONE:
                handle._settle(FINISHED, None, error)
        attributes = handle.__dict__
        condition = SafeCondition()
        claimed = attributes.setdefault("_claim", condition)  # atomic: either we or the finisher are first
        if claimed is _FINISHER:
            # The finisher found no waiting thread, and is about to store the state. A waiter may look only after that:
            # as_completed() would otherwise count the handle twice.
            while handle._state not in _DONE:
                time.sleep(0)
            claimed = condition
        return attributes.setdefault("_condition", claimed)


class TaskHandle(Future[R]):
    """What `Manager.run` and `run_task` return: a `concurrent.futures.Future`, and more.

        handle = manager.run(crunch, "part-0001.parquet")
        handle.result(timeout=60)  # what the function returned; or raises what it raised
        await handle               # the same in asyncio; cancelling the awaiting task ends the work
        handle.cancel()            # ends a running task, too

    `result`, `exception`, `add_done_callback`, `concurrent.futures.wait`, `as_completed` and
    `asyncio.wrap_future` work as on any Future. Beside them: `task`, `attempts`, `progress`, `output` and `stack()`.
    `set_result`, `set_exception` and `set_running_or_notify_cancel` are the manager's to call.
    """

    # Slots hold what every handle has; the dict gets attributes once a thread waits, or the handle is done.
    __slots__ = ("_args", "_job", "_kwargs", "_make", "_owner")

    # Class attributes are the defaults of nearly every handle; an instance stores only what differs.
    _condition = _ConditionOnFirstTouch()  # pyright: ignore[reportAssignmentType]
    _waiters = _MadeOnFirstTouch("_waiters", list)  # pyright: ignore[reportAssignmentType]
    _done_callbacks = _MadeOnFirstTouch("_done_callbacks", list)
    _state = "PENDING"
    _result: Any = None
    _exception: BaseException | None = None
    _history: tuple[Attempt, ...] = ()
    # Of a job that succeeded at once: what its attempt is made of, should anybody ask for it.
    _success: tuple[float, float, int, float | None, int | None] | None = None
    _progress: Progress | None = None
    _output: Any = None  # of the attempt that began last, where it is not inherited
    _ended_at_row: int = 0
    # Of a chunk of a map whose rows observers want to know of: the handles of its rows.
    _row_handles: Sequence[TaskHandle[Any]] | None = None
    # Reports a failure that is never retrieved, when the handle is collected. See `_supervisor.unseen`.
    _guard: Guard | None = None
    _is_announced = False  # its `on_task_added` is sent by the code that made it
    _is_begun = False  # the `on_task_started` of its first attempt was sent, when it was in a chunk

    def __init__(
        self, owner: Owner, make: Callable[..., Task[R]] | None, args: Any, kwargs: dict[str, Any] | None = None
    ) -> None:
        # Not Future's: it would make the condition and both lists at once.
        self._owner = owner
        self._make = make  # makes the task from the arguments of a call; None when `args` is the task
        self._args = args
        self._kwargs = kwargs
        self._job: Job | None = None
        _ = self.__dict__ if _MAKES_DICT else None

    # -- what the caller asks ------------------------------------------------------------------------------

    @property
    def task(self) -> Task[R]:
        """The task. For `run` and `submit` it is made here, on first use; all threads get the same object."""
        # The order of the reads and writes is what makes that so. A thread that finds `_make` here, but whose arguments
        # another has dropped since, finds `_task`, too, as that is stored before.
        make = self._make
        args, kwargs = self._args, self._kwargs
        if make is None:
            return args  # type: ignore[no-any-return]
        task: Any = self.__dict__.get("_task")
        if task is None:
            task = self.__dict__.setdefault("_task", make(args, kwargs or {}))
        self._args, self._kwargs = task, None
        self._make = None
        return task  # type: ignore[no-any-return]

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts so far, the running one included. For a loop: those of the iteration that failed last."""
        job = self._job
        if job is not None and (self._success is None or job.history is not None):
            return job.attempts()
        if self._success is not None:  # its job may have to wait for the journal still
            started, ended, pid, cpu_seconds, peak_memory = self._success
            success = Outcome.SUCCEEDED
            return [Attempt(1, pid, started, ended, success, None, None, cpu_seconds, peak_memory)]
        return list(self._history)

    @property
    def progress(self) -> Progress | None:
        """The progress that the task reported last, by `current().progress(...)`, or None."""
        return self._progress

    @property
    def output(self) -> str | None:
        """What the latest attempt has written so far to its standard output and standard error.

        None unless the task's `output` is "capture", "relay" or "tagged", and an attempt has begun. Of more than a MiB
        the middle is left out, and a line says so. `attempts` have the output of each attempt that has ended.
        """
        return None if self._output is None else self._output.text()

    def stack(self) -> str | None:
        """Return where the task is now: the Python stacks of its process, as in a traceback, without this library's.

        None where no attempt runs, or the process gives none within a twentieth of a second (it is stopped, or a call
        of C code keeps it), or the system is not Linux, or with an engine, the node has not answered within 2 seconds.
        Raises: `ManagerClosedError` in a fork.
        """
        job = self._job
        return None if job is None or self._state in _DONE else self._owner.stack_of(job)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TaskHandle belongs to the process that made it; pass its result()")

    def __repr__(self) -> str:
        state = self._state
        text = "running" if self.running() else state.partition("_")[0].lower()
        if state == FINISHED:
            how, what = ("returned", self._result) if self._exception is None else ("raised", self._exception)
            text = f"finished {how} {type(what).__name__}"
        last = "".join(f" attempt={attempt.number} pid={attempt.pid}" for attempt in self.attempts[-1:])
        return f"<{type(self).__name__} {self.task.name[:100]!r} at {id(self):#x} state={text}{last}>"

    def running(self) -> bool:
        """Whether an attempt is in a process now."""
        job = self._job
        return job is not None and self._state not in _DONE and self._owner.is_running(job)

    def done(self) -> bool:
        """Whether the task has ended: `result` returns or raises at once. A loop is done once it was cancelled."""
        return self._state in _DONE

    def cancelled(self) -> bool:
        """Whether the task was cancelled: `result` raises `CancelledError`."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def cancel(self) -> bool:
        """End the task, queued or running, and return whether it is cancelled now.

        A running one is cancelled for the caller at once; behind it SIGTERM goes to its process tree and, `grace`
        seconds later, SIGKILL. No other task is touched. A loop likewise ends in mid-iteration.
        """
        if self._job is None:
            return self.cancelled()
        return self._owner.cancel_job(self) or self.cancelled()

    def result(self, timeout: float | None = None) -> R:
        """Return what the task returned; wait up to `timeout` seconds for it.

        Raises: what the task raised, with the child's traceback as its `__cause__`; one of `procbackground`'s
        errors; `CancelledError`; `TimeoutError` when `timeout` passed first; in a fork, `ManagerClosedError`.
        """
        if self._state not in _DONE:
            self._wait(timeout)
        return self._outcome()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the task failed with, or None; wait up to `timeout` seconds for it.

        Raises: `CancelledError`; `TimeoutError` when `timeout` passed first; in a fork, `ManagerClosedError`.
        """
        if self._state not in _DONE:
            self._wait(timeout)
        if self._state != FINISHED:
            raise CancelledError
        error = self._exception
        self._look()
        if isinstance(error, StopIteration) and sys._getframe(1).f_globals.get("__name__") == "asyncio.futures":
            # asyncio copies the outcome to a future of its own. There a StopIteration would end the `await` as a return
            # does, or never; Python makes it a RuntimeError wherever it leaves a coroutine.
            stop, error = error, RuntimeError(f"the task raised {repr_of(error)}")
            error.__cause__ = stop
        return error

    def __await__(self) -> Generator[Any, None, R]:
        """Wait in asyncio. Cancelling the awaiting task ends the work."""
        import asyncio  # here, because it takes longer to import than all of this package

        return asyncio.wrap_future(self).__await__()

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn(handle)` once the task has ended, in a thread of the manager; at once, in this one, if it has.

        Callbacks are called in the order in which they were added. What `fn` raises is logged.
        """
        self._look()  # the callback will
        super().add_done_callback(fn)

    def _invoke_callbacks(self) -> None:
        # Future's lets an exit or interrupt that one raises keep the others from being called.
        ending: BaseException | None = None
        for callback in self._done_callbacks:
            try:
                callback(self)
            except Exception:
                LOGGER.exception("exception calling callback for %r", self)
            except BaseException as error:
                ending = error
        if ending is not None:
            raise ending

    def _look(self) -> None:
        """Somebody looks at the outcome, or will."""
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    # -- waiting and settling ------------------------------------------------------------------------------

    def _outcome(self) -> R:
        if self._state != FINISHED:
            raise CancelledError
        if self._exception is not None:
            self._look()
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment]  # as Future does: no cycle through the traceback
        return self._result  # type: ignore[no-any-return]

    def _wait(self, timeout: float | None) -> None:
        # A bare lock wakes 10 % sooner than a condition (61 against 68 µs for a whole round trip). The order
        # matters: we append our lock and look at the state, the finisher stores the state and takes the locks.
        lock = _thread.allocate_lock()
        lock.acquire()
        sleepers: list[_thread.LockType] = self.__dict__.setdefault("_sleepers", [])
        try:
            sleepers.append(lock)
            life = this_life()
            self._owner.check_usable()  # now: a fork of the process from here on ends the wait
            if self._state in _DONE:
                return
            has_waited = acquire_within(lock, timeout, life)
            if not has_waited and self._state not in _DONE:
                raise FutureTimeoutError
        finally:
            if self._state not in _DONE:  # else the list goes with the wait
                try:
                    sleepers.remove(lock)  # or each wait that times out would leave a lock behind
                except ValueError:
                    pass  # interrupted before it was appended

    def _settle(
        self,
        state: str,
        result: Any,
        exception: BaseException | None,
        sleepers: list[Sleeper] | None = None,
    ) -> bool:
        """Store the outcome and wake the threads that wait; return whether there are callbacks to run.

        The supervisor calls it once. With `sleepers`, the locks of threads in `result` and `exception` are added to
        that list, and the caller releases them.
        """
        attributes = self.__dict__
        self._job = None
        claimed = attributes.setdefault("_claim", _FINISHER)
        if claimed is _FINISHER:
            self._result, self._exception = result, exception
            self._state = state
            has_callbacks = False
        else:
            with claimed:
                self._result, self._exception = result, exception
                self._state = state
                for waiter in self._waiters:
                    if state == CANCELLED_AND_NOTIFIED:
                        waiter.add_cancelled(self)
                    elif exception is not None:
                        waiter.add_exception(self)
                    else:
                        waiter.add_result(self)
                claimed.notify_all()
            has_callbacks = bool(attributes.get("_done_callbacks"))
        waiting = attributes.pop("_sleepers", None)
        if waiting is not None:
            if sleepers is not None:
                sleepers += waiting
            else:
                # Of a copy: a wait that times out now removes its lock, and the iteration would skip the next one.
                for lock in tuple(waiting):
                    lock.release()
        return has_callbacks

    def _shown(self) -> TaskHandle[Any]:
        """Return the handle that observers see; for a chunk that of the row that runs."""
        return self

    def _take_part(self, body: bytes) -> None:
        """Take the answer to some rows of a chunk. Only a `Chunk` gets any."""

    def _take_checkpoint(self, row: int, state: bytes) -> None:
        """Take the state that a row of a chunk saved. Only a `Chunk` gets any."""
