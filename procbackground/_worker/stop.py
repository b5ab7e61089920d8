"""The exception that ends a task at a requested stop."""

from __future__ import annotations


class StopTask(SystemExit):
    """Unwinds a task at a requested stop: its `finally` blocks run."""
