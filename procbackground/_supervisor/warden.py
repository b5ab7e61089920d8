"""Starts and ends the warden, which ends what directly started workers leave behind: see `_worker.warden`."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from procbackground import _platform
from procbackground._log import logger
from procbackground._platform import marks
from procbackground._supervisor.page import Page
from procbackground._wire.page import LINES_SIZE, MARK, PID, WORDS_PER_LINE

if TYPE_CHECKING:
    import subprocess


EXIT_S = 1.0  # for its exit: it has nothing else to do when the manager closes
REAP_S = 0.5  # at the close, for helpers and killed processes to be gone
PROGRAM = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_worker", "warden.py")


class Warden:
    """The helper process of a manager that starts workers directly, from the first worker on.

    A manager with a zygote has one as soon as a zygote has died and left workers.
    """

    def __init__(self, page: Page, life_write_fd: int) -> None:
        self._page = page
        self._life_write_fd = life_write_fd
        self._process: subprocess.Popen[bytes] | None = None
        self._was_tried = not _platform.IS_LINUX
        self._is_running = False
        # Init adopts orphans. If this process is init, no other process reaps them.
        self._is_init = _platform.IS_LINUX and os.getpid() == 1
        self.control_fd = -1  # the warden waits until this is closed: no fork of this process may keep it open

    def start(self) -> None:
        """Start it, at the first call only. Called in the starter's thread.

        Without it one thing does not work: what left its worker's group outlives the worker, and a killed parent.
        """
        if self._was_tried:
            return
        self._was_tried = True
        import subprocess
        from multiprocessing.spawn import get_executable

        if getattr(sys, "frozen", False):
            return  # there is no Python interpreter to run it
        read_fd, self.control_fd = os.pipe()
        os.set_blocking(self.control_fd, False)
        arguments = (read_fd, self._page.fd, LINES_SIZE, WORDS_PER_LINE, PID, MARK, self._page.family)
        command = [get_executable(), "-I", "-S", PROGRAM, *arguments]
        try:
            self._process = subprocess.Popen(
                list(map(os.fsdecode, map(_text, command))),
                pass_fds=(read_fd, self._page.fd, self._life_write_fd),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            # If this is a task of another manager, the helper of that one ends what has its worker's mark.
            marks.set_mark(0, self._process.pid)
            self._is_running = True
        except OSError as error:
            logger.warning("the helper that ends what workers have started could not be started: %s", error)
            self._close_control()
        finally:
            os.close(read_fd)

    def worker_ended(self) -> None:
        """Have it look at what a worker has left; called when the worker's mark is out of the page."""
        if self._is_running:
            try:
                os.write(self.control_fd, b"\0")
            except OSError:
                pass  # full: it will look; or it was killed
        if self._is_init:
            self._reap_adopted()

    def close(self) -> None:
        """End the warden; it is not started any more."""
        self._was_tried = True
        self._close_control()
        process, self._process = self._process, None
        if process is not None:
            import subprocess

            try:
                process.wait(EXIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._is_init:
            until_s = time.monotonic() + REAP_S
            while self._reap_adopted() and time.monotonic() < until_s:
                time.sleep(0.005)

    def _reap_adopted(self) -> bool:
        """Wait for adopted processes that have ended; return whether others are still there."""
        is_left = False
        living = self._page.marks()
        for pid in _platform.children(os.getpid()):
            mark = marks.read_mark(pid)
            if marks.family_of(mark) != self._page.family or mark in living:
                continue  # of the user's, or a worker: `multiprocessing` waits for those that it started
            try:
                is_left |= not os.waitpid(pid, os.WNOHANG)[0]
            except ChildProcessError:
                pass
        return is_left

    def _close_control(self) -> None:
        self._is_running = False
        fd, self.control_fd = self.control_fd, -1
        if fd >= 0:
            os.close(fd)


def _text(part: object) -> str | bytes:
    return part if isinstance(part, bytes) else str(part)
