"""A large function of a map: pickled once, and sent as an argument with every chunk.

Its pickle and its buffers lie in one file in memory, as copies do, and are mapped here: so it is pickled as that
mapping, which every parcel finds in the file without comparing it. A task writes to a copy of its own.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence

from procbackground._wire.copies import Copies, may_open_one_more
from procbackground._wire.descriptors import Collector, collect
from procbackground._wire.loading import loads
from procbackground._wire.parcel import PARCEL_BYTES
from procbackground._wire.pickling import dump_parts, is_of_users_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class CarriedFunction:
    """What is pickled in place of the function, which is what the other side has."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        """Raises: `OSError`."""
        self._copies = Copies()
        self._places = [(self._copies.write(part), part.nbytes) for part in parts]
        self._mapping = self._copies.map()

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return _load, (pickle.PickleBuffer(self._mapping), self._places)


def _load(content: Any, places: Sequence[tuple[int, int]]) -> Any:
    view = memoryview(content)
    pickled, *buffers = [view[begin : begin + size] for begin, size in places]
    return loads(pickled, buffers)


def carry(fn: Callable[..., Any]) -> CarriedFunction | None:
    """Pickle a function that is large, to be sent many times; None for one that is pickled anew each time.

    That is one that is small, cannot be pickled, or holds connections, sockets or shared values, and all where no more
    files in memory can be made.
    """

    def dump(collector: Collector) -> CarriedFunction | None:
        data, buffers = dump_parts(fn)
        is_large = len(data) + sum(view.nbytes for view in buffers) >= PARCEL_BYTES
        if collector.has_any or not is_large or not may_open_one_more(len(Copies.living)):
            return None
        return CarriedFunction([memoryview(data), *buffers])

    try:
        return collect(dump)
    except BaseException as error:
        if is_of_users_code(error):
            return None
        raise
