"""What a worker wrote last to `sys.stderr`: its place in the shared page, from which the parent explains a death.

The worker's descriptor 2 is the parent's own, so the parent needs a copy; the page survives any death of the worker.
"""

from __future__ import annotations

import struct

from procbackground._wire.page import STDERR_BEGIN, STDERR_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEAD = struct.Struct("<QQQH")  # pid, request and row of a chunk that wrote it; bytes of it
TEXT_BYTES = STDERR_BYTES - HEAD.size


def write(page: Any, line: int, writer: tuple[int, int, int], text: bytes) -> None:
    """Store `text`, of at most `TEXT_BYTES`, for the worker with this line; `writer` is as `HEAD` has it."""
    begin = STDERR_BEGIN + line * STDERR_BYTES
    page[begin : begin + HEAD.size + len(text)] = HEAD.pack(*writer, len(text)) + text


def read(page: Any, line: int, writer: tuple[int, int, int]) -> bytes:
    """Return what was written there by this process during this request and row."""
    begin = STDERR_BEGIN + line * STDERR_BYTES
    *found, length = HEAD.unpack(page[begin : begin + HEAD.size])
    begin += HEAD.size
    return page[begin : begin + min(length, TEXT_BYTES)] if (*found,) == writer else b""
