"""Limits of CPU and memory that a container sets, read from files laid out as the kernel's, and from those."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from procbackground._platform import cgroup
from procbackground._supervisor import machine

GIB = 1 << 30

MOUNTINFO = """\
22 28 0:20 / /proc rw,nosuid shared:12 - proc proc rw
30 25 0:26 {top} {path} rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate
31 25 0:27 / /sys/fs/bpf rw shared:9 - bpf bpf rw
"""


@pytest.fixture
def lay_out(tmp_path: Path):
    """Return a function that writes a file system with our group, and the files of this and other groups."""

    def write(group: str, files: dict[str, str], top: str = "/", path: str = "/sys/fs/cgroup") -> str:
        own = tmp_path / "proc" / "self"
        own.mkdir(parents=True)
        (own / "cgroup").write_text(f"1:name=systemd:/elsewhere\n0::{group}\n")
        (own / "mountinfo").write_text(MOUNTINFO.format(top=top, path=path.replace(" ", "\\040")))
        for name, text in files.items():
            file = tmp_path / path.lstrip("/") / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return str(tmp_path)

    return write


def test_without_limits_there_are_none(lay_out):
    root = lay_out("/app", {"app/cpu.max": "max 100000\n", "app/memory.max": "max\n", "app/memory.current": "1000\n"})
    assert cgroup.cpu_limit(root) is None
    assert cgroup.free_memory_bytes(root) is None


def test_where_there_is_no_hierarchy_there_are_no_limits(tmp_path):
    assert cgroup.cpu_limit(str(tmp_path)) is None
    assert cgroup.free_memory_bytes(str(tmp_path)) is None


def test_the_limits_of_the_own_group_hold(lay_out):
    files = {"app/cpu.max": "150000 100000\n", "app/memory.max": f"{4 * GIB}\n", "app/memory.current": f"{GIB}\n"}
    root = lay_out("/app", files)
    assert cgroup.cpu_limit(root) == 1.5
    assert cgroup.free_memory_bytes(root) == 3 * GIB


def test_the_tightest_of_the_ancestors_counts(lay_out):
    files = {
        "slice/cpu.max": "50000 100000\n",
        "slice/memory.max": f"{8 * GIB}\n",
        "slice/memory.current": f"{7 * GIB}\n",  # its other children hold most of it
        "slice/pod/cpu.max": "max 100000\n",
        "slice/pod/memory.max": "max\n",
        "slice/pod/memory.current": f"{GIB}\n",
        "slice/pod/app/cpu.max": "300000 100000\n",
        "slice/pod/app/memory.max": f"{4 * GIB}\n",
        "slice/pod/app/memory.current": f"{GIB}\n",
    }
    root = lay_out("/slice/pod/app", files)
    assert cgroup.cpu_limit(root) == 0.5
    assert cgroup.free_memory_bytes(root) == GIB


def test_in_a_namespace_the_group_is_the_top_of_the_mount(lay_out):
    files = {"cpu.max": "200000 100000\n", "memory.max": f"{2 * GIB}\n", "memory.current": f"{GIB}\n"}
    root = lay_out("/", files)
    assert cgroup.cpu_limit(root) == 2.0
    assert cgroup.free_memory_bytes(root) == GIB


@pytest.mark.parametrize("group", ["/docker/abc", "/../../other"])
def test_a_mount_of_a_part_of_the_hierarchy_shows_that_part(lay_out, group):
    root = lay_out(group, {"cpu.max": "100000 100000\n"}, top="/docker/abc", path="/mnt/control groups")
    assert cgroup.cpu_limit(root) == 1.0


def test_file_pages_that_can_be_dropped_are_free(lay_out):
    files = {
        "app/memory.max": f"{4 * GIB}\n",
        "app/memory.current": f"{4 * GIB}\n",
        "app/memory.stat": f"anon {GIB}\nfile {3 * GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}\n",
    }
    assert cgroup.free_memory_bytes(lay_out("/app", files)) == 2 * GIB


def test_a_group_over_its_limit_has_nothing_left(lay_out):
    files = {"app/memory.max": f"{GIB}\n", "app/memory.current": f"{2 * GIB}\n"}
    assert cgroup.free_memory_bytes(lay_out("/app", files)) == 0


def test_what_cannot_be_parsed_is_no_limit(lay_out):
    files = {"app/cpu.max": "\n", "app/memory.max": "lots\n", "app/memory.current": "1\n"}
    root = lay_out("/app", files)
    assert cgroup.cpu_limit(root) is None
    assert cgroup.free_memory_bytes(root) is None


@pytest.mark.parametrize(("quota", "workers"), [(0.2, 1), (1.0, 1), (1.5, 2), (1000.0, None), (None, None)])
def test_workers_by_default_fit_the_quota_rounded_up(monkeypatch, quota, workers):
    monkeypatch.setattr(cgroup, "cpu_limit", lambda: None)
    all_cpus = machine.usable_cpus()
    monkeypatch.setattr(cgroup, "cpu_limit", lambda: quota)
    assert machine.usable_cpus() == min(all_cpus, workers or all_cpus)


def test_the_free_memory_is_what_the_tighter_of_machine_and_container_has(monkeypatch):
    monkeypatch.setattr(cgroup, "free_memory_bytes", lambda: 4096)
    assert machine.free_memory_bytes() == 4096
    monkeypatch.setattr(cgroup, "free_memory_bytes", lambda: 1 << 60)
    assert 4096 < machine.free_memory_bytes() < 1 << 60


def test_the_limits_of_this_machine_are_plausible():
    cpus, free_bytes = cgroup.cpu_limit(), cgroup.free_memory_bytes()
    assert cpus is None or (cpus > 0 and math.isfinite(cpus))
    assert free_bytes is None or free_bytes >= 0
    assert 1 <= machine.usable_cpus() <= (os.cpu_count() or 1)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < machine.free_memory_bytes() <= total


def test_kills_for_want_of_memory_are_counted_in_our_group_and_limits_in_its_ancestors_too(lay_out):
    files = {
        "memory.stat": "",  # the group at the top has no events
        "slice/memory.events": "low 0\nhigh 0\nmax 9\noom 4\noom_kill 7\noom_group_kill 0\n",
        "slice/app/memory.events": "low 0\nhigh 0\nmax 5\noom 1\noom_kill 2\noom_group_kill 0\n",
    }
    found = cgroup.oom_files(lay_out("/slice/app", files))
    assert (cgroup.oom_kills(found), cgroup.limits_reached(found)) == (2, 5)


def test_kills_for_want_of_memory_are_counted_by_the_first_version_of_cgroups_too(tmp_path):
    own = tmp_path / "proc" / "self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text("9:cpu,cpuacct:/\n4:memory:/docker/ab\n0::/\n")
    (own / "mountinfo").write_text(
        "33 31 0:30 /docker/ab /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        "35 31 0:32 /docker/ab /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    )
    folder = tmp_path / "sys/fs/cgroup/memory"
    folder.mkdir(parents=True)
    (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (folder / "memory.failcnt").write_text("17\n")
    found = cgroup.oom_files(str(tmp_path))
    assert (cgroup.oom_kills(found), cgroup.limits_reached(found)) == (3, 17)


@pytest.mark.parametrize("group", [None, "/app"])
def test_where_no_kills_are_counted_there_are_none(lay_out, tmp_path, group):
    root = str(tmp_path) if group is None else lay_out(group, {"app/memory.max": "max\n"})
    found = cgroup.oom_files(root)
    assert (cgroup.oom_kills(found), cgroup.limits_reached(found)) == (None, 0)


@pytest.mark.parametrize(
    ("group", "parent", "cause"),
    [
        ("oom 0\noom_kill 1", "oom 2\noom_kill 5", machine.BY_MACHINE),
        ("oom 1\noom_kill 1", "oom 2\noom_kill 5", machine.BY_CONTAINER),
        ("oom 0\noom_kill 1", "oom 3\noom_kill 6", machine.BY_CONTAINER),  # by the limit of the group above
        ("oom 0\noom_kill 0", "oom 3\noom_kill 6", ""),  # another process of the group above was killed
    ],
)
def test_a_kill_is_told_by_what_the_files_of_our_groups_count(lay_out, tmp_path, monkeypatch, group, parent, cause):
    events = "low 0\nhigh 0\nmax 4\n{}\noom_group_kill 0\n"
    files = {
        "slice/memory.events": events.format("oom 2\noom_kill 5"),
        "slice/app/memory.events": events.format("oom 0\noom_kill 0"),
    }
    found = cgroup.oom_files(lay_out("/slice/app", files))
    monkeypatch.setattr(cgroup, "oom_files", lambda: found)
    kills = machine.OomKills()
    assert kills.cause_of_death(kills.count()) == ""
    folder = tmp_path / "sys/fs/cgroup/slice"
    (folder / "memory.events").write_text(events.format(parent))
    (folder / "app/memory.events").write_text(events.format(group))
    assert kills.cause_of_death(kills.count()) == cause
    assert kills.cause_of_death(kills.count()) == ""  # each kill once
