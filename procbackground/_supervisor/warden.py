"""Starts and ends the warden, which sees to what directly started workers leave behind: see `_worker.warden`."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from procbackground import _platform
from procbackground._wire.page import PID, WORDS_PER_LINE

if TYPE_CHECKING:
    import subprocess

logger = logging.getLogger("procbackground")

EXIT_S = 1.0  # it has nothing to do when the manager closes
PROGRAM = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_worker", "warden.py")


class Warden:
    """The helper process of a manager that starts workers directly, from the first worker on."""

    def __init__(self, page_fd: int, life_write_fd: int) -> None:
        self._page_fd = page_fd
        self._life_write_fd = life_write_fd
        self._process: subprocess.Popen[bytes] | None = None
        self._was_tried = not _platform.IS_LINUX
        self.control_fd = -1  # its end is what the warden waits for: no fork of this process may keep it

    def start(self) -> None:
        """Start it, once. Without it all works but this: what has left its worker's group outlives our SIGKILL."""
        if self._was_tried:
            return
        self._was_tried = True
        import subprocess
        from multiprocessing.spawn import get_executable

        if getattr(sys, "frozen", False):
            return  # there is no Python to run it
        read_fd, self.control_fd = os.pipe()
        command = [get_executable(), "-I", "-S", PROGRAM, read_fd, self._page_fd, WORDS_PER_LINE, PID]
        try:
            self._process = subprocess.Popen(
                list(map(os.fsdecode, map(_text, command))),
                pass_fds=(read_fd, self._page_fd, self._life_write_fd),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            logger.warning("the helper that ends what workers have started could not be started: %s", error)
            self._close_control()
        finally:
            os.close(read_fd)

    def close(self) -> None:
        """End it."""
        self._close_control()
        process, self._process = self._process, None
        if process is None:
            return
        import subprocess

        try:
            process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _close_control(self) -> None:
        fd, self.control_fd = self.control_fd, -1
        if fd >= 0:
            os.close(fd)


def _text(part: object) -> str | bytes:
    return part if isinstance(part, bytes) else str(part)
