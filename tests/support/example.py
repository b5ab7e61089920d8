"""Runs an example as a user would: as a program of its own, from the repository's root."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import IO, Self

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent

PATIENCE_S = 90.0  # bounds a hang on a busy machine; nothing waits that long otherwise
EXIT_S = 5.0  # helper processes notice the end of their parent and follow it


class Program:
    """An example that runs, with its lines as they come. Leaving the block kills what is left of it."""

    def __init__(self, name: str, *arguments: str | os.PathLike[str], stderr: int = subprocess.PIPE) -> None:
        self.mark = uuid.uuid4().hex  # in the environment: descendants have it too, orphaned or not
        self.process = subprocess.Popen(
            [sys.executable, f"examples/{name}", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "EXAMPLE_MARK": self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # a process group as under a terminal, and none of ours
        )
        self.lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._news: queue.Queue[str | None] = queue.Queue()
        streams = (("stdout", self.process.stdout), ("stderr", self.process.stderr))
        self._readers = [threading.Thread(target=self._read, args=(name, stream)) for name, stream in streams if stream]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.lines[name].append(line.rstrip("\n"))
                self._news.put(line)
        self._news.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.kill()  # does nothing to one that has ended
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)

    @property
    def stdout(self) -> str:
        return "\n".join(self.lines["stdout"])

    @property
    def stderr(self) -> str:
        return "\n".join(self.lines["stderr"])

    def family(self) -> list[psutil.Process]:
        """Return the program's descendants that live, those without a parent included."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != self.process.pid and process.environ().get("EXAMPLE_MARK") == self.mark:
                    found.append(process)
        return found

    def wait_for_lines(self, pattern: str, count: int = 1) -> None:
        """Wait until `count` lines that match `pattern` have come, on either stream."""
        end = time.monotonic() + PATIENCE_S  # for all of them: other lines may come without end
        while count:
            line = self._news.get(timeout=max(0.0, end - time.monotonic()))
            assert line is not None, f"ended before {pattern!r} came:\n{self.stdout}\n{self.stderr}"
            count -= re.search(pattern, line) is not None

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Wait for the end and return the exit code, once everything printed has been read."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return code

    def assert_nothing_left(self) -> None:
        _, alive = psutil.wait_procs(self.family(), timeout=EXIT_S)
        assert not alive


def run(name: str, *arguments: str | os.PathLike[str], code: int = 0) -> Program:
    """Run an example to its end; it must end with `code`, complain of nothing and leave nothing."""
    with Program(name, *arguments) as program:
        assert program.wait() == code, program.stderr
        assert "Traceback" not in program.stderr
        program.assert_nothing_left()
    return program
