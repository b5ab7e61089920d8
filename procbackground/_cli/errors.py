"""Errors that are shown to people as one line, and suggestions of names that are nearly right."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import IO, Any

import click

from procbackground._printable import printable

WRONG_USE = 2
CANNOT_GO_ON = 255  # as GNU parallel has it for "other error"


class Wrong(click.ClickException):
    """What was asked for cannot be done; says why. The exit code is 2."""

    exit_code = WRONG_USE

    def show(self, file: IO[Any] | None = None) -> None:
        say(self.message)


def say(text: str) -> None:
    """Write a line for people, or more where `text` has more, to standard error."""
    if sys.stderr is None:
        return
    try:
        print("procbackground: " + "\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)
    except OSError:
        pass  # the reader has gone


def abandon_stdout() -> None:
    """Have what is still in the buffer of standard output go nowhere: the interpreter would complain at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def near(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean ...?" where there is a name much like that one, else nothing."""
    from difflib import get_close_matches

    found = get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def unreadable(path: str, error: OSError) -> Wrong:
    """Return the error for a file that cannot be read, with the names of files that are nearly called so."""
    folder, name = os.path.split(os.path.abspath(path))
    hint = ""
    if isinstance(error, FileNotFoundError):
        try:
            beside = os.listdir(folder)
        except OSError:
            beside = []
        hint = near(name, beside)
    return Wrong(f"cannot read {path}: {error.strerror or error}{hint}")
