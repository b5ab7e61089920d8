"""Acts on modules that are imported later, so that a worker need not import them for that."""

from __future__ import annotations

import sys
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class OnImport:
    """On `sys.meta_path` it waits for the first import of the module `name`, and then calls `set_up`."""

    def __init__(self, name: str, set_up: Callable[[], None]) -> None:
        self.name = name
        self.set_up = set_up

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.name:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_set_up(module: Any) -> None:
                load(module)
                self.set_up()

            spec.loader.exec_module = load_and_set_up  # type: ignore[method-assign]
        return spec
