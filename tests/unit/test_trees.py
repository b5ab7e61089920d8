"""Process trees: membership decided on tables, and figures read from /proc for processes that the test starts."""

from __future__ import annotations

import _ctypes
import ctypes
import errno
import importlib
import os
import subprocess
import sys

import pytest

from procbackground._platform.trees import Figures, Row, figures_of, members_of
from tests.support.gate import PATIENCE_S
from tests.support.scripts import ENVIRONMENT


def table(*rows: tuple[int, int, int]) -> dict[int, Row]:
    """Return a table of processes given as (pid, parent, group); each holds its pid in bytes."""
    return {pid: Row(pid, parent, group, pid, 0.5, 10.0) for pid, parent, group in rows}


def test_a_tree_is_all_that_descends_from_its_root():
    processes = table((1, 0, 1), (10, 1, 10), (11, 10, 10), (12, 11, 12), (20, 1, 20), (21, 20, 20))
    trees = members_of(processes, [10, 20])
    assert {root: sorted(tree) for root, tree in trees.items()} == {10: [10, 11, 12], 20: [20, 21]}


def test_an_orphan_belongs_to_the_group_it_was_started_in():
    processes = table((1, 0, 1), (10, 1, 10), (11, 1, 10), (12, 11, 12), (13, 1, 13))
    assert sorted(members_of(processes, [10])[10]) == [10, 11, 12]


def test_roots_that_have_ended_are_left_out():
    assert members_of(table((1, 0, 1)), [10]) == {}


def test_a_table_read_while_pids_changed_hands_is_no_endless_loop():
    assert sorted(members_of(table((10, 11, 10), (11, 10, 11)), [10])[10]) == [10, 11]


def test_figures_are_sums_over_what_is_there():
    processes = table((10, 1, 10), (11, 10, 10))
    assert figures_of(processes, [10, 11, 99], 10) == Figures(21, 1.0, 10.0, {10: 10, 11: 11})


linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")

CHILD_OF_CHILD = (
    "import subprocess, sys\n"
    "held = b'1' * (100 << 20)\n"
    "code = \"held = b'1' * (50 << 20); print(1, flush=True); input()\"\n"
    "child = subprocess.Popen([sys.executable, '-S', '-c', code])\n"
    "child.wait()\n"
)


FORKS = """
import os
held = bytearray(b"1") * (100 << 20)
ready, write_fd = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.write(write_fd, b".")
        os.read(0, 1)
        os._exit(0)
for _ in range(3):
    os.read(ready, 1)
print(1, flush=True)
os.read(0, 1)
"""


@linux
def test_a_look_finds_descendants_and_follows_them_until_they_end():
    from procbackground._platform.trees_linux import Trees, cpu_seconds, survey

    before = set(os.listdir("/proc/self/fd"))
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", CHILD_OF_CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()  # both hold what they are to hold
    trees = Trees()
    for look in (trees.look, survey):
        figures = look([process.pid])[process.pid]
        assert 150 << 20 < figures.rss_bytes < 300 << 20
        assert 0 < figures.cpu_s < 60
        assert 0 < figures.age_s < 60
    process.stdin.write(b"\n")
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    used_s = cpu_seconds(process.pid)  # the zombie still tells
    assert used_s is not None
    assert used_s > 0
    process.wait()
    process.stdout.close()
    assert trees.look([process.pid]) == {}
    assert cpu_seconds(process.pid) is None
    trees.close()
    assert set(os.listdir("/proc/self/fd")) == before


@linux
@pytest.mark.parametrize("module", ["trees_linux", "trees_portable"])
def test_pages_that_forks_share_count_once(module):
    trees = importlib.import_module(f"procbackground._platform.{module}")
    command = [sys.executable, "-S", "-c", FORKS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        figures = trees.survey([process.pid])[process.pid]
        assert len(figures.members) == 4
        assert figures.rss_bytes > 400 << 20
        for once in (trees.resident_bytes(figures), trees.held_bytes(trees.without_files(figures))):
            assert 100 << 20 < once < 200 << 20
        alone = Figures(7, 1.0, 1.0, {process.pid: 7})  # of a single process it is not asked
        assert trees.held_bytes(alone) == trees.resident_bytes(alone) == 7
        process.stdin.close()
    gone = Figures(9, 1.0, 1.0, {process.pid: 4, 2**22 + 1: 5})
    assert trees.held_bytes(gone) == 5  # what the largest of them held at the latest look


MAPS = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    read, written = (mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) for _ in range(2))
for at in range(0, len(read), mmap.PAGESIZE):
    read[at]
for at in range(0, len(written) // 2, mmap.PAGESIZE):
    written[at] = 1
shared = mmap.mmap(-1, 8 << 20)
shared.write(b"1" * len(shared))
print(1, flush=True)
input()
"""


@linux
def test_pages_of_files_are_told_apart_from_what_is_held(tmp_path):
    from procbackground._platform import trees_linux as trees

    path = tmp_path / "file"
    path.write_bytes(b"1" * (64 << 20))
    command = [sys.executable, "-S", "-c", MAPS, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        figures = trees.survey([process.pid])[process.pid]
        without = trees.without_files(figures)
        assert figures.rss_bytes > (64 + 32 + 8) << 20
        assert (32 + 8) << 20 < trees.held_bytes(without) == without.rss_bytes < (32 + 8 + 16) << 20
        two = without._replace(members={**without.members, 2**22 + 1: 0})  # so proportions are asked for
        assert (32 + 8) << 20 < trees.held_bytes(two) <= without.rss_bytes + (1 << 20)
        process.stdin.close()
    assert trees.without_files(figures).rss_bytes == 0  # it has ended


@linux
def test_an_older_kernel_that_does_not_tell_pages_of_files_apart_counts_them(monkeypatch):
    from procbackground._platform import trees_linux as trees

    monkeypatch.setattr(trees, "_HAS_KINDS", False)
    monkeypatch.setattr(trees, "_WITHOUT_FILES", (b"\nPss_Unknown:",))
    figures = trees.survey([os.getpid()])[os.getpid()]
    assert trees.without_files(figures) is figures
    two = figures._replace(members={os.getpid(): figures.rss_bytes, 2**22 + 1: 0})
    assert trees.held_bytes(two) == figures.rss_bytes


@linux
def test_a_name_full_of_parentheses_is_read():
    from procbackground._platform.trees_linux import _row

    stat = b"17 (a) b (c 1) S 5 17 17 0 -1 4194560 1 2 3 4 100 50 30 20 20 0 3 0 1000 9999 25 18446744073709551615\n"
    row = _row(stat)
    assert (row.pid, row.parent, row.group, row.threads) == (17, 5, 17, 3)
    assert row.cpu_s == 200 / os.sysconf("SC_CLK_TCK")
    assert row.rss_bytes == 25 * os.sysconf("SC_PAGESIZE")


@linux
@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "no descriptor is left"), ImportError("nor for ctypes")])
def test_what_a_library_that_cannot_be_loaded_would_tell_is_done_without(monkeypatch, error):
    from procbackground._platform import linux as platform

    def fail(*args):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    monkeypatch.setattr(_ctypes, "dlopen", fail)
    platform._usage_call.cache_clear()
    assert platform.usage_of_dead(os.getpid()) is None
    assert not platform.adopt_orphans()


PEAKS = """
import os, subprocess, sys, threading
from procbackground._platform import usage_of_dead

programs = ("pass", "bytearray(64 << 20)")
children = [subprocess.Popen([sys.executable, "-S", "-c", program]) for program in programs]
for child in children:
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
small, large = (usage_of_dead(child.pid)[0] for child in children)
assert small + (32 << 20) < large
assert all(0 < usage_of_dead(child.pid)[1] < 60 for child in children)
told = [set(), set()]

def ask(number):
    for _ in range(3000):
        told[number].add(usage_of_dead(children[number].pid)[0])

threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert told == [{small}, {large}], (small, large, told)
for child in children:
    child.wait()
"""


@linux
def test_the_peaks_of_the_dead_are_not_mixed_up_between_threads():
    # Of its own: a program that is started has the peak of what started it, which these tests have grown large.
    done = subprocess.run(
        [sys.executable, "-c", PEAKS], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
