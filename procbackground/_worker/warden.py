"""The warden: ends what directly started workers leave behind, when they end and when the manager's process does.

A program of its own, which loads nothing but two modules of `_platform`, by their paths. It recognises the processes
that a worker has started by the worker's mark (see `_platform.marks`); those without one are found below the worker
while it lives. So the workers may outlive the manager's process for a moment: the warden holds the life pipe open, ends
what it finds, and then exits. That closes the life pipe, and the kernel ends the workers that are left. If the warden
dies first, only the manager's process holds the pipe, as if there were no warden.

A zygote does the same for its workers, as their parent. A warden is started beside it only once a zygote has died and
left workers.
"""

from __future__ import annotations

import importlib.util
import os
import select
import signal
import sys
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

END_S = 0.5  # for killed processes to be gone; afterwards the kernel ends the workers in any case
LOOK_S = 0.1  # the same after the end of a worker
PAUSE_S = 0.05  # between two looks, while workers end one after the other
PAUSE_SHARE = 20  # the pause is at least so many times the cost of a look: 5 ms among 300 processes


class Page:
    """The shared page. Read, not mapped: looking at a mapped line that no worker uses would take memory."""

    def __init__(self, fd: int, size: int, words_per_line: int, pid_word: int, mark_word: int) -> None:
        self._size = size  # bytes of all lines; something else may follow them
        self._fd = fd
        self._words_per_line = words_per_line
        self._pid_word, self._mark_word = pid_word, mark_word

    def pids(self) -> set[int]:
        """Return the pids of the workers that have not ended."""
        return self._column(self._pid_word)

    def marks(self) -> set[int]:
        """Return the marks of the workers that have not ended."""
        return self._column(self._mark_word)

    def _column(self, word: int) -> set[int]:
        words = memoryview(os.pread(self._fd, self._size, 0)).cast("Q")
        column: list[int] = words[word :: self._words_per_line].tolist()
        return {*column} - {0}


class Warden:
    """Looks for processes that must end. `linux` and `marks` are modules of `_platform`."""

    def __init__(self, linux: Any, marks: Any, page: Page, family: int) -> None:
        self._linux = linux
        self._marks = marks
        self._page = page
        self._family = family

    def serve(self, control_fd: int) -> None:
        """Look at what ended workers have left, whenever the manager asks; at the end of the pipe, end everything."""
        poll = select.poll()
        poll.register(control_fd, select.POLLIN)
        is_asked, due_s = True, 0.0  # a worker may have ended before this process was ready
        while True:
            pause_s = max(0.0, due_s - time.monotonic()) if is_asked else None
            if poll.poll(None if pause_s is None else pause_s * 1000):
                if not os.read(control_fd, 4096):
                    break
                is_asked = True
                continue
            began_s = time.thread_time()
            self._end_all(self._left, LOOK_S)
            is_asked, due_s = False, time.monotonic() + max(PAUSE_S, PAUSE_SHARE * (time.thread_time() - began_s))
        self._end_all(self._everything, END_S)

    def _left(self) -> set[int]:
        """Return the processes of workers that have ended."""
        found = self._marks.find_family(self._family)  # before the page: a mark is there before its worker
        living = self._page.marks() | {self._marks.helper_mark(self._family)}
        return {pid for pid, mark in found.items() if mark not in living}

    def _everything(self) -> set[int]:
        marked: dict[int, int] = self._marks.find_family(self._family)
        return {*marked, *(pid for worker in self._page.pids() for pid, _ in self._linux.descendants(worker))}

    def _end_all(self, find: Any, patience_s: float) -> None:
        """Kill what `find` finds until nothing of that lives: processes may start others until they are gone."""
        until_s = time.monotonic() + patience_s
        while True:
            alive = [pid for pid in find() if self._linux.start_time(pid) is not None]
            for pid in alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
            if not alive or time.monotonic() > until_s:
                return
            time.sleep(0.001)


def _load(name: str) -> Any:
    """Load a module of `_platform`."""
    path = Path(__file__).parents[1] / "_platform" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session has no terminal; this is against a shell's `kill -INT`
    control_fd, page_fd, size, words_per_line, pid_word, mark_word, family = map(int, sys.argv[1:])
    page = Page(page_fd, size, words_per_line, pid_word, mark_word)
    Warden(_load("linux"), _load("marks"), page, family).serve(control_fd)


if __name__ == "__main__":
    main()
