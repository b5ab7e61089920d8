"""Pickles what a call came to, such that one value that refuses fails alone; and measures what the call cost."""

from __future__ import annotations

import sys
from collections.abc import Callable

from procbackground._wire import frames as wire
from procbackground._wire.parcel import Parcel
from procbackground._wire.pickling import dump_failure, dump_payload, dumps, explain_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def dump_result(value: Any) -> bytes | Parcel:
    try:
        return dump_payload(value)
    except Exception as error:
        raise explain_result(value, error) from error


def dump_rows(
    values: list[Any], failures: dict[int, bytes], took_s: float, dump: Callable[[Any], Any] = dumps
) -> Any:
    try:
        return dump((values, failures, took_s))
    except Exception:
        pass
    # Some row's value cannot be pickled; only that row fails.
    for row, value in enumerate(values):
        try:
            dumps(value)
        except Exception as error:
            values[row] = None
            failures[row] = dump_failure(explain_result(value, error), "result")
    return dumps((values, failures, took_s))


def cost_frame(cpu_s: float) -> bytes:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
    return wire.frame(wire.MEASURED, 0, wire.COST.pack(max(0.0, cpu_s), peak_bytes))
