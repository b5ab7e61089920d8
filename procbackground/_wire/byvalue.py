"""Pickles what plain pickle cannot, with cloudpickle and the reducers of `multiprocessing`; imported on first need."""

from __future__ import annotations

import io
import sys
from collections import ChainMap
from multiprocessing.reduction import ForkingPickler
from pickle import PicklingError

import cloudpickle  # type: ignore[import-untyped]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar


def dumps(value: Any, protocol: int) -> bytes:
    """Pickle `value`. Raises whatever cloudpickle raises."""
    with io.BytesIO() as file:
        _Pickler(file, protocol=protocol).dump(value)
        return file.getvalue()


def _refuse_file(file: io.TextIOWrapper) -> tuple[Any, ...]:
    """Refuse an open file: cloudpickle would send a copy of its content, and nothing written to it would come back."""
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name):
            return getattr, (sys, name)
    raise PicklingError("cannot pickle an open file; give the task the file's path")


_REFUSED: Any = {io.TextIOWrapper: _refuse_file}
_BY_VALUE: Any = cloudpickle.Pickler.dispatch_table
# Types that others have registered with `multiprocessing`.
_REGISTERED: Any = ForkingPickler._extra_reducers  # type: ignore[attr-defined]


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it is untyped
    dispatch_table: ClassVar[ChainMap[Any, Any]] = ChainMap(_REFUSED, _BY_VALUE, _REGISTERED)
