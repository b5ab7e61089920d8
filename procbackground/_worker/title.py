"""What `ps` and `top` show of this process: its role, and in a worker the name of the task that runs.

With `setproctitle` (extra `titles`) the whole title, else on Linux the short name, of 15 bytes. Each change takes
three system calls, 4.2 µs. So a worker shows a task at the first call of a function, and later on only after a call
that took `WORTH_SHOWING_S`: tasks that are shorter are gone before anybody looks.
"""

from __future__ import annotations

import functools
import os
import sys

from procbackground._printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

WORTH_SHOWING_S = 0.01
_COMM_BYTES = 15
_IDLE = "idle"


@functools.cache
def find_setter() -> Callable[[str], None] | None:
    """Return what sets the title of this process, or None where nothing can."""
    try:
        from setproctitle import setproctitle  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        return _set_comm if sys.platform == "linux" else None
    return lambda text: setproctitle(f"procbackground: {text}")


def _set_comm(text: str) -> None:
    # By descriptor: `open` takes 2.4 µs more, and is a name that tasks replace.
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    try:
        whole_characters = f"pb:{text}".encode(errors="replace")[:_COMM_BYTES].decode(errors="ignore")
        os.write(fd, whole_characters.encode())
    finally:
        os.close(fd)


def show(text: str) -> None:
    """Have `ps` show this. Where that is not possible nothing happens: it is never worth an error."""
    setter = find_setter()
    if setter is not None:
        try:
            setter(printable(text))
        except Exception:
            pass  # /proc is not mounted, or not writable, or there is no descriptor left


class Title:
    """The title of a worker."""

    def __init__(self) -> None:
        self.is_busy = False  # it shows a task
        self.is_wanted = False  # the last call was long: show the next one
        show(_IDLE)

    def begin(self, name: str) -> None:
        """A task that is to be shown begins."""
        self.is_busy = True
        show(name)

    def end(self, took_s: float) -> None:
        """The task that is shown has ended."""
        self.is_busy = False
        self.is_wanted = took_s >= WORTH_SHOWING_S
        show(_IDLE)
