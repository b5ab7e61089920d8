"""Stored results: bytes in the file, values again in a later run."""

from __future__ import annotations

import zlib
from typing import Any

from procbackground._wire.loading import loads
from procbackground._wire.parcel import ReceivedParcel, load_stored
from procbackground.errors import SerializationError

NONE = "none"  # the value is None
PICKLE = "pickle"
BUFFERS = "buffers"  # count and sizes of parts, then the parts: a pickle and its buffers; see `_wire.parcel`
_FORMS = (NONE, PICKLE, BUFFERS)
NOT_KEPT = "not kept"  # too large for SQLite, or with connections: in a later run the task runs again

MAX_BYTES = 900_000_000  # SQLite's limit is 10**9, for the row as a whole


def stored_form(body: bytes | ReceivedParcel) -> tuple[str, bytes | None]:
    """Return format and bytes of a value as it came from the child."""
    if not body:
        return NONE, None
    if isinstance(body, bytes):
        form, data = PICKLE, body
    else:
        stored = None if body.size > MAX_BYTES else body.stored()
        form, data = BUFFERS, stored or b""
    return (form, data) if data and len(data) <= MAX_BYTES else (NOT_KEPT, None)


def checksum(key: str, data: bytes | None) -> int:
    """Return the checksum of what is stored under a key.

    It covers the key, as a damaged index of the file may lead to the row of another one.
    """
    return zlib.crc32(data or b"", zlib.crc32(key.encode()))


def is_whole(key: str, form: str | None, crc: int | None, data: bytes | None) -> bool:
    """Whether the value can be given back: it was kept, under this key, and its bytes are those that were written."""
    if form not in _FORMS or (data is None) != (form == NONE):
        return False
    return crc == checksum(key, data) or crc == _checksum_1(data)


def _checksum_1(data: bytes | None) -> int | None:
    """Return the checksum as version 1 of the file had it."""
    return None if data is None else zlib.crc32(data)


def load(form: str, data: bytes) -> Any:
    """Return the value. Runs the code that its pickle names."""
    if form == NONE:
        return None
    if form == NOT_KEPT:
        raise SerializationError("the result is too large for the journal, or holds connections, and was not kept")
    return loads(data) if form == PICKLE else load_stored(data)
