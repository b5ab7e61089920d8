"""Puts the raw stacks of a worker into the words of a traceback: the user's frames, with their source lines.

For `TaskHandle.stack` and `Manager.dump`, in the thread that asks: source files are read here.
"""

from __future__ import annotations

import linecache
import os
import re

from procbackground._named import NamedTuple
from procbackground._supervisor.stacks import EXECUTOR, OURS

# Compiled by their first use: that is not before a program's first result.
_THREAD = r"^(?:Current thread|Thread) 0x[0-9a-f]+.* \(most recent call first\):$"
_FRAME = r'^  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)$'

_LIBRARY = os.path.dirname(os.__file__) + os.sep
# What starts a process or a thread, and so is below the user's frames; "<string>" is the code of `python -c`.
_STARTERS = ("<string>", "<frozen runpy>", f"{_LIBRARY}multiprocessing{os.sep}", f"{_LIBRARY}threading.py")


class _Frame(NamedTuple):
    file: str
    line: int
    function: str


def readable(raw: str) -> str:
    """Return the stacks that `faulthandler` wrote as those of a traceback: the last call comes last.

    The frames of the interpreter's start and of this library are left out, and so are threads without others. The
    thread of the task comes first; it has no title. What cannot be read is left out; what has no frames at all is "".
    """
    stacks = _parse(raw)
    tasks = [frames for frames in stacks if any(frame.file == EXECUTOR for frame in frames)]
    others = [frames for frames in stacks if frames not in tasks]
    parts = [_told(trimmed) for frames in tasks if (trimmed := _trim(frames))]
    parts += ["Another thread:\n" + _told(trimmed) for frames in others if (trimmed := _trim(frames))]
    return "\n".join(parts)


def _parse(raw: str) -> list[list[_Frame]]:
    """Return the frames of each thread, the last call last."""
    stacks: list[list[_Frame]] = []
    for line in raw.splitlines():
        if re.match(_THREAD, line):
            stacks.append([])
        elif stacks and (found := re.match(_FRAME, line)):
            number = found["line"]
            stacks[-1].insert(0, _Frame(found["file"], int(number) if number.isdigit() else 0, found["function"]))
    return stacks


def _trim(frames: list[_Frame]) -> list[_Frame]:
    calls = [number for number, frame in enumerate(frames) if frame.file == EXECUTOR]
    begin, end = calls[0] if calls else 0, len(frames)
    # Above the call, "<string>" is a file of the user's: the task is a function of `python -c`.
    unwanted = (OURS,) if calls else (OURS, *_STARTERS)
    while begin < end and frames[begin].file.startswith(unwanted):
        begin += 1
    while end > begin and frames[end - 1].file.startswith(OURS):  # `current().wait`, say
        end -= 1
    return frames[begin:end]


def _told(frames: list[_Frame]) -> str:
    lines: list[str] = []
    for frame in frames:
        lines.append(f'  File "{frame.file}", line {frame.line or "?"}, in {frame.function}')
        linecache.checkcache(frame.file)
        source = linecache.getline(frame.file, frame.line).strip()
        if source:
            lines.append(f"    {source}")
    return "\n".join(lines)
