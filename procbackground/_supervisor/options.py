"""The options of a supervisor, as a manager has checked them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

from procbackground._named import NamedTuple

if TYPE_CHECKING:
    from procbackground._journal.writer import Writer
    from procbackground._submit.setup import Setup
    from procbackground._wire.surroundings import Surroundings
    from procbackground._worker.relay import Levels
    from procbackground.engines.port import Engine


class Options(NamedTuple):
    """The options of a supervisor; see `Manager`."""

    context: BaseContext
    max_workers: int
    max_tasks_per_child: int | None
    initializer: tuple[Callable[..., object], tuple[Any, ...]] | None
    observers: Iterable[Any]
    keeps_spare: bool
    max_pending: int | None
    refuses_when_full: bool
    grace_s: float
    start_timeout_s: float
    min_free_bytes: int | None
    preload: tuple[str, ...]
    setup: Setup | None = None
    journal: Writer | None = None
    exit_timeout_s: float | None = None
    surroundings: Surroundings | None = None
    main: tuple[str | None, str | None] | None = None  # name or path by which children can import `__main__`
    main_import: str = "auto"
    slots: Mapping[str, int] | None = None
    max_pending_bytes: float | None = None  # None: a share of the free memory
    levels: Levels | None = None  # of the loggers of the process that gives the work; by default of this one
    engine: Engine | None = None
