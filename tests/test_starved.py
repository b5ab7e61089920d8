"""Machines short of descriptors, processes, memory files or disk: a clear error or a reported wait, and service
again once there is enough; never a hang or a lost task."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.environ.get("PROCBACKGROUND_PLATFORM") == "portable",
    reason="limits as Linux has them, and files in memory",
)


# The limit of processes does not hold for root, and counts all that a user runs: so it has to be a user of its own (of
# this run of the tests, as others may run beside it), who may still read an interpreter that lies in root's home.
USER = 20_000 + os.getpid() % 40_000
UNPRIVILEGED = (
    "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
    "--inh-caps=+dac_read_search,+dac_override", "--ambient-caps=+dac_read_search,+dac_override",
)  # fmt: skip


def run(program: str, *args: object, under: tuple[str, ...] = ()) -> str:
    """Run one of `tests.starved` and return what it printed; it must come to its good end."""
    done = subprocess.run(
        [*under, sys.executable, "-m", f"tests.starved.{program}", *map(str, args)],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.endswith("served again, nothing left\n"), done.stdout + done.stderr[-4000:]
    # `multiprocessing`'s fork server may die of it, and is started again; nothing of ours does.
    assert "procbackground" not in done.stderr.replace(os.fspath(ROOT), ""), done.stderr
    if program == "processes":
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stderr.count("trying again") <= 1, done.stderr
    return done.stdout


@pytest.mark.parametrize("left", [0, 3])
def test_too_few_descriptors_for_a_manager_are_an_error_at_once(left):
    assert "refused: [Errno 24] Too many open files" in run("descriptors", left)


@pytest.mark.parametrize("left", [8, 13])
def test_too_few_descriptors_for_workers_pause_starts_and_emit_admission_held(left):
    assert "held: [Errno 24] Too many open files" in run("descriptors", left)


def test_descriptors_that_run_out_later_lose_no_task():
    assert "held: [Errno 24] Too many open files" in run("descriptors_later")


@pytest.mark.parametrize("left", [0, 1, 3])  # a manager with an observer starts with three threads
def test_too_few_processes_are_an_error_or_a_wait_that_is_told(left):
    is_root = os.getuid() == 0
    if is_root and not shutil.which("setpriv"):
        pytest.skip("the limit does not hold for root, and there is no setpriv to be somebody else")
    assert ("refused: " if left < 3 else "held: ") in run("processes", left, under=UNPRIVILEGED if is_root else ())


def test_files_in_memory_that_cannot_be_had_are_an_error_or_done_without():
    assert "refused: [Errno 27] File too large" in run("memory_files")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=16", "tmpfs", os.fspath(tmp_path)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mount.returncode:
        pytest.skip("nothing can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "-l", os.fspath(tmp_path)], check=True)


def test_a_full_disk_is_a_wait_that_is_told(tiny_disk):
    assert "held: [Errno 28] No space left on device" in run("disk", tiny_disk)
