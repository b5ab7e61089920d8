"""Loads pickles, also of exceptions that refuse to have attributes set, as frozen dataclasses do."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar


def loads(data: bytes | memoryview, buffers: Sequence[memoryview] = ()) -> Any:
    """Load a pickle with its out-of-band buffers. Raises whatever the loading raises."""
    try:
        return pickle.loads(data, buffers=buffers)
    except AttributeError as error:
        refusal = error
    try:
        return _PatientUnpickler(io.BytesIO(data), buffers=buffers).load()
    except Exception:
        raise refusal from None


_Unpickler: Any = pickle._Unpickler  # the one written in Python, whose steps can be replaced


class _PatientUnpickler(_Unpickler):  # type: ignore[misc]
    """Fills the dict of an exception where `BaseException.__setstate__` would set attributes one by one."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)
    stack: list[Any]

    def load_build(self) -> None:
        error, state = self.stack[-2:]
        if not isinstance(error, BaseException) or type(error).__setstate__ is not BaseException.__setstate__:
            super().load_build()
            return
        self.stack.pop()
        error.__dict__.update(state)

    dispatch[pickle.BUILD[0]] = load_build
