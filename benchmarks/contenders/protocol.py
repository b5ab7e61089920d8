"""Protocol: the few calls through which every measure talks to every library.

The adaptors in this folder implement it; `measures/` use nothing else of a contender.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self


class NotOfferedError(Exception):
    """The library has no such feature; its message says which."""


class Contender:
    """One library's pool of workers. An adaptor passes calls on and adds as little as it can.

    Attributes: `submit(fn, *args)` gives work to the pool and returns a handle; an adaptor sets it to the
    library's own bound method where that fits. `retries_killed_tasks` says that a task whose worker dies is
    run again by the library itself.
    """

    submit: Callable[..., Any]
    retries_killed_tasks = False

    def result_of(self, handle: Any, timeout_s: float | None = None) -> Any:
        """Wait for the handle's result."""
        return handle.result(timeout_s)

    def run_each(self, fn: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Submit one task for each tuple of arguments, then gather all results in that order."""
        submit, result_of = self.submit, self.result_of
        handles = [submit(fn, *each) for each in arguments]
        return [result_of(handle) for handle in handles]

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Make one round trip."""
        return self.result_of(self.submit(fn, *args))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk_size: int | None) -> list[Any]:
        """Return `fn` of every item in order; with None the library chooses its own chunk size."""
        raise NotOfferedError("no map")

    def stream(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield `fn` of every item, in any order, pulling the items as the results are taken."""
        raise NotOfferedError("no stream")

    def run_loop(self, fn: Callable[..., Any], *args: Any) -> None:
        """Start calling `fn` again and again, without end, until the pool is closed."""
        raise NotOfferedError("no loop tasks")

    def share(self, value: Any) -> Any:
        """Return what tasks get in place of a large value that they have in common; None if the workers have it."""
        raise NotOfferedError("no shared values")

    def close(self) -> None:
        """End the workers; all results have been gathered before."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class ExecutorContender(Contender):
    """A library that follows `concurrent.futures.Executor`: its futures and its `map(..., chunksize=)`."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.submit = executor.submit

    def run_each(self, fn: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        submit = self.submit
        handles = [submit(fn, *each) for each in arguments]
        return [handle.result() for handle in handles]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk_size: int | None) -> list[Any]:
        if chunk_size is None:
            return list(self.executor.map(fn, items))
        return list(self.executor.map(fn, items, chunksize=chunk_size))

    def close(self) -> None:
        self.executor.shutdown(wait=True)
