"""The initializer of a manager's workers, and how it gets into each of them.

Only an initializer can carry `multiprocessing`'s locks, queues, pipes and shared values. These can be pickled only
while a process is being started, so an initializer that takes some is pickled then, again for each process.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

from procbackground._wire.pickling import dumps, holds_descriptors, text_of
from procbackground.errors import SerializationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INHERITED_ONLY = "through inheritance"  # part of the message of `multiprocessing.context.assert_spawning`


class Initializer:
    """The function and arguments that a manager was given for its workers.

    Raises (now): `SerializationError` if it cannot be pickled. If pickling fails only when a process is started, that
    breaks the manager.
    """

    def __init__(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._fn = fn
        self._args = args  # kept alive: a semaphore's name is removed with the last object of it in this process
        self._data: bytes | None = None
        # A connection can be pickled at any time, but each pickle can be loaded only once.
        if any(type(arg).__module__.startswith("multiprocessing.") for arg in args):
            return
        try:
            self._data = dumps((fn, args))
        except Exception as error:
            reason = text_of(error)
            if _INHERITED_ONLY not in reason and not holds_descriptors(args):
                raise SerializationError(f"the initializer or its arguments cannot be pickled: {reason}") from error

    def run(self) -> None:
        """Call it, in a worker. Raises: any exception of the initializer, or of loading it."""
        self._fn(*self._args)

    def let_go(self) -> None:
        """Drop the arguments, once no more processes will be started."""
        self._args = ()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._data is not None:
            return _Pickled, (self._data,)
        from multiprocessing.reduction import ForkingPickler

        # Two pickles: the function may need cloudpickle, the arguments need `ForkingPickler`.
        return _Pickled, (None, dumps(self._fn), bytes(ForkingPickler.dumps(self._args)))


class _Pickled(Initializer):
    """An initializer in the zygote and in workers: each worker loads it before it runs it."""

    def __init__(self, whole: bytes | None, fn: bytes = b"", args: bytes = b"") -> None:
        self._whole = whole
        self._parts = fn, args

    def run(self) -> None:
        if self._whole is not None:
            fn, args = pickle.loads(self._whole)
        else:
            fn, args = map(pickle.loads, self._parts)
        fn(*args)
