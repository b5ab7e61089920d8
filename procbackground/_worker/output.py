"""Redirects the output of an attempt: descriptors 1 and 2, so that it holds for C code and for what the task starts.

The parent reads the pipes; it closes them when the attempt has ended, whatever else still has their other ends.
"""

from __future__ import annotations

import functools
import io
import os
import sys

from procbackground._wire import frames as wire
from procbackground._wire.output import TO_FILE, TO_NEW_FILE, TO_PIPES, split_request
from procbackground._worker.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STREAMS = (("stdout", 1), ("stderr", 2))


class Redirection:
    """The descriptors 1 and 2 of a worker, and where they led before the attempt that runs."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._saved: list[tuple[int, int]] = []  # descriptor, and a duplicate of what it was; -1 if it was closed
        self._reconfigured: list[Any] = []  # streams that now flush each line
        self._replaced: dict[str, Any] = {}  # streams that others stand in for, by name
        # A fork of a notebook, or of a test runner, has streams that lead elsewhere than to the descriptors.
        self._strays = {name: stream for name, fd in _STREAMS if not _leads_to(stream := getattr(sys, name), fd)}

    def begin(self, sequence: int, request: bytes, has_parcel: bool = False) -> bytes:
        """Redirect the output as the end of `request` says; return the rest of the request.

        Raises: `OSError` if the file cannot be opened, or no descriptor is left.
        """
        body, where, path = split_request(request)
        try:
            self._redirect(sequence, where, path)
        except OSError:
            if has_parcel:
                self._channel.drop_parcel(wire.CALL, request)  # else the next task would find it
            raise
        return body

    def _redirect(self, sequence: int, where: int, path: bytes) -> None:
        self.end()  # of a request that failed in between
        targets: list[int] = []
        try:
            if where in (TO_FILE, TO_NEW_FILE):
                targets.append(_open_file(path, where == TO_NEW_FILE))
                self._channel.send(wire.OUTPUT, sequence)
            else:
                self._open_pipes(sequence, 2 if where == TO_PIPES else 1, targets)
            self._flush_python()
            for (_, fd), target in zip(_STREAMS, (targets[0], targets[-1]), strict=True):
                self._saved.append((fd, _duplicate(fd)))
                os.dup2(target, fd)
        finally:
            for target in targets:
                os.close(target)
        for name, fd in _STREAMS:
            stream = getattr(sys, name)
            if name in self._strays and stream is self._strays[name]:
                self._replaced[name] = stream
                setattr(sys, name, os.fdopen(fd, "w", 1, "utf-8", "replace", closefd=False))
            elif isinstance(stream, io.TextIOWrapper) and not stream.line_buffering:
                stream.reconfigure(line_buffering=True)
                self._reconfigured.append(stream)

    def _open_pipes(self, sequence: int, count: int, targets: list[int]) -> None:
        readers: list[int] = []
        try:
            for _ in range(count):
                reader, writer = os.pipe()
                readers.append(reader)
                targets.append(writer)
            self._channel.send_pipes(sequence, readers)
        finally:
            for reader in readers:
                os.close(reader)

    def flush(self) -> None:
        """Write what Python and C code hold in buffers."""
        self._flush_python()
        if not self._saved:
            return
        try:
            _flush_c()(None)
        except Exception:
            pass  # a Python without ctypes, or a platform that hides its C library

    def end(self) -> None:
        """Let the descriptors lead where they led before."""
        if not self._saved:
            return
        self.flush()
        for stream in self._reconfigured:
            try:
                stream.reconfigure(line_buffering=False)
            except Exception:
                pass  # the task closed it
        self._reconfigured.clear()
        for name, stream in self._replaced.items():
            setattr(sys, name, stream)
        self._replaced.clear()
        while self._saved:
            fd, saved = self._saved.pop()
            try:
                if saved < 0:
                    os.close(fd)
                else:
                    os.dup2(saved, fd)
                    os.close(saved)
            except OSError:
                pass  # the task closed them

    def _flush_python(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass  # closed by the task, or absent, or the disk is full


def _leads_to(stream: Any, fd: int) -> bool:
    try:
        return bool(stream.fileno() == fd)
    except Exception:
        return False  # it is absent, or no file


@functools.cache
def _flush_c() -> Any:
    import ctypes  # 4 ms, which most workers do not need

    return ctypes.CDLL(None).fflush


def _duplicate(fd: int) -> int:
    try:
        return os.dup(fd)
    except OSError:
        return -1  # it is closed


def _open_file(path: bytes, is_new: bool) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if is_new else 0)
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o666)
