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
NOT_KEPT = "not kept"  # too large for SQLite, or with connections: in a later run the task runs again

MAX_BYTES = 900_000_000  # SQLite's limit is 10**9, for the row as a whole


def stored_form(body: bytes | ReceivedParcel) -> tuple[str, int | None, bytes | None]:
    """Return format, checksum and bytes of a value as it came from the child."""
    if not body:
        return NONE, None, None
    if isinstance(body, bytes):
        form, data = PICKLE, body
    else:
        stored = None if body.size > MAX_BYTES else body.stored()
        form, data = BUFFERS, stored or b""
    return (form, zlib.crc32(data), data) if data and len(data) <= MAX_BYTES else (NOT_KEPT, None, None)


def is_whole(form: str | None, crc: int | None, data: bytes | None) -> bool:
    """Whether the value can be given back: it was kept, and its bytes are those that were written."""
    if form == NONE:
        return True
    return form in (PICKLE, BUFFERS) and data is not None and zlib.crc32(data) == crc


def load(form: str, data: bytes) -> Any:
    """Return the value. Runs the code that its pickle names."""
    if form == NONE:
        return None
    if form == NOT_KEPT:
        raise SerializationError("the result is too large for the journal, or holds connections, and was not kept")
    return loads(data) if form == PICKLE else load_stored(data)
