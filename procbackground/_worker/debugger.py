"""Refuses debuggers that would read from a worker's standard input.

It is empty there. So `pdb` would quit at once, and the task would fail with a `BdbQuit` that says nothing.
"""

from __future__ import annotations

import os
import sys
from functools import wraps

from procbackground._worker.late_imports import OnImport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def refuse_debuggers() -> None:
    """Have `breakpoint()` and those of `pdb` raise `RuntimeError` from now on."""
    if sys.breakpointhook is sys.__breakpointhook__ and "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = refuse_breakpoint
    if "pdb" in sys.modules:
        _guard_pdb()
    elif _pdb not in sys.meta_path:
        sys.meta_path.insert(0, _pdb)


def refuse_breakpoint(*args: Any, **kwargs: Any) -> NoReturn:
    """Raise `RuntimeError` in place of a debugger."""
    _refuse("breakpoint()")


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(
        f"{what} in a worker process: it has no terminal for a debugger. Use Manager(inline=True), which runs tasks in "
        "your own process, or a debugger that is reached from outside, such as debugpy or remote-pdb (breakpoint() "
        "starts the one that PYTHONBREAKPOINT names)"
    )


def _guard_pdb() -> None:
    debugger = sys.modules["pdb"].Pdb
    set_trace = debugger.set_trace
    if hasattr(set_trace, "__wrapped__"):
        return  # in the zygote

    @wraps(set_trace)
    def set_trace_or_refuse(self: Any, frame: Any = None, **options: Any) -> None:
        # Those that come with a terminal of their own, such as remote-pdb, are of this class, too.
        if _is_empty(self.stdin):
            _refuse("pdb")
        set_trace(self, sys._getframe(1) if frame is None else frame, **options)

    debugger.set_trace = set_trace_or_refuse


def _is_empty(stream: Any) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(os.devnull))
    except Exception:
        return False  # no file


_pdb = OnImport("pdb", _guard_pdb)
