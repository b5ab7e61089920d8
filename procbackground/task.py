"""`Task`: a function, its arguments and its limits. Immutable and reusable; nothing here runs anything."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Set
from enum import StrEnum
from types import CodeType, FunctionType
from typing import Any, Generic, Literal, SupportsFloat, SupportsIndex, TypeAlias, TypedDict, TypeVar

from procbackground._record import field, record
from procbackground.retry import Retry, as_retry

__all__ = ["Task", "TaskFields", "TaskType"]

R = TypeVar("R")

NO_LIMIT = math.inf
_LONGEST_S = 1e300  # an int beyond it may be too large for a float

OUTPUTS = ("inherit", "capture", "relay", "tagged")  # beside paths
Output: TypeAlias = Literal["inherit", "capture", "relay", "tagged"] | str | os.PathLike[str]

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_IS_ASYNC = 0x80 | 0x200  # CO_COROUTINE and CO_ASYNC_GENERATOR of `inspect`, which takes 7 ms to import
_SIZE = r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*"  # compiled by its first use


class TaskType(StrEnum):
    """How often a task runs: once (`ONE_OFF`), or in iterations until it is cancelled (`LOOP`)."""

    ONE_OFF = "one_off"
    LOOP = "loop"


@record(frozen=True, slots=True, eq=False)
class Task(Generic[R]):
    """What to run, and under which limits. Immutable, so that one task can be run many times.

        task = Task(crunch, args=("part-0001.parquet",), timeout=60, retry=3, memory_limit="2GiB")
        handle = manager.run_task(task)  # or `manager.stream(tasks)`, for many

    `None` in a limit means the manager's; `math.inf` means no limit.
    Raises (now): `TypeError` or `ValueError`, naming the field, its value and what it takes.

    Attributes:
        fn: any callable; what plain pickle cannot carry goes by cloudpickle.
        args: positional arguments, pickled when the task is given to the manager.
        kwargs: keyword arguments, likewise.
        type: `TaskType.ONE_OFF`, or `TaskType.LOOP` for iterations until `cancel()` or `close()`.
        name: shown in events and logs; the qualified name of `fn` unless given.
        meta: the caller's own data for observers; never sent to the child.
        retry: a `Retry`, or an int: that many attempts in total, the first included.
        timeout: seconds that one attempt (a loop's iteration) may run; then its process tree is stopped. Loading the
            function, with its imports, has the manager's `start_timeout` instead.
        deadline: seconds that the task may take from `run_task` on, with queueing, attempts and waits.
        stalled_threshold: seconds of silence after which an attempt is reported as stalled; it runs on.
        memory_limit: bytes that the attempt's process tree may hold: what is resident of its process, and of all that
            it has started. Pages that they share after a fork count once, and so does shared memory. On Linux, pages of
            files that they map do not count: the kernel takes them back when memory is short. Or a text: "512MiB" and
            "512M" are powers of 1024, "512MB" of 1000.
        priority: higher goes first; equal ones in the order they came.
        interval: loops only: seconds from the end of an iteration to the start of the next.
        isolate: every attempt in a process that has run nothing else and runs nothing after.
        cores: how many of the manager's `max_workers` places it takes. With more than 1 it runs in a process whose
            numpy, BLAS, OpenMP and their like use so many threads.
        memory: bytes, or a text as for `memory_limit`: it begins when so much memory is free (of the machine, or of the
            container's limit) and not reserved by other running tasks. It may hold more: that is `memory_limit`.
        slots: how many of which of the manager's slots it needs, such as `{"gpu": 1}`; see `Manager`. Which ones it has
            says `current().slots`.
        output: where the standard output and standard error of an attempt go, with those of C code and of processes
            that it starts. "inherit": where the worker's go; what its Python code wrote last to `sys.stderr` is in the
            error of a death. "capture": to `handle.output`. "relay": to `sys.stdout` and `sys.stderr` of this process,
            in whole lines; "tagged": the same, with the task's name before each line. Or a path: a file, to which all
            attempts append, or a directory, with a file `{name}-{id}.log` for each task. `{name}`, `{id}` (1 for the
            first task that the manager accepts) and `{attempt}` in it are replaced.
        key: with a journal: tasks of one key are the same work, run to success once. By default a digest of the
            function's name and the arguments' content; see `Manager`.
    """

    fn: Callable[..., R]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    type: TaskType = TaskType.ONE_OFF
    name: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    retry: Retry | int | None = None
    timeout: float | None = None
    deadline: float | None = None
    stalled_threshold: float | None = None
    memory_limit: float | str | None = None
    priority: int = 0
    interval: float = 0.0
    isolate: bool = False
    cores: int = 1
    memory: int | str | None = None
    slots: Mapping[str, int] | None = None
    output: Output | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        check_function(self.fn)
        if type(self.args) is not tuple:
            object.__setattr__(self, "args", check_args("args", self.args))
        if type(self.kwargs) is not dict and not isinstance(self.kwargs, Mapping):
            raise TypeError(f"kwargs takes a dict, such as kwargs={{'name': value}}, not {_shown(self.kwargs)}")
        if type(self.meta) is not dict and not isinstance(self.meta, Mapping):
            raise TypeError(f"meta takes a dict, such as meta={{'order': 17}}, not {_shown(self.meta)}")
        if type(self.isolate) is not bool:
            check_flag("isolate", self.isolate)
        if not self.name:
            object.__setattr__(self, "name", qualified_name(self.fn))
        elif not isinstance(self.name, str):
            raise TypeError(f"name takes a text, such as name='parse', not {_shown(self.name)}")
        if self.retry is not None:
            object.__setattr__(self, "retry", as_retry(self.retry))
        if self.memory_limit is not None:
            object.__setattr__(self, "memory_limit", check_limit("memory_limit", self.memory_limit))
        if self.timeout is not None or self.deadline is not None or self.stalled_threshold is not None:
            for name in ("timeout", "deadline", "stalled_threshold"):
                object.__setattr__(self, name, check_duration(name, getattr(self, name)))
        if type(self.priority) is not int:
            _check_priority(self.priority)
        if type(self.interval) is not float or self.interval:
            object.__setattr__(self, "interval", as_duration("interval", self.interval, may_be_zero=True))
        if self.cores != 1 or self.memory is not None or self.slots is not None:
            self._check_needs()
        if self.output is not None:
            check_output(self.output)
        if self.key is not None and (not isinstance(self.key, str) or not self.key):
            raise TypeError(f"key must be a str of at least one character, not {self.key!r}")

    def _check_needs(self) -> None:
        check_count("cores", self.cores)
        if self.memory is not None:
            object.__setattr__(self, "memory", check_size("memory", self.memory))
        if self.slots is not None:
            object.__setattr__(self, "slots", check_slots("slots", self.slots))
        if self.type == TaskType.LOOP and self._has_needs:
            raise ValueError(
                "a loop has no cores, memory or slots: it would keep them from all other tasks for as long as it runs. "
                "Give it a memory_limit, or run one-off tasks with these needs"
            )

    @property
    def _has_needs(self) -> bool:
        """Whether it needs more than one place to begin."""
        return self.cores != 1 or self.memory is not None or bool(self.slots)


class TaskFields(TypedDict, total=False):
    """The fields of a `Task` that `Manager.options` takes: all but the function and its arguments."""

    type: TaskType
    name: str
    meta: Mapping[str, Any]
    retry: Retry | int | None
    timeout: float | None
    deadline: float | None
    stalled_threshold: float | None
    memory_limit: float | str | None
    priority: int
    interval: float
    isolate: bool
    cores: int
    memory: int | str | None
    slots: Mapping[str, int] | None
    output: Output | None
    key: str | None


def as_duration(name: str, seconds: Any, *, may_be_zero: bool = False) -> float:
    """Return `seconds`, any number that is more than 0, as one that can be added to a time.

    `math.inf` is among them, and stands for what no float can hold. Raises: `TypeError` for anything but a number,
    `ValueError` for a negative one, or 0 unless it `may_be_zero`.
    """
    if type(seconds) in (float, int) and 0 < seconds < _LONGEST_S:
        return seconds  # type: ignore[no-any-return]
    if not isinstance(seconds, (SupportsFloat, SupportsIndex)) or isinstance(seconds, (str, bool)):
        total_seconds = getattr(seconds, "total_seconds", None)  # of a timedelta
        example = "30" if total_seconds is None else f"{total_seconds():g}"
        raise TypeError(f"{name} takes a number of seconds, such as {name}={example}, not {_shown(seconds)}")
    try:
        duration_s = float(seconds)
    except OverflowError:
        duration_s = math.inf if seconds > 0 else -math.inf  # type: ignore[operator]
    if not (duration_s > 0 or (may_be_zero and duration_s == 0)):
        raise ValueError(f"{name} must be {'0 or more' if may_be_zero else 'more than 0'} seconds, not {seconds!r}")
    return duration_s


def check_duration(name: str, seconds: Any) -> float | None:
    """Return `seconds` as `as_duration` does, or None for None."""
    return None if seconds is None else as_duration(name, seconds)


def check_flag(name: str, flag: Any) -> None:
    """Raise `TypeError` unless `flag` is True or False, or equal to one of them as numpy's are: "no" counts as true."""
    if not hasattr(type(flag), "__bool__") or flag not in (True, False):
        raise TypeError(f"{name} takes True or False, not {_shown(flag)}")


def check_count(name: str, count: Any) -> None:
    """Raise `TypeError` or `ValueError` unless `count` is an int of 1 or more."""
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"{name} takes an int, such as {name}=2, not {_shown(count)}")
    if count < 1:
        raise ValueError(f"{name} must be 1 or more, not {count}")


def check_slots(name: str, slots: Any) -> dict[str, int]:
    """Return `slots` as a dict. Raises: `TypeError` or `ValueError` unless it maps names to ints of 1 or more."""
    if not isinstance(slots, Mapping):
        raise TypeError(f"{name} takes a dict of numbers by name, such as {name}={{'gpu': 1}}, not {_shown(slots)}")
    for key, count in slots.items():
        if not isinstance(key, str) or not key:
            raise TypeError(f"{name}: {_shown(key)} is no name; write such as {name}={{'gpu': 1}}")
        check_count(f"{name}[{key!r}]", count)
    return dict(slots)


def check_output(output: Any) -> None:
    """Raise `TypeError` or `ValueError` unless `output` says where the output of a task goes."""
    if isinstance(output, os.PathLike) or output in OUTPUTS:
        return
    if not isinstance(output, str):
        raise TypeError(f"output takes a path, or one of {', '.join(OUTPUTS)}, not {_shown(output)}")
    if os.sep not in output and "." not in output and "{" not in output:
        # Most likely a misspelt word.
        raise ValueError(
            f"output must be a path, or one of {', '.join(OUTPUTS)}, not {output!r}; for a directory of that name pass "
            f"pathlib.Path({output!r})"
        )


def check_function(fn: Any) -> None:
    """Raise `TypeError` unless `fn` can be the function of a task."""
    if type(fn) is FunctionType:  # what it takes to find the code of others is a tenth of the price of a task
        code: Any = fn.__code__
    else:
        if not callable(fn):
            raise TypeError(f"a task's fn must be callable, not {type(fn).__name__}")
        while isinstance(fn, functools.partial):
            fn = fn.func
        plain = getattr(fn, "__func__", fn)
        code = getattr(plain, "__code__", None) or getattr(type(fn).__call__, "__code__", None)
    if isinstance(code, CodeType) and code.co_flags & _IS_ASYNC:
        raise TypeError(
            f"{qualified_name(fn)} is an `async def` function, and a task has no event loop: give a function that "
            "calls asyncio.run(...) with it"
        )


def check_args(name: str, args: Any) -> tuple[Any, ...]:
    """Return `args` as a tuple. Raises: `TypeError` for what is most likely a single argument."""
    # Text is one argument for certain; a dict, a set or an array most likely is.
    is_one = isinstance(args, (str, bytes, bytearray, Mapping, Set)) or hasattr(args, "__array__")
    if is_one or not isinstance(args, Iterable):
        one = _shown(args)
        raise TypeError(f"{name} takes a tuple of arguments, not {one}; for a single one write {name}=({one},)")
    return tuple(args)


def _check_priority(priority: Any) -> None:
    # The queue is sorted by it, in the supervisor, which has no caller to tell.
    if not _is_real(priority) or priority != priority:
        raise TypeError(f"priority takes a number, such as priority=10, not {_shown(priority)}")


def _shown(value: Any) -> str:
    """Return a short text for `value` in an error."""
    try:
        text = repr(value)
    except Exception:  # the user's own
        return f"{type(value).__name__}(...)"
    return text if len(text) <= 60 else f"{type(value).__name__}(...)"


def _is_real(value: Any) -> bool:
    from numbers import Real  # as numpy's numbers are

    return isinstance(value, Real)


def check_size(name: str, size: Any) -> int:
    """Return `size` in bytes. Raises: as `parse_size`, with `name` in the message."""
    try:
        return parse_size(size)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def check_limit(name: str, size: Any) -> float:
    """Return `size` as `check_size` does, or `NO_LIMIT` for itself."""
    return NO_LIMIT if isinstance(size, float) and size == NO_LIMIT else check_size(name, size)


def resolve(value: float | None, default: float | None) -> float:
    """Return the limit in force: the task's `value`, else the manager's `default`, else `NO_LIMIT`."""
    if value is not None:
        return value
    return NO_LIMIT if default is None else default


def qualified_name(fn: Callable[..., Any]) -> str:
    """Return the name under which `fn` shows in events: its qualified name, or its type's when it has none."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


def parse_size(size: int | str) -> int:
    """Return `size` in bytes. Strings take decimal (`"2GB"`) and binary (`"512MiB"`, `"2G"`) units."""
    if isinstance(size, str):
        match = re.fullmatch(_SIZE, size, re.IGNORECASE)
        if match is None:
            raise ValueError(f"not a size: {size!r}; write bytes as an int, or a string such as '512MiB'")
        number, unit, binary = match.groups()
        # As in GNU tools: "M" and "MiB" are powers of 1024, "MB" is a power of 1000.
        is_decimal = not binary and size.strip()[-1:] in "bB" and unit
        size = int(float(number) * (1000 if is_decimal else 1024) ** _UNITS[unit.upper()])
    elif isinstance(size, bool) or (not isinstance(size, int | float) and not _is_real(size)):
        raise TypeError(f"a size is a number of bytes, or a string such as '512MiB', not {_shown(size)}")
    if not 1 <= size < math.inf:
        raise ValueError(f"a size must be 1 byte or more, not {size!r}")
    return int(size)
