"""Frames: the messages in a worker's two pipes, how they are encoded, and how a reader splits the stream again.

Fifth stop of a task; its answer passes here, too. A frame is a header (mark and kind, length of the body, sequence
number) and a body. Each pipe has one writer. Requests and answers are numbered: the numbers grow within a pipe, and an
answer has the number of its request. A request carries everything that the worker needs, so several may be in the pipe
at once.

A task can write to any descriptor of its process, so the result pipe may contain bytes that are not frames. Every
header begins with `MARK`, and `FrameReader` checks each one before it believes the length.
"""

from __future__ import annotations

import os
import struct

# The mark and the kind in one number, the length of the body, the sequence number. 64 bits of length cost nothing
# measurable, and no payload is too long for them.
HEADER = struct.Struct("<IQQ")
HEADER_SIZE = HEADER.size
_unpack_header = HEADER.unpack_from
_pack_header = HEADER.pack

# Two of its bytes (0xC1, 0xF9) never occur in UTF-8, so that no text passes for a header. Below 2**30, where
# CPython compares and subtracts integers fastest.
MARK = 0x3BC1F900
_MARK_BYTES = MARK.to_bytes(4, "little")[1:]  # follow the byte of the kind

# Answers: child to parent. Each ends the request whose number it has, so their numbers grow.
NOTHING = 0  # the call returned None; no body
VALUE = 1  # the call returned the pickled value
PARCEL_VALUE = 2  # the call returned the value in a parcel: the body is its label
FAILURE = 3  # the call failed; the body is `failures.Failure`, pickled
SKIPPED = 4  # the request was revoked before it began

# Requests: parent to child. Their numbers grow, too. The end of the task pipe asks an idle worker to leave.
CALL = 5
LOOP = 6

# Messages. Those about a request have its number, the others 0.
GO_ON = 7  # parent to a loop that reported a failed iteration: run the next iteration in this process
HELLO = 8  # the worker is ready
PROGRESS = 9  # a report, see `_wire.progress`
LOG_RECORD = 10  # a log record, see `_worker.relay`; numbered if a request ran
BROKEN = 11  # the initializer failed; the body as in FAILURE
ITERATION_FAILED = 12  # a loop's iteration failed; the body as in FAILURE, the loop waits for GO_ON
LOOP_ENDED = 13  # the loop saw the stop and ended after its running iteration
PARTIAL = 14  # the first items of a chunk that is not done yet; the body as in the chunk's value
MEASURED = 15  # cost of the call whose answer comes next: `COST`
CHECKPOINT = 16  # a state that the task saved: `CHECKPOINT_HEAD`, then its pickle
OUTPUT = 17  # the output of the request is redirected, and its pipes are in the side socket
LEAVING = 18  # the worker ends and begins nothing more, because of what it answered last
RELEASE = 19  # parent to child: a shared value is not needed any more, `shares.NUMBER`; numbered as the latest request

_LAST_NUMBERED = LOOP
_LAST_KIND = RELEASE
_ABOUT_NO_REQUEST = (GO_ON, HELLO, BROKEN, MEASURED, LEAVING)

COST = struct.Struct("<dQ")  # CPU seconds, peak resident bytes
CHECKPOINT_HEAD = struct.Struct("<Q")  # row of the chunk; 0 where there is none

# The longest plausible body of each kind. No machine has the memory for more than `_ANY`.
_ANY = 2**48
_LENGTHS = {
    **dict.fromkeys((NOTHING, SKIPPED, GO_ON, HELLO, LOOP_ENDED, OUTPUT, LEAVING), 0), MEASURED: COST.size, RELEASE: 8
}  # fmt: skip
_LONGEST = tuple(_LENGTHS.get(kind, _ANY) for kind in range(_LAST_KIND + 1))

# The body of a request begins with this: flags, attempt, length of the function's bytes. The function's bytes follow
# (`pack_name`, then the pickled function), then the pickled arguments, or nothing when there are none.
CALL_HEAD = struct.Struct("<BHQ")
CALL_HEAD_SIZE = CALL_HEAD.size
HAS_KWARGS = 1  # the arguments are (args, kwargs); else they are args alone
IS_REUSABLE = 2  # the same function bytes will come again: keep the loaded function
PER_ITEM = 4  # the arguments are a chunk: a list for each parameter; each row is a call with an answer of its own
PARCEL = 8  # the arguments are in a parcel: the label takes their place, the descriptor came through the side socket
MAY_END_EARLY = 16  # a chunk that takes long may leave the rows that it has not begun
HAS_SAVED = 32  # between the function's bytes and what follows is a saved state: `SAVED_HEAD`, then its pickle
HAS_KEY = 64  # and then the key of the task, for the journal: `KEY_HEAD`, then its bytes
HAS_OUTPUT = 128  # the output is redirected: the request ends with a `output.Plan.spec`
# A chunk's value is (values, failures, took): a list with a value for each row, {row: pickled failure}, and seconds.
# The values of its partial answers come before. If they all are fewer than the rows, the worker left those that follow.

SAVED_HEAD = struct.Struct("<Q")  # length of the pickle of a saved state

KEY_HEAD = struct.Struct("<I")  # length of a key

# The body of a LOOP has this between the function's bytes and the arguments.
LOOP_HEAD = struct.Struct("<dB")  # interval in seconds, whether to note the start of each iteration

_NAME_LENGTH = struct.Struct("<I")

# A read of more than the allocator's mmap threshold (128 KiB) maps and unmaps memory each time: 64 KiB reads move
# three times as many small frames a second.
READ_SIZE = 65536

_SHOWN_BYTES = 64  # of garbage, in an error's text: enough to recognise a line of output


class ProtocolError(Exception):
    """A pipe contained bytes that are no frame. Nothing that follows them can be read."""

    def __init__(self, reason: str, data: bytes) -> None:
        super().__init__(reason, data)
        self.reason = reason
        self.data = data  # the first bytes

    def __str__(self) -> str:
        return f"{self.reason}: {self.data!r}"


def frame(kind: int, sequence: int, body: bytes = b"") -> bytes:
    """Return one whole frame."""
    return HEADER.pack(MARK + kind, len(body), sequence) + body


def call_rest(flags: int, attempt: int, blob: bytes) -> bytes:
    """Return the part of a request between its header and its arguments; `blob` is the function's bytes."""
    return CALL_HEAD.pack(flags, min(attempt, 65535), len(blob)) + blob


def call_frame(sequence: int, rest: bytes, arguments: bytes, kind: int = CALL) -> bytes:
    """Return one whole request; `rest` comes from `call_rest`."""
    return _pack_header(MARK + kind, len(rest) + len(arguments), sequence) + rest + arguments


def arguments_at(kind: int, body: bytes) -> int:
    """Return where the arguments begin in the body of a request."""
    flags, _, length = CALL_HEAD.unpack_from(body)
    position: int = CALL_HEAD_SIZE + length
    if flags & HAS_SAVED:
        position += SAVED_HEAD.size + SAVED_HEAD.unpack_from(body, position)[0]
    if flags & HAS_KEY:
        position += KEY_HEAD.size + KEY_HEAD.unpack_from(body, position)[0]
    return position + LOOP_HEAD.size if kind == LOOP else position


class FrameReader:
    """Splits the bytes from a pipe into frames; keeps the incomplete tail between reads.

    `error` is set once something other than a frame came. The frames before it are returned as usual; none after it
    ever are.
    """

    __slots__ = ("_last", "_missing", "_parts", "_tail", "error")

    def __init__(self) -> None:
        self._tail = b""
        self._parts: list[bytes] = []  # of one large frame, joined once when it is complete
        self._missing = 0
        self._last = 1  # number of the latest answer or request; the first one is at least 1
        self.error: ProtocolError | None = None

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return the frames that `data` completes, as (kind, sequence number, body); look at `error` afterwards."""
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
        last = self._last
        position, end = 0, len(data)
        while end - position >= HEADER_SIZE:
            mark, length, sequence = _unpack_header(data, position)
            kind = mark - MARK
            # Nearly always; the checks cost 0.06 µs a frame then.
            if sequence >= last and (kind == VALUE or (kind == NOTHING and not length)):
                last = sequence
            else:
                if not 0 <= kind <= _LAST_KIND:
                    return self._fail("not a frame", data, position, frames)
                if length > _LONGEST[kind]:
                    return self._fail("a frame with a wrong length", data, position, frames)
                if kind <= _LAST_NUMBERED:
                    if sequence < last:  # equal when this header is looked at again, as its body was incomplete
                        return self._fail("a frame with a wrong number", data, position, frames)
                    last = sequence
                elif sequence and kind in _ABOUT_NO_REQUEST:
                    return self._fail("a frame with a wrong number", data, position, frames)
            body_start = position + HEADER_SIZE
            body_end = body_start + length
            if body_end > end:
                if length > _LONGEST[kind]:
                    return self._fail("a frame with a wrong length", data, position, frames)
                if length > READ_SIZE:
                    # Joining a large body read by read would copy it again and again.
                    self._parts = [data[position:]]
                    self._missing = body_end - end
                    self._last = last
                    return frames
                break
            frames.append((kind, sequence, data[body_start:body_end]))
            position = body_end
        self._last = last
        if position < end:
            # Report garbage that is shorter than a header now: with the next frame, it would be another task's.
            if not _MARK_BYTES.startswith(data[position + 1 : position + 4]):
                return self._fail("not a frame", data, position, frames)
            self._tail = data[position:]
        return frames

    def _fail(
        self, reason: str, data: bytes, position: int, frames: list[tuple[int, int, bytes]]
    ) -> list[tuple[int, int, bytes]]:
        self.error = ProtocolError(reason, data[position : position + _SHOWN_BYTES])
        self._tail = data[position : position + HEADER_SIZE]  # what comes now fails at the same place
        return frames


def pack_name(name: str) -> bytes:
    """Encode the name of a task, of any length; lone surrogates, as in the names of files, survive."""
    encoded = name.encode("utf-8", "surrogatepass")
    return _NAME_LENGTH.pack(len(encoded)) + encoded


def unpack_name(blob: bytes) -> tuple[str, int]:
    """Return the name at the beginning of `blob`, and the position behind it."""
    end = _NAME_LENGTH.size + _NAME_LENGTH.unpack_from(blob)[0]
    return blob[_NAME_LENGTH.size : end].decode("utf-8", "surrogatepass"), end


def write_all(fd: int, data: bytes) -> None:
    """Write `data` to a blocking descriptor, all of it."""
    written = os.write(fd, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(data):
            written += os.write(fd, view[written:])
