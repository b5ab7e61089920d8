"""`task`, the decorator for files that `procbackground run FILE.py` runs.

    from procbackground.cli import task

    @task(timeout=600, retry=3)
    def report(): ...

Needs no extra: a file with it can be imported anywhere. The command itself is in `_cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from typing import Unpack

    from procbackground.task import Task, TaskFields

__all__ = ["task"]

F = TypeVar("F", bound=Callable[..., Any])

# (function, fields, arguments), in the order in which files registered them.
_registered: list[tuple[Callable[..., Any], dict[str, Any], tuple[Any, ...], dict[str, Any]]] = []


@overload
def task(fn: F, /) -> F: ...


@overload
def task(
    *, args: tuple[Any, ...] = ..., kwargs: dict[str, Any] | None = ..., **fields: Unpack[TaskFields]
) -> Callable[[F], F]: ...


def task(fn: Any = None, /, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **fields: Any) -> Any:
    """Register the function below for `procbackground run`; the function itself stays as it is.

    `@task` or `@task(timeout=..., retry=...)`. Takes the fields of `Task` by name. A function may be registered more
    than once, with other `args` or `kwargs` and another `name`. Raises, when the file is run: as `Task`.
    """

    def register(function: F) -> F:
        _registered.append((function, fields, tuple(args), dict(kwargs or {})))
        return function

    return register if fn is None else register(fn)


def registered_tasks(module: str) -> list[Task[Any]]:
    """Return the tasks that a module has registered, in the order in which its functions stand there.

    Raises: as `Task`.
    """
    from procbackground.task import Task

    return [
        Task(fn, args=args, kwargs=kwargs, **fields)
        for fn, fields, args, kwargs in sorted(_registered, key=_line_of)
        if fn.__module__ == module
    ]


def _line_of(entry: Any) -> int:
    code = getattr(entry[0], "__code__", None)
    return getattr(code, "co_firstlineno", 0)
