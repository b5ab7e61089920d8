"""In the child: where the output of tasks goes. Standard output of the command carries results only."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ERASE_LINE = b"\r\x1b[K"


def print_to_stderr() -> None:
    """Send what tasks print to standard error: the initializer of the workers."""
    os.dup2(2, 1)


class Capturing:
    """A function whose output, and that of what it starts, goes to files of a folder, or is marked with a tag."""

    def __init__(self, fn: Callable[..., Any], folder: str | None, tag: str | None) -> None:
        self.fn, self.folder, self.tag = fn, folder, tag

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.folder is not None:
            os.makedirs(self.folder, exist_ok=True)
            with _redirected(_new_file(f"{self.folder}/stdout"), _new_file(f"{self.folder}/stderr")):
                return self.fn(*args, **kwargs)
        read_fd, write_fd = os.pipe()
        tag = (self.tag or "").encode(errors="replace")
        reader = threading.Thread(target=_mark_lines, args=(read_fd, os.dup(2), tag), daemon=True)
        reader.start()
        try:
            with _redirected(write_fd, os.dup(write_fd)):
                return self.fn(*args, **kwargs)
        finally:
            reader.join(1.0)  # a process that the task left behind may hold the pipe open


def _new_file(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)


@contextmanager
def _redirected(stdout: int, stderr: int) -> Iterator[None]:
    """Let descriptors 1 and 2 be these for a while; closes them."""
    _flush()
    kept = [os.dup(1), os.dup(2)]
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    try:
        yield
    finally:
        _flush()
        for number, fd in enumerate(kept, 1):
            os.dup2(fd, number)
            os.close(fd)


def _flush() -> None:
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except (AttributeError, OSError, ValueError):
            pass  # the task closed it, or there is none


def _mark_lines(read_fd: int, write_fd: int, tag: bytes) -> None:
    with os.fdopen(read_fd, "rb") as lines, os.fdopen(write_fd, "wb", buffering=0) as out:
        # On a terminal the bar may be where this line goes: the line takes its place, and the bar is drawn below it.
        start = ERASE_LINE if out.isatty() and os.environ.get("TERM", "dumb") != "dumb" else b""
        for line in lines:
            try:
                out.write(start + tag + b"\t" + line.rstrip(b"\n") + b"\n")
            except OSError:
                pass  # read on, or the task would wait for room in the pipe
