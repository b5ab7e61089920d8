"""Results that a worker writes to a file of its own until the journal has them: the format of their records.

When the parent is killed, its workers live on for a moment. What they finish then, and what was on its way to the
journal, is in these files, and the next manager with the journal takes it from there. Without them it would run such
tasks again.
"""

from __future__ import annotations

import struct
from zlib import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NamedTuple

    class Record(NamedTuple):
        """A result. `form` is one of those below."""

        key: bytes
        form: int
        attempt: int
        started: float
        ended: float
        data: bytes
else:
    from collections import namedtuple

    Record = namedtuple("Record", "key form attempt started ended data")  # children need no `typing`

NONE, PICKLE, BUFFERS = range(3)  # as in `_journal.values`

# A worker's files are called as the journal, then this, the time when its manager was made, its pid, and "-a" or "-b".
INFIX = "-worker-"

_MARK = 0x7A3BC1F9
_HEAD = struct.Struct("<IIIBIddQ")  # mark, checksum of what follows the two, then as in `Record`
_pack_begin = struct.Struct("<II").pack
_pack_rest = struct.Struct("<IBIddQ").pack


def dump(key: bytes, form: int, attempt: int, started: float, ended: float, data: bytes) -> bytes:
    """Return a record as bytes."""
    rest = _pack_rest(len(key), form, attempt, started, ended, len(data)) + key + data
    return _pack_begin(_MARK, crc32(rest)) + rest


def load(content: bytes) -> Iterator[Record]:
    """Yield the records in the content of a file, up to the first that is not whole."""
    position = 0
    while len(content) - position >= _HEAD.size:
        mark, crc, key_size, form, attempt, started, ended, size = _HEAD.unpack_from(content, position)
        begin = position + _HEAD.size
        end = begin + key_size + size
        if mark != _MARK or end > len(content) or crc32(memoryview(content)[position + 8 : end]) != crc:
            return
        key, data = content[begin : begin + key_size], content[begin + key_size : end]
        yield Record(key, form, attempt, started, ended, data)
        position = end
