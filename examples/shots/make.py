#!/usr/bin/env python3
"""Makes the pictures in this folder again, each from a real run in a terminal of its own.

    python -m pip install pyte rich
    python examples/shots/make.py               all of them
    python examples/shots/make.py sweep         one

A program runs in a pseudo-terminal; pyte, a terminal in memory, keeps what is on its screen; rich draws that as SVG.
The picture is taken when a text is on the screen, so that displays which go away at the end are seen at work.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
COLUMNS = 110
PATIENCE_S = 120.0
NAMES = {"brown": "yellow", "brightbrown": "bright_yellow"}  # of colours, in which pyte and rich differ


@dataclass(frozen=True)
class Shot:
    """A command, the lines of its terminal, and the text on whose appearance the picture is taken; the end, if None."""

    command: tuple[str, ...]
    lines: int
    when: str | None = None


SHOTS = {
    "first": Shot(("examples/first.py",), 14),
    "service": Shot(("examples/service.py", "README.md", "--interval", "0.5"), 12, r"(?s)(load .*){3}"),
    "sweep": Shot(("examples/sweep.py", "{scratch}/sweep.sqlite"), 8, r"[3-7]\d% .*\n.* (\d?\d|1\d\d)/200 "),
}


def screen_of(shot: Shot) -> pyte.Screen:
    """Run a command in a terminal, and return its screen. Raises: `RuntimeError` if it fails, or takes too long."""
    screen = pyte.Screen(COLUMNS, shot.lines)
    stream = pyte.ByteStream(screen)
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (shot.lines, COLUMNS))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": str(COLUMNS)}
    environment.pop("NO_COLOR", None)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, *(each.format(scratch=scratch) for each in shot.command)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True
        )
        os.close(its)
        end_s = time.monotonic() + PATIENCE_S
        try:
            while time.monotonic() < end_s:
                if not select.select([ours], [], [], end_s - time.monotonic())[0]:
                    break
                try:
                    data = os.read(ours, 65536)
                except OSError:  # nobody has the terminal open any more
                    if process.wait() or shot.when is not None:
                        raise RuntimeError(f"{command} ended with {process.returncode} before its picture") from None
                    return screen
                stream.feed(data)
                if shot.when is not None and re.search(shot.when, "\n".join(screen.display)):
                    return screen
            raise RuntimeError(f"{command}: no picture within {PATIENCE_S:g} s")
        finally:
            os.close(ours)
            process.terminate()
            process.wait()


def text_of(screen: pyte.Screen, command: str) -> Text:
    """Return what is on a screen, below the command, with its colours."""
    text = Text.assemble(("$ ", "bold green"), (command, "bold"), "\n")
    last = max((number for number, line in enumerate(screen.display) if line.strip()), default=-1)
    for number in range(last + 1):
        cells = [screen.buffer[number][column] for column in range(len(screen.display[number].rstrip()))]
        for style, run in groupby(cells, style_of):
            text.append("".join(cell.data for cell in run), style)
        text.append("\n")
    return text


def style_of(cell: Any) -> Style:
    """Return rich's style of one of pyte's characters."""
    return Style(
        color=colour(cell.fg), bgcolor=colour(cell.bg), bold=cell.bold, italic=cell.italics, reverse=cell.reverse
    )


def colour(name: str) -> str | None:
    """Return rich's name of one of pyte's colours."""
    if name == "default":
        return None
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return NAMES.get(name, name.replace("bright", "bright_", 1) if name.startswith("bright") else name)


def make(name: str, folder: Path = FOLDER) -> Path:
    """Make one picture; return its path."""
    shot = SHOTS[name]
    shown = "python " + " ".join(each.format(scratch=".").replace("./", "") for each in shot.command)
    text = text_of(screen_of(shot), shown)
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(text)  # with an empty line, or the picture ends within the last one
    path = folder / f"{name}.svg"
    path.write_text(console.export_svg(title=shown, unique_id=name), encoding="utf-8")
    return path


def main() -> None:
    for name in sys.argv[1:] or SHOTS:
        print(make(name))


if __name__ == "__main__":
    main()
