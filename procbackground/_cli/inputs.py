"""Where calls come from: arguments, lists after `:::`, lines, JSON lines, CSV rows, names of files.

A regular file is read through before anything runs, so that a bad line is found at once and the number of calls is
known. Standard input and pipes are read as the calls are needed.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TextIO, TypeAlias

from procbackground._cli.errors import Wrong, say, unreadable

STDIN = "-"
# Numbers as JSON has them: "007" and "1_000" stay text, they are rather names.
_INT = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
_FLOAT = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)

WhyNot: TypeAlias = "Callable[[tuple[Any, ...], dict[str, Any]], str | None]"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the function: `index` counts from 0 on, `place` says where in which file it is from."""

    index: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: str = ""
    name: str | None = None  # of a task of `run`

    @property
    def input(self) -> Any:
        """What is shown of it in results."""
        return self.kwargs if self.kwargs and not self.args else list(self.args)

    @property
    def tag(self) -> str:
        """What output lines are marked with."""
        if self.name is not None:
            return self.name
        return " ".join([*map(str, self.args), *(f"{key}={value}" for key, value in self.kwargs.items())])


class Inputs(NamedTuple):
    """The calls, and how many there are if that is known."""

    calls: Iterator[Call]
    total: int | None


Row: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any], str]"


def product_of(lists: Sequence[tuple[str, list[str]]]) -> list[tuple[str, ...]]:
    """Return the product of the lists. A linked one goes along with the list before it, as far as the shorter."""
    groups: list[list[tuple[str, ...]]] = []
    for mark, values in lists:
        if mark == ":::":
            groups.append([(value,) for value in values])
        else:
            groups[-1] = [(*linked, value) for linked, value in zip(groups[-1], values, strict=False)]
    return [tuple(itertools.chain.from_iterable(each)) for each in itertools.product(*groups)]


def of_arguments(rows: Sequence[Sequence[str]], typed: bool, why_not: WhyNot) -> Inputs:
    """Return calls with the given positional arguments."""

    def each() -> Iterator[Row]:
        for number, row in enumerate(rows, 1):
            yield tuple(map(typed_value, row) if typed else row), {}, f"input {number}"

    return _checked(each, True, why_not)


def of_matches(patterns: Sequence[str], why_not: WhyNot) -> Inputs:
    """Return a call for each file that matches one of the patterns, in order of their names; `**` is any folders."""
    import glob

    names = sorted({name for pattern in patterns for name in glob.iglob(os.path.expanduser(pattern), recursive=True)})
    if not names:
        raise Wrong(f"nothing matches {' or '.join(patterns)}")
    return of_arguments([(name,) for name in names], False, why_not)


def of_lines(path: str, typed: bool, is_null: bool, why_not: WhyNot) -> Inputs:
    """Return a call with one argument for each line; blank ones are skipped."""

    def each() -> Iterator[Row]:
        with _opened(path) as file:
            lines = _split_at_null(file) if is_null else (line.rstrip("\n") for line in file)
            for number, line in enumerate(lines, 1):
                if line if is_null else line.strip():
                    yield (typed_value(line) if typed else line,), {}, f"{_shown(path)}, line {number}"

    return _checked(each, _is_file(path), why_not)


def of_json_lines(path: str, why_not: WhyNot) -> Inputs:
    """Return a call for each line: an object has the keyword arguments, a list the positional ones."""
    import json

    def each() -> Iterator[Row]:
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                place = f"{_shown(path)}, line {number}"
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    raise Wrong(f"{place}, column {error.colno}: {error.msg}: {_around(line, error.pos)}") from None
                except RecursionError:
                    raise Wrong(f"{place}: nested too deeply") from None
                except ValueError as error:  # a number of more digits than Python reads
                    raise Wrong(f"{place}: {error}") from None
                if isinstance(value, dict):
                    yield (), value, place
                elif isinstance(value, list):
                    yield tuple(value), {}, place
                else:
                    raise Wrong(f"{place}: an object (keyword arguments) or a list is needed, not {line.strip()[:40]}")

    return _checked(each, _is_file(path), why_not)


def of_csv(path: str, typed: bool, why_not: WhyNot) -> Inputs:
    """Return a call for each row, with the columns as keyword arguments."""
    import csv

    def each() -> Iterator[Row]:
        with _opened(path, newline="") as file:
            rows = csv.reader(file, strict=True)
            try:
                head = [name.strip() for name in next(rows, [])]
                _check_head(head, path)
                for row in rows:
                    place = f"{_shown(path)}, line {rows.line_num}"
                    if not row:
                        continue
                    if len(row) != len(head):
                        raise Wrong(f"{place}: {len(row)} values, but the first line names {len(head)} columns")
                    yield (), dict(zip(head, map(typed_value, row) if typed else row, strict=True)), place
            except csv.Error as error:
                raise Wrong(f"{_shown(path)}, line {rows.line_num}: {error}") from None

    return _checked(each, _is_file(path), why_not)


def typed_value(text: str) -> Any:
    """Return a number for text that is one, `True` and `False` for true and false, else the text."""
    if _INT.fullmatch(text):
        return int(text) if len(text) < 4000 else text
    if _FLOAT.fullmatch(text):
        return float(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def _checked(rows: Callable[[], Iterator[Row]], is_repeatable: bool, why_not: WhyNot) -> Inputs:
    """Return the rows as calls; read through now if that can be done twice."""

    def checked() -> Iterator[Call]:
        for index, (args, kwargs, place) in enumerate(rows()):
            reason = why_not(args, kwargs)
            if reason is not None:
                raise Wrong(f"{place}: {reason}")
            yield Call(index, args, kwargs, place)

    if not is_repeatable:
        return Inputs(checked(), None)
    total = sum(1 for _ in checked())
    # The second time nothing needs checking, unless the file was changed meanwhile, when it matters.
    return Inputs(checked(), total)


def _opened(path: str, newline: str | None = None) -> TextIO:
    if path == STDIN:
        if sys.stdin is None:
            raise Wrong("there is no standard input")
        if os.isatty(0):
            say("reading from the terminal, until Ctrl-D")
        # A file of our own: the interpreter closes `sys.stdin` at its exit, also while a thread reads it.
        return _Utf8Reader(os.dup(0), newline)
    try:
        return _Utf8Reader(path, newline)
    except OSError as error:
        raise unreadable(path, error) from None


def _Utf8Reader(path: str | int, newline: str | None) -> TextIO:  # noqa: N802
    # File names may be no UTF-8 at all: what cannot be decoded travels on as `os.fsencode` knows it.
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _is_file(path: str) -> bool:
    try:
        return path != STDIN and stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise unreadable(path, error) from None


def _split_at_null(file: TextIO) -> Iterator[str]:
    rest = ""
    while piece := file.read(1 << 16):
        *whole, rest = (rest + piece).split("\0")
        yield from whole
    if rest:
        yield rest


def _check_head(head: list[str], path: str) -> None:
    place = f"{_shown(path)}, line 1"
    if not head:
        raise Wrong(f"{place}: the names of the columns are missing")
    for name in head:
        if not name:
            raise Wrong(f"{place}: a column has no name")
        if head.count(name) > 1:
            raise Wrong(f"{place}: two columns are called {name!r}")


def _shown(path: str) -> str:
    return "standard input" if path == STDIN else path


def _around(line: str, at: int) -> str:
    """Return the part of a line around a position, on one line."""
    begin, end = max(0, at - 20), at + 20
    part = line.rstrip("\n")[begin:end]
    return f"{'...' if begin else ''}{part}{'...' if end < len(line.rstrip()) else ''}"


def shuffled(inputs: Inputs) -> Inputs:
    """Return the calls in random order; reads all of them."""
    import random

    calls = list(inputs.calls)
    random.shuffle(calls)
    return Inputs(iter(calls), len(calls))
