"""Where a map begins: which mapper it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from procbackground._submit.map.adapting import AdaptingMapper
from procbackground._submit.map.lazy import LazyMapper
from procbackground._submit.map.mapper import Mapper
from procbackground._submit.map.results import Results
from procbackground._submit.recipes import Submitter


def start_map(
    submitter: Submitter,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    *,
    timeout_s: float | None,
    chunksize: int | None,
    buffersize: int | None,
    returns_exceptions: bool,
    workers: int,
    is_apart: bool,
    keeper: object,
) -> Results:
    """Give the first rows of a map to the supervisor, and return the iterator over its values.

    Args:
        is_apart: each row is a task of its own, unless `chunksize` says otherwise.
        keeper: the manager, which a map that gives more rows later keeps open.
    """
    # Later rows are submitted in other threads, with other contexts.
    submitter = submitter.waiting_for_room().in_present_context()
    if buffersize is not None:
        lazy = LazyMapper(submitter, fn, iterables, timeout_s, chunksize or 1, buffersize, returns_exceptions)
        return Results(lazy.values(), lazy.cancel, keeper, lazy.puller.stop)
    mapper: Mapper
    if chunksize is None and not is_apart:
        mapper = AdaptingMapper(submitter, fn, iterables, timeout_s, workers, returns_exceptions)
    else:
        mapper = Mapper(submitter, fn, iterables, timeout_s, chunksize or 1, returns_exceptions)
    try:
        # The results may be read when the manager has been dropped and is going away.
        return Results(mapper.values(), mapper.cancel)
    except BaseException:
        mapper.cancel()
        raise
