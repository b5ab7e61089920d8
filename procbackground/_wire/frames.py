"""Frames: what crosses a worker's two pipes, and how it is cut and put together again.

Second and fifth stop of a task. A frame is a header (length of the body, sequence number, kind) and a body. Each
pipe has one writer, and sequence numbers grow within a pipe: an answer bears the number of its request, a message
that answers nothing bears 0. A request carries all that the worker needs, so several may be on their way.
"""

from __future__ import annotations

import os
import struct

HEADER = struct.Struct("<IQB")  # length of the body, sequence number, kind
HEADER_SIZE = HEADER.size

# Requests: parent to child. The end of the task pipe asks an idle worker to leave.
CALL = 1
LOOP = 2
GO_ON = 3  # to a loop that reported a failed iteration: next iteration, in this process

# Header and call head in one: length, sequence number, kind, flags, attempt, length of the function's bytes. The
# function's bytes follow, then the pickled arguments, or nothing when there are none.
CALL_HEAD = struct.Struct("<IQBBHI")
CALL_HEAD_SIZE = CALL_HEAD.size
CALL_FRONT = struct.Struct("<IQ")  # the part of it that differs between calls of one function
CALL_REST = struct.Struct("<BBHI")  # the part that calls of one function have in common
HAS_KWARGS = 1  # the arguments are (args, kwargs); else they are args alone
IS_REUSABLE = 2  # the same function bytes will come again: keep the loaded function
PER_ITEM = 4  # the arguments are a chunk: a list for each parameter; each row is a call, answered for itself.
PARCEL = 8  # the arguments are a parcel: its label stands here, its descriptor came by the side socket
MAY_END_EARLY = 16  # a chunk that takes long may leave the rows that it has not begun
# A chunk's value is (values, failures, took): a list with a value for each row, {row: pickled failure}, and seconds.
# The values of its partial answers come before. If they all are fewer than the rows, the worker left those that follow.

# What a loop needs on top, between the function's bytes and the arguments.
LOOP_HEAD = struct.Struct("<dB")  # interval in seconds, whether to note the start of each iteration

# Answers and messages: child to parent.
NOTHING = 0  # the call returned None; no body
VALUE = 1  # the call returned the pickled value
PARCEL_VALUE = 2  # the call returned the value in a parcel: the body is its label
FAILURE = 3  # the call failed; the body is `_pickling.Failure`, pickled
SKIPPED = 4  # the request was revoked before it began
HELLO = 5  # the worker is ready
PROGRESS = 6  # pickled (done, total, message)
LOG_RECORD = 7  # pickled `logging.LogRecord`, or loguru message
BROKEN = 8  # the initializer failed; the body as in FAILURE
ITERATION_FAILED = 9  # a loop's iteration failed; the body as in FAILURE, the loop waits for GO_ON
LOOP_ENDED = 10  # the loop saw the stop and ended after its running iteration
PARTIAL = 11  # the first items of a chunk that is not done yet; the body as in the chunk's value
MEASURED = 12  # cost of the call whose answer comes next: `COST`

COST = struct.Struct("<dQ")  # CPU seconds, peak resident bytes

# A read of more than the allocator's mmap threshold (128 KiB) maps and unmaps memory each time: 64 KiB reads move
# three times as many small frames a second.
READ_SIZE = 65536


def frame(kind: int, sequence: int, body: bytes = b"") -> bytes:
    """Return one whole frame."""
    return HEADER.pack(len(body), sequence, kind) + body


def call_rest(kind: int, flags: int, attempt: int, blob: bytes) -> bytes:
    """Return what a request has between its number and its arguments; `blob` is the function's bytes."""
    return CALL_REST.pack(kind, flags, min(attempt, 65535), len(blob)) + blob


def call_frame(sequence: int, rest: bytes, arguments: bytes) -> bytes:
    """Return a request, whole; `rest` is of `call_rest`."""
    return CALL_FRONT.pack(len(rest) - 1 + len(arguments), sequence) + rest + arguments


class FrameReader:
    """Cuts what comes out of a pipe into frames; keeps the incomplete tail between reads."""

    __slots__ = ("_missing", "_parts", "_tail", "error")

    def __init__(self) -> None:
        self._tail = b""
        self._parts: list[bytes] = []  # of one large frame, joined once when it is complete
        self._missing = 0
        self.error: ValueError | None = None

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return the frames that `data` completes, as (kind, sequence number, body)."""
        if self._missing:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._parts)
            self._parts = []
            self._missing = 0
        elif self._tail:
            data = self._tail + data
            self._tail = b""
        frames: list[tuple[int, int, bytes]] = []
        position, end = 0, len(data)
        while end - position >= HEADER_SIZE:
            length, sequence, kind = HEADER.unpack_from(data, position)
            body_start = position + HEADER_SIZE
            body_end = body_start + length
            if body_end > end:
                if length > READ_SIZE:
                    # Joining a large body read by read would copy it again and again.
                    self._parts = [data[position:]]
                    self._missing = body_end - end
                    return frames
                break
            frames.append((kind, sequence, data[body_start:body_end]))
            position = body_end
        if position < end:
            self._tail = data[position:]
        return frames


def write_all(fd: int, data: bytes) -> None:
    """Write `data` to a blocking descriptor, all of it."""
    written = os.write(fd, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(data):
            written += os.write(fd, view[written:])
