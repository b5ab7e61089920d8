"""Refuses debuggers that would read from a worker's standard input.

It is empty there. So `pdb` would quit at once, and the task would fail with a `BdbQuit` that says nothing. `pudb` would
draw over the terminal, and fail with an error of the terminal's settings.
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
    """Have `breakpoint()`, `pudb`, `pdb` and what derives from it raise `RuntimeError` from now on."""
    if sys.breakpointhook is sys.__breakpointhook__ and "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = refuse_breakpoint
    for debugger in _debuggers:
        if debugger.name in sys.modules:
            debugger.set_up()
        elif debugger not in sys.meta_path:
            sys.meta_path.insert(0, debugger)


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


def _guard_pudb() -> None:
    debugger = sys.modules["pudb.debugger"].Debugger
    init = debugger.__init__
    if hasattr(init, "__wrapped__"):
        return  # in the zygote

    @wraps(init)
    def init_or_refuse(self: Any, stdin: Any = None, *args: Any, **options: Any) -> None:
        # It has a terminal of its own where it is reached over the network, or PUDB_TTY names one.
        if stdin is None and _is_empty(sys.stdin):
            _refuse("pudb")
        init(self, stdin, *args, **options)

    debugger.__init__ = init_or_refuse


def _is_empty(stream: Any) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(os.devnull))
    except Exception:
        return False  # no file


_debuggers = (OnImport("pdb", _guard_pdb), OnImport("pudb.debugger", _guard_pudb))
