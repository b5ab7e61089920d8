"""Naming: how registries mention functions and classes without importing them.

Importing an adaptor imports its library, so the contender registry and the measure catalogue only hold
`module:name`, and `one_run` resolves the two that it needs.
"""

from importlib import import_module
from typing import Any


def named(place: str) -> Any:
    """Return what `place`, such as `benchmarks.tasks:echo`, stands for."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
