"""A line for each task that ended, in the columns of `parallel --joblog`."""

from __future__ import annotations

import signal

from procbackground._cli.errors import Wrong
from procbackground._cli.records import CANCELLED, SUCCEEDED, TIMED_OUT, Ended
from procbackground._cli.results import LineFile

COLUMNS = ("Seq", "Host", "Starttime", "JobRuntime", "Send", "Receive", "Exitval", "Signal", "Command")
_ESCAPES = {code: repr(chr(code))[1:-1] for code in range(32)}


class JobLog:
    """Writes the log. `Seq` counts from 1 on in order of the input; `Send` and `Receive` are 0.

    `Exitval` is 0 for a success or a signal, 1 for an exception, -1 for a timeout, else the exit code of the process.
    """

    def __init__(self, path: str) -> None:
        self._file = LineFile(path)
        try:
            self._put(COLUMNS)
        except OSError as error:
            self.close()
            raise Wrong(f"cannot write {path}: {error.strerror or error}") from None

    def write(self, ended: Ended, command: str) -> None:
        """Write the line of a task, if it ran. Raises: `OSError`."""
        if ended.began_s is not None:
            exit_value, number = _exit_of(ended)
            fields = (
                ended.call.index + 1, ":", f"{ended.began_s:.3f}", f"{ended.seconds:10.3f}", 0, 0, exit_value, number,
                command.translate(_ESCAPES),
            )  # fmt: skip
            self._put(fields)

    def _put(self, fields: tuple[object, ...]) -> None:
        self._file.write("\t".join(map(str, fields)) + "\n")

    def close(self) -> None:
        self._file.close()


def _exit_of(ended: Ended) -> tuple[int, int]:
    if ended.outcome == SUCCEEDED:
        return 0, 0
    if ended.outcome == TIMED_OUT:
        return -1, signal.SIGTERM.value
    if ended.outcome == CANCELLED:
        return 0, signal.SIGTERM.value
    if ended.exit_code is not None and ended.exit_code < 0:
        return 0, -ended.exit_code
    return ended.exit_code or 1, 0
