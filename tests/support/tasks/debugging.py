"""Tasks that start a debugger. This module does not import `pdb`: the first task that needs it does."""

from __future__ import annotations

import io
from importlib import import_module


def start_pdb() -> None:
    import_module("pdb").set_trace()


def start_a_class_derived_from_pdb() -> None:
    class Other(import_module("pdb").Pdb):  # type: ignore[misc]
        pass

    Other().set_trace()


def start_pudb() -> None:
    import_module("pudb").set_trace()


def debug_with_an_own_input() -> tuple[int, str]:
    """Start a debugger that has another input than the process, as those for the network have; return its output."""
    printed = io.StringIO()
    number = 17
    commands = io.StringIO("p number + 1\nc\n")
    import_module("pdb").Pdb(stdin=commands, stdout=printed, nosigint=True, readrc=False).set_trace()
    return number, printed.getvalue()
