"""Every exception that the package raises, each with the facts of the failure as attributes.

At the bottom of the import order. The child imports it too, so it loads neither psutil, tenacity and loguru nor
`concurrent.futures.process`.
"""

from __future__ import annotations

import signal

try:  # the same class; `pickle` itself takes 10 ms to import, which a command that prints its help need not spend
    from _pickle import PicklingError
except ImportError:  # not CPython
    from pickle import PicklingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool
    from typing import Any

    from procbackground.task import Task


__all__ = [
    "EngineLostError",
    "InitializerError",
    "JournalError",
    "ManagerClosedError",
    "MemoryLimitError",
    "NodeLostError",
    "ProcbackgroundError",
    "QueueFullError",
    "RemoteTraceback",
    "SerializationError",
    "TaskTimeoutError",
    "UnknownTaskTypeError",
    "WorkerDiedError",
    "WorkerStartError",
]


class ProcbackgroundError(Exception):
    """Root of all errors of this package.

    Attributes: `task`, the `Task` concerned, or None; `attempt`, its number from 1 on, or None; `pid` of the
    process that ran it, or None when none did; `output`, the last lines that an attempt wrote before it died or was
    stopped, or None. Where the task's `output` is inherited, those that its Python code wrote to `sys.stderr`.
    """

    def __init__(
        self,
        message: str = "",
        *,
        task: Task[Any] | None = None,
        attempt: int | None = None,
        pid: int | None = None,
    ) -> None:
        super().__init__(message)
        self.task = task
        self.attempt = attempt
        self.pid = pid
        self.output: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Nested managers send these through a pipe. A task whose function cannot be pickled must not cost the
        # error its type, so such a task stays behind.
        state = dict(self.__dict__)
        try:
            import pickle

            pickle.dumps(state.get("task"))
        except Exception:
            state["task"] = None
        return _rebuild, (type(self), self.args, state)


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    try:
        error = cls.__new__(cls, *args)
    except TypeError:  # with several built-in bases the inherited __new__ may be the wrong one
        error = BaseException.__new__(cls, *args)
    _set("args", error, args)
    error.__dict__.update(state)
    return error


def set_cause(error: BaseException, cause: BaseException) -> None:
    """Set the `__cause__` of any exception."""
    _set("__cause__", error, cause)


def set_context(error: BaseException, context: BaseException | None) -> None:
    """Set the `__context__` of any exception."""
    _set("__context__", error, context)


def _set(name: str, error: BaseException, value: Any) -> None:
    # Past the class's own `__setattr__`, which refuses in a frozen dataclass.
    BaseException.__dict__[name].__set__(error, value)


class TaskTimeoutError(ProcbackgroundError, TimeoutError):
    """An attempt ran over its `timeout`, or the task over its `deadline`.

    Attributes: `timeout`, the limit that was passed, in seconds; `stack`, the Python stack of the child at that
    moment as text, or None where it could not be taken.
    """

    def __init__(self, message: str = "", *, timeout: float = 0.0, stack: str | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.timeout = timeout
        self.stack = stack


class MemoryLimitError(ProcbackgroundError, MemoryError):
    """The attempt's process tree held more than its `memory_limit`.

    Or no attempt could begin, because less memory than `min_free_memory` was free for too long while no task of the
    manager ran.

    Attributes: `limit` and `peak`, in bytes; without an attempt, `limit` is `min_free_memory` and `peak` 0. `peak` is
    the most that was resident, with pages of mapped files, which do not count for the limit.
    """

    def __init__(self, message: str = "", *, limit: int = 0, peak: int = 0, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.limit = limit
        self.peak = peak


class SerializationError(ProcbackgroundError, PicklingError):
    """The function, an argument, the result or the exception could not cross between the processes.

    The message says which, of what type, and where in it. Found at the handle, never raised by `submit`.
    """


class ManagerClosedError(ProcbackgroundError, RuntimeError):
    """Work was given to a manager that is closing or closed."""


class UnknownTaskTypeError(ProcbackgroundError, ValueError):
    """The type of a task is no `TaskType`."""


class QueueFullError(ProcbackgroundError, RuntimeError):
    """So much waits as `max_pending` or `max_pending_bytes` allows, and the manager has `when_full="raise"`.

    The task was not taken.

    Attributes: `max_pending` and `max_pending_bytes`, the limits; 0 where there is none.
    """

    def __init__(self, message: str = "", *, max_pending: int = 0, max_pending_bytes: float = 0, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.max_pending = max_pending
        self.max_pending_bytes = max_pending_bytes


class JournalError(ProcbackgroundError, OSError):
    """The journal's file is damaged, full, of another program, of a newer version, or open elsewhere.

    Raised by `Manager(...)`. A journal that fails later costs no task its result: see `Manager`.

    Attributes: `filename`; `errno` where there is one.
    """

    def __init__(self, message: str = "", *, path: str | None = None, number: int | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.filename = path
        self.errno = number

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class RemoteTraceback(Exception):
    """The traceback of the child, as text: the `__cause__` of an exception that a task raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def tb(self) -> str:
        """The text as the standard library's `_RemoteTraceback` has it."""
        return str(self)

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def repr_of(value: object) -> str:
    """Return `repr(value)`, or what stands in for it where that raises, which the user's may."""
    try:
        return repr(value)
    except (Exception, SystemExit, GeneratorExit):
        return f"<{type(value).__qualname__} whose repr fails>"


def signal_name(exit_code: int | None) -> str | None:
    """Return "SIGKILL" for -9 and so on; None for an exit code that is no signal's."""
    if exit_code is None or exit_code >= 0:
        return None
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"  # real-time signals have no names


def death_phrase(exit_code: int | None) -> str:
    """Return how a process ended, to be read after "worker 17 "."""
    name = signal_name(exit_code)
    if name is not None:
        return f"was killed by {name}"
    return "died" if exit_code is None else f"ended with exit code {exit_code}"


class _WorkerDied(ProcbackgroundError):
    """The worker ended before it answered; the task may have run in part.

    Attributes: `exit_code` as in `Process.exitcode` (-9 is SIGKILL), None where that is unknown;
    `log_lines`, the last lines that the attempt logged by `logging` or loguru; `peak_memory`, the highest resident
    size of the process over its life in bytes (`ru_maxrss`), None where that is unknown.
    """

    def __init__(
        self,
        message: str = "",
        *,
        exit_code: int | None = None,
        log_lines: tuple[str, ...] = (),
        peak_memory: int | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.exit_code = exit_code
        self.log_lines = log_lines
        self.peak_memory = peak_memory

    @property
    def signal(self) -> str | None:
        """Name of the signal that killed the worker, such as "SIGKILL", or None."""
        return signal_name(self.exit_code)


class _WorkerStartFailed(ProcbackgroundError):
    """No worker can be started, and waiting would not help: the message says why, and what to do.

    For example, the interpreter or the current directory is gone, the system refuses a call, or workers die or hang
    while they start. The child's traceback, or its stack where it hung, is the `__cause__`, as far as there is one.

    The manager starts no further workers: queued tasks and those submitted later fail with this.
    """


class _InitializerFailed(ProcbackgroundError):
    """The initializer failed or hung in a starting worker, or workers with one die before their first task.

    Also where a worker could not be given its `cwd`, niceness or CPUs.
    """


class _NodeLost(ProcbackgroundError):
    """With an engine: the task probably took down the nodes that it ran on, one after another. No retry."""


class _EngineLost(ProcbackgroundError):
    """With an engine: the scheduler is gone or cannot be reached. Tasks may have run, in part or whole.

    The manager takes no more tasks: make a new one once the cluster is back.
    """


# These errors are a `BrokenProcessPool` as well. Its module takes 13 ms to import and no child needs it, so the parent
# makes these classes on first use, from the ones above. An editor shows the docstrings below.

if TYPE_CHECKING:

    class WorkerDiedError(_WorkerDied, BrokenProcessPool):
        """The worker ended before it answered; the task may have run in part."""

    class WorkerStartError(_WorkerStartFailed, BrokenProcessPool):
        """No worker can be started, and waiting would not help: the message says why, and what to do."""

    class InitializerError(_InitializerFailed, WorkerStartError):
        """The initializer failed or hung in a starting worker, or workers with one die before their first task."""

    class NodeLostError(_NodeLost, BrokenProcessPool):
        """With an engine: the task probably took down the nodes that it ran on, one after another. No retry."""

    class EngineLostError(_EngineLost, BrokenProcessPool):
        """With an engine: the scheduler is gone or cannot be reached. Tasks may have run, in part or whole."""


_MADE_ON_FIRST_USE = {
    "WorkerDiedError": _WorkerDied,
    "WorkerStartError": _WorkerStartFailed,
    "InitializerError": _InitializerFailed,
    "NodeLostError": _NodeLost,
    "EngineLostError": _EngineLost,
}


def __getattr__(name: str) -> Any:
    base = _MADE_ON_FIRST_USE.get(name)
    if base is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from procbackground._load import load

    pool_error = load("procbackground._broken").BrokenProcessPool
    other = __getattr__("WorkerStartError") if base is _InitializerFailed else pool_error
    facts = {"__doc__": base.__doc__, "__module__": __name__}
    return globals().setdefault(name, type(name, (base, other), facts))  # the same for all threads
