"""The standard library's `BrokenProcessPool`, imported in a way that works while the interpreter exits, too."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

__all__ = ["BrokenProcessPool"]

if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool
else:
    try:
        from concurrent.futures.process import BrokenProcessPool
    except RuntimeError:
        # The interpreter exits, and a worker died just now: the module cannot register its exit handler any more.
        # That handler is for the module's own executors, and there are none.
        register, threading._register_atexit = threading._register_atexit, lambda *_: None
        try:
            from concurrent.futures.process import BrokenProcessPool
        finally:
            threading._register_atexit = register
