"""A temporary file without a path, in place of a file in memory."""

from __future__ import annotations

import os
import tempfile


def make_temporary_file(name: str, size: int = 0) -> int:
    """Return a descriptor of a temporary file that has no path."""
    with tempfile.TemporaryFile(prefix=name) as file:
        fd = os.dup(file.fileno())
    try:
        if size:
            os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd
