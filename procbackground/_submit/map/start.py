"""Where a map begins: which mapper it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Any

from procbackground._submit.map.adapting import AdaptingMapper
from procbackground._submit.map.lazy import LazyMapper
from procbackground._submit.map.mapper import Mapper
from procbackground._submit.map.results import Results
from procbackground._submit.map.watch import UNWATCHED, RowWatch
from procbackground._submit.recipes import Submitter
from procbackground.task import qualified_name


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
    is_told: bool = False,
    shows_progress: bool = False,
) -> Results:
    """Give the first rows of a map to the supervisor, and return the iterator over its values.

    Args:
        is_apart: each row is a task of its own, unless `chunksize` says otherwise.
        keeper: the manager, which a map that gives more rows later keeps open.
        is_told: observers want to know of each row.
        shows_progress: a bar counts the rows that are done.
    """
    # Later rows are submitted in other threads, with other contexts.
    submitter = submitter.for_map()
    has_chunks = chunksize != 1 if chunksize is not None else buffersize is None and not is_apart
    watch = _watch(submitter, fn, iterables, shows_progress, is_told and has_chunks)
    if buffersize is not None:
        lazy = LazyMapper(submitter, fn, iterables, timeout_s, chunksize or 1, buffersize, returns_exceptions, watch)
        return Results(lazy.values(), lazy.cancel, keeper, lazy.puller.stop)
    mapper: Mapper
    if chunksize is None and not is_apart:
        mapper = AdaptingMapper(submitter, fn, iterables, timeout_s, workers, returns_exceptions, watch)
    else:
        mapper = Mapper(submitter, fn, iterables, timeout_s, chunksize or 1, returns_exceptions, watch)
    try:
        # The results may be read when the manager has been dropped and is going away.
        return Results(mapper.values(), mapper.cancel)
    except BaseException:
        mapper.cancel()
        raise


def _watch(
    submitter: Submitter,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    shows_progress: bool,
    tells: bool,
) -> RowWatch:
    """Return what watches the rows, if anything does; a row that is a task has events of its own."""
    if not shows_progress:
        return RowWatch(submitter, fn, tells, None) if tells else UNWATCHED
    from procbackground.observers.bars import make_bar

    lengths = [len(each) for each in iterables if isinstance(each, Sized)]
    return RowWatch(submitter, fn, tells, make_bar(qualified_name(fn), min(lengths, default=None)))
