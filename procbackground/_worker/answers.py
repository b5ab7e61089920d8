"""Pickles what a call came to, such that one value that refuses fails alone; and measures what the call cost."""

from __future__ import annotations

import sys
from pickle import PicklingError

from procbackground._wire import frames as wire
from procbackground._wire.descriptors import MOST_DESCRIPTORS
from procbackground._wire.failures import dump_failure
from procbackground._wire.parcel import Parcel
from procbackground._wire.pickling import count_descriptors, dump_payload, dumps, explain_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# Whatever pickling a value raises costs the value, and no worker, even an exit. A stop of the task is an exit, too; the
# executor remembers it.


def dump_result(value: Any) -> bytes | Parcel:
    """Pickle what a call returned. Raises: `SerializationError`."""
    try:
        return dump_payload(value)
    except BaseException as error:
        raise explain_result(value, error) from error


def dump_partial(values: list[Any], failures: dict[int, bytes]) -> bytes | None:
    """Pickle the first rows of a chunk; return None if one of them can only go with the chunk's answer."""
    try:
        return dumps((values, failures, 0.0))
    except BaseException:
        pass
    if _fail_bad_rows(values, failures):
        return None
    return dumps((values, failures, 0.0))


def dump_rows(values: list[Any], failures: dict[int, bytes], took_s: float) -> bytes | Parcel:
    """Pickle the rows of a chunk."""
    try:
        return dump_payload((values, failures, took_s))
    except BaseException:
        pass
    _fail_bad_rows(values, failures)
    return dump_payload((values, failures, took_s))


def _fail_bad_rows(values: list[Any], failures: dict[int, bytes]) -> int:
    """Fail the rows whose values cannot be pickled; return how many connections and sockets the others hold."""
    held = 0
    for row, value in enumerate(values):
        try:
            count = count_descriptors(value)
            if held + count > MOST_DESCRIPTORS:
                raise PicklingError(f"{MOST_DESCRIPTORS} connections or sockets can cross at once; use smaller chunks")
            held += count
        except BaseException as error:
            values[row] = None
            failures[row] = dump_failure(explain_result(value, error), "result")
    return held


def cost_frame(cpu_s: float) -> bytes:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
    return wire.frame(wire.MEASURED, 0, wire.COST.pack(max(0.0, cpu_s), peak_bytes))
