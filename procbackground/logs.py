"""For the log records that children send: `TaskFilter` lets one format string serve them and the parent's own."""

from __future__ import annotations

import logging
import os

__all__ = ["TaskFilter"]


class TaskFilter(logging.Filter):
    """Gives records that come from no task the attributes that those of tasks have.

    A record from a child has `task` (the task's name), `task_id` (1 for the first task that the manager accepted, and
    so on), `attempt` (from 1) and `pid`. With this filter a handler's format may name them, whatever the record:

        handler.addFilter(TaskFilter())
        handler.setFormatter(logging.Formatter("%(levelname)s [%(task)s #%(attempt)d pid %(pid)d] %(message)s"))

    The parent's own records get "", 0, 0 and the pid of this process. The filter lets every record pass.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Give `record` the attributes that it lacks, and let it pass."""
        attributes = record.__dict__
        if "task_id" not in attributes:
            for name, value in (("task", ""), ("task_id", 0), ("attempt", 0), ("pid", os.getpid())):
                attributes.setdefault(name, value)
        return True
