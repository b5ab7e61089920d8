"""The limits of a manager: those of tasks that have none of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from procbackground._state.ledger import Needs
from procbackground.retry import Retry, as_retry
from procbackground.task import Output, Task, check_duration, check_limit, check_output


class Defaults:
    """The manager's limits, for tasks that have none of their own."""

    __slots__ = (
        "_find_needs", "memory_limit", "output", "reports_stalls", "retry", "shows_progress", "stalled_threshold",
        "timeout",
    )  # fmt: skip

    def __init__(
        self,
        retry: Retry | int | None,
        timeout: float | None,
        stalled_threshold: float | None,
        memory_limit: float | str | None,
        reports_stalls: bool,
        shows_progress: bool = False,
        output: Output = "inherit",
        find_needs: Callable[[Task[Any]], Needs] | None = None,
    ) -> None:
        check_output(output)
        self.retry: Retry | None = as_retry(retry)
        self.timeout: float | None = check_duration("timeout", timeout)
        self.stalled_threshold: float | None = check_duration("stalled_threshold", stalled_threshold)
        self.memory_limit: float | None = None if memory_limit is None else check_limit("memory_limit", memory_limit)
        self.reports_stalls: bool = reports_stalls
        self.shows_progress: bool = shows_progress  # of all tasks, those of maps included
        self.output: Output = output
        self._find_needs = find_needs

    def needs_of(self, task: Task[Any]) -> Needs | None:
        """Return what the task needs, if it is more than a place. Raises: `ValueError` for what there never will be."""
        return self._find_needs(task) if task._has_needs and self._find_needs is not None else None
