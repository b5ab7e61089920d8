"""Starts and ends the warden, which ends what directly started workers leave behind: see `_worker.warden`."""

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

EXIT_S = 1.0  # for its exit: it has nothing else to do when the manager closes
PROGRAM = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_worker", "warden.py")


class Warden:
    """The helper process of a manager that starts workers directly, from the first worker on."""

    def __init__(self, page_fd: int, life_write_fd: int) -> None:
        self._page_fd = page_fd
        self._life_write_fd = life_write_fd
        self._process: subprocess.Popen[bytes] | None = None
        self._was_tried = not _platform.IS_LINUX
        self.control_fd = -1  # the warden waits until this is closed: no fork of this process may keep it open

    def start(self) -> None:
        """Start it, at the first call only.

        Without it one thing does not work: processes that left their worker's group survive a SIGKILL of the parent.
        """
        if self._was_tried:
            return
        self._was_tried = True
        import subprocess
        from multiprocessing.spawn import get_executable

        if getattr(sys, "frozen", False):
            return  # there is no Python interpreter to run it
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
        """End the warden."""
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
