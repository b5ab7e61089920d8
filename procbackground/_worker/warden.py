"""The warden: when the manager's process dies, it ends the processes that directly started workers have started.

A program of its own, which loads nothing but `_platform.linux`, by its path. When a worker dies, the kernel hands its
children to init, and nothing shows any more which worker had started them. So the workers must outlive the manager's
process for a moment: the warden holds the life pipe open, ends all processes below the workers, and then exits. That
closes the life pipe, and the kernel ends the workers. If the warden dies first, only the manager's process holds the
pipe, as if there were no warden. A zygote needs no warden: it is the workers' parent.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import signal
import sys
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

END_S = 0.5  # for killed processes to be gone; afterwards the kernel ends the workers in any case


def watch(linux: Any, control_fd: int, page_fd: int, words_per_line: int, pid_word: int) -> None:
    """Wait for the end of the pipe `control_fd`; then end the processes below all workers in the shared page."""
    while os.read(control_fd, 1):
        pass
    words = memoryview(mmap.mmap(page_fd, os.fstat(page_fd).st_size)).cast("Q")
    workers = [pid for pid in words[pid_word::words_per_line].tolist() if pid]
    until_s = time.monotonic() + END_S
    while time.monotonic() < until_s:
        below = [pid for worker in workers for pid, _ in linux.descendants(worker)]
        if not below:
            break
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session has no terminal; this is against a shell's `kill -INT`
    path = Path(__file__).parents[1] / "_platform" / "linux.py"
    spec = importlib.util.spec_from_file_location("linux", path)
    assert spec is not None
    assert spec.loader is not None
    linux = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(linux)
    watch(linux, *map(int, sys.argv[1:]))


if __name__ == "__main__":
    main()
