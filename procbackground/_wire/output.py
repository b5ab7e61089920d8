"""Where the output of a task's attempts goes: the plan of a task, and how a request carries it.

A request with `frames.HAS_OUTPUT` ends with what `Plan.spec` returns. The worker then redirects its descriptors 1 and 2
for the attempt: to a file, or to pipes whose reading ends it sends to the parent.
"""

from __future__ import annotations

import os
import re
import struct

INHERIT = "inherit"
CAPTURE = "capture"
RELAY = "relay"
TAGGED = "tagged"
MODES = (INHERIT, CAPTURE, RELAY, TAGGED)

TO_PIPE = 1  # standard output and standard error in one pipe
TO_PIPES = 2  # one for each
TO_FILE = 3
TO_NEW_FILE = 4  # which is emptied first

_TAIL = struct.Struct("<IB")  # length of the path before it, and where the output goes
_NOT_IN_NAMES = r"[^\w.-]+"  # compiled by its first use
_LONGEST_NAME = 100  # characters of a task's name in that of a file

DEFAULT_FILE = "{name}-{id}.log"


class Plan:
    """Where the output of a task goes: `mode` is one of `MODES` but "inherit", or `path` is the template of files."""

    __slots__ = ("mode", "path")

    def __init__(self, mode: str = "", path: str = "") -> None:
        self.mode: str = mode
        self.path: str = path

    @property
    def pipes(self) -> int:
        """How many pipes an attempt has."""
        return 0 if self.path else 1 if self.mode == CAPTURE else 2

    def file_of(self, name: str, number: int, attempt: int) -> str:
        """Return the path of the file for an attempt of task `number`."""
        name = re.sub(_NOT_IN_NAMES, "_", name)[:_LONGEST_NAME]
        path = self.path
        for field, value in (("{name}", name), ("{id}", str(number)), ("{attempt}", str(attempt))):
            path = path.replace(field, value)
        return path

    def spec(self, path: str = "", is_new: bool = False) -> bytes:
        """Return the end of a request: the output goes to the file `path`, or to pipes."""
        if not path:
            return _TAIL.pack(0, TO_PIPE if self.mode == CAPTURE else TO_PIPES)
        encoded = os.fsencode(path)
        return encoded + _TAIL.pack(len(encoded), TO_NEW_FILE if is_new else TO_FILE)


def make_plan(output: str | os.PathLike[str] | None) -> Plan | None:
    """Return the plan for a checked `output`, or None: the output is inherited."""
    if output is None or output == INHERIT:
        return None
    if isinstance(output, str) and output in MODES:
        return Plan(output)
    path = os.path.abspath(os.fspath(output))
    has_field = any(field in path for field in ("{name}", "{id}", "{attempt}"))
    if not has_field and (os.path.isdir(path) or not os.path.splitext(path)[1]):
        path = os.path.join(path, DEFAULT_FILE)
    return Plan(path=path)


def split_request(body: bytes) -> tuple[bytes, int, bytes]:
    """Return a request without its end, where its output goes, and the encoded path of the file."""
    length, where = _TAIL.unpack_from(body, len(body) - _TAIL.size)
    end = len(body) - _TAIL.size - length
    return body[:end], where, body[end : end + length]
