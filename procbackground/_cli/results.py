"""Writes results: lines to standard output or a file, and a folder for each task."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

from procbackground._cli.errors import Wrong, abandon_stdout
from procbackground._cli.records import Ended, is_json, line_of, raw_text, record_of


class OutputEnded(Exception):
    """The reader of standard output has gone, as with `| head`."""


class LineFile:
    """A file written line by line without a buffer, so that on a full disk no rest of a line is left for later.

    Raises: `Wrong` where it cannot be made.
    """

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise Wrong(f"cannot write {path}: {error.strerror or error}") from None

    def write(self, text: str) -> None:
        """Write a text. Raises: `OSError`."""
        try:
            data = text.encode("utf-8", "surrogateescape")  # a file name that is no UTF-8 stays as it is
        except UnicodeEncodeError:
            data = text.encode("utf-8", "backslashreplace")
        size = len(data)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            self._take_back(size - len(data))
            raise

    def _take_back(self, count: int) -> None:
        """Remove the part of a line that has been written, if this is a file."""
        try:
            os.ftruncate(self._fd, os.lseek(self._fd, -count, os.SEEK_CUR))
        except OSError:
            pass

    def close(self) -> None:
        os.close(self._fd)


class Lines:
    """Lines to standard output or to a file, each flushed when it is written.

    Args:
        is_raw: values alone, those of tasks that succeeded.
        is_tagged: raw values behind their input and a tab.
    """

    def __init__(self, path: str | None, is_raw: bool, is_tagged: bool) -> None:
        self.path = path
        self._is_raw, self._is_tagged = is_raw, is_tagged
        self._file: LineFile | None = None
        if path is not None and path != "-":
            self._file = LineFile(path)
        elif sys.stdout is None:
            raise Wrong("there is no standard output; -o FILE writes results to a file")

    def write(self, ended: Ended, pickled_at: str | None = None) -> None:
        """Write the line of a task. Raises: `OutputEnded`; `OSError`, say of a full disk."""
        if not self._is_raw:
            line = line_of(record_of(ended, pickled_at))
        elif ended.outcome == "succeeded":
            line = raw_text(ended.value)
            if self._is_tagged:
                line = "\n".join(f"{ended.call.tag}\t{each}" for each in line.split("\n"))
        else:
            return
        self._put(line + "\n")

    def put_call(self, text: str) -> None:
        """Write a call, for `--dry-run`."""
        self._put(text + "\n")

    def _put(self, text: str) -> None:
        if self._file is not None:
            self._file.write(text)
            return
        try:
            # Not a file kept from the start: a bar above which it prints may stand in for it.
            try:
                sys.stdout.write(text)
            except UnicodeEncodeError:
                sys.stdout.write(text.encode("ascii", "backslashreplace").decode())
            sys.stdout.flush()
        except BrokenPipeError:
            abandon_stdout()
            raise OutputEnded from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Folders:
    """A folder for each task: `value`, `stdout`, `stderr` and `result.json`."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        try:
            os.makedirs(self.path, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(13, os.strerror(13))
        except OSError as error:
            raise Wrong(f"cannot write into {path}: {error.strerror or error}") from None

    def of(self, index: int) -> str:
        """Return the folder of a task."""
        return os.path.join(self.path, str(index))

    def write(self, ended: Ended) -> str | None:
        """Write what is known of a task; return the file of a value that is no JSON. Raises: `OSError`."""
        folder = Path(self.of(ended.call.index))
        folder.mkdir(exist_ok=True)
        value, pickled_at = folder / "value", None
        value.unlink(missing_ok=True)  # of an earlier run
        if ended.outcome == "succeeded":
            if is_json(ended.value):
                _replace(value, raw_text_as_json(ended).encode())
            else:
                try:
                    _replace(value, pickle.dumps(ended.value, protocol=pickle.HIGHEST_PROTOCOL))
                    pickled_at = str(value)
                except OSError:
                    raise
                except Exception:  # it came here by cloudpickle
                    pickled_at = _by_cloudpickle(value, ended)
        _replace(folder / "result.json", (line_of(record_of(ended, pickled_at)) + "\n").encode())
        return pickled_at


def raw_text_as_json(ended: Ended) -> str:
    """Return the value as JSON, with a line end."""
    import json

    return json.dumps(ended.value) + "\n"


def _by_cloudpickle(path: Path, ended: Ended) -> str | None:
    import cloudpickle  # type: ignore[import-untyped]

    try:
        _replace(path, cloudpickle.dumps(ended.value))
    except OSError:
        raise
    except Exception:
        return None
    return str(path)


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data)
    os.replace(beside, path)
