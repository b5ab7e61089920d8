"""The lock of a journal, between processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from procbackground._journal.lock import SUFFIX, FileLock
from procbackground.errors import JournalError

HOLD = """
import sys
from procbackground._journal.lock import FileLock
lock = FileLock(sys.argv[1])
print("held")
input()
"""


def process_with(path: str) -> subprocess.Popen[str]:
    """Return a process that has the lock, or failed to get it."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_error_that_is_kept_does_not_end_a_later_lock(tmp_path):
    """A process loses its lock of a file with any descriptor of it that it closes."""
    path = str(tmp_path / "batch.sqlite")
    with process_with(path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(JournalError, match=f"process {holder.pid}") as kept:
            FileLock(path)
        holder.kill()
    lock = FileLock(path)
    del kept  # with its traceback, and all that this refers to
    _, said = process_with(path).communicate(input="", timeout=60)
    assert "is in use" in said
    lock.release()


def test_a_lock_whose_file_was_removed_is_taken_once_more(tmp_path):
    path = str(tmp_path / "batch.sqlite")
    lock = FileLock(path)
    os.unlink(path + SUFFIX)
    lock.renew()
    _, said = process_with(path).communicate(input="", timeout=60)
    assert f"is in use by a manager of process {os.getpid()}" in said
    lock.release()
    assert not os.path.exists(path + SUFFIX)


def test_a_lock_that_another_process_has_taken_meanwhile_stays_its_own(tmp_path):
    path = str(tmp_path / "batch.sqlite")
    lock = FileLock(path)
    os.unlink(path + SUFFIX)
    with process_with(path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(JournalError, match=f"process {holder.pid}"):
            lock.renew()
        lock.release()
        assert os.path.exists(path + SUFFIX)
        with pytest.raises(JournalError, match=f"process {holder.pid}"):
            FileLock(path)
        holder.communicate(input="\n", timeout=60)
