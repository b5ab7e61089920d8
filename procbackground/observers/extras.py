"""Imports of libraries that only some observers need."""

from __future__ import annotations

from typing import Any

from procbackground._load import load


def import_extra(module: str, extra: str, who: str) -> Any:
    """Return `module`, for the class `who`. Raises: `ImportError` that names the extra which installs it."""
    try:
        return load(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(
            f"{who} needs {package}, which is not installed: pip install 'procbackground[{extra}]'", name=package
        ) from error
