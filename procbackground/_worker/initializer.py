"""The initializer on its way into every worker: the one thing that locks and queues may travel with.

`multiprocessing`'s own locks, queues, pipes and shared values can be pickled only while a process is being started,
so an initializer that takes some is pickled then, anew for each process that is started.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

from procbackground._wire.pickling import dumps
from procbackground.errors import SerializationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INHERITED_ONLY = "through inheritance"  # in what `multiprocessing.context.assert_spawning` raises


class Initializer:
    """The function and arguments that a manager was given for its workers.

    Raises (now): `SerializationError` for what cannot be pickled. What turns out so only when a process is started
    breaks the manager then.
    """

    def __init__(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._fn = fn
        self._args = args  # kept: a semaphore's name is gone with the last object of it here
        self._data: bytes | None = None
        # A connection can be pickled any time, but then unpickled only once.
        if any(type(arg).__module__.startswith("multiprocessing.") for arg in args):
            return
        try:
            self._data = dumps((fn, args))
        except Exception as error:
            if _INHERITED_ONLY not in str(error):
                raise SerializationError(f"the initializer or its arguments cannot be pickled: {error}") from error

    def run(self) -> None:
        """Call it, in a worker. Raises: what it raises, or what keeps it from being loaded."""
        self._fn(*self._args)

    def let_go(self) -> None:
        """Drop the arguments: no process will be started any more."""
        self._args = ()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._data is not None:
            return _Pickled, (self._data,)
        from multiprocessing.reduction import ForkingPickler

        # Two pickles: one for what cloudpickle may have to help with, one for what only this can.
        return _Pickled, (None, dumps(self._fn), bytes(ForkingPickler.dumps(self._args)))


class _Pickled(Initializer):
    """An initializer as it is in the zygote and in workers: loaded where it is run, in each of them."""

    def __init__(self, whole: bytes | None, fn: bytes = b"", args: bytes = b"") -> None:
        self._whole = whole
        self._parts = fn, args

    def run(self) -> None:
        if self._whole is not None:
            fn, args = pickle.loads(self._whole)
        else:
            fn, args = map(pickle.loads, self._parts)
        fn(*args)
