"""The limits of this process's control groups (cgroup v2): the part of the machine that a container may use.

Parsing is separate from reading. `root` is the root of the file system, so that tests can provide a tree of their own.
Without cgroup v2, or without limits there, all limits are None.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Mount(NamedTuple):
    """A mounted hierarchy: the group at its top, and where it is mounted."""

    top: str
    path: str


def own_group(text: str) -> str | None:
    """Return our group from /proc/self/cgroup: the path of the line of the unified hierarchy, or None."""
    for line in text.splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return None


def unified_mount(text: str) -> Mount | None:
    """Return where the unified hierarchy is mounted, from /proc/self/mountinfo, or None."""
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if separator and len(fields) >= 5 and after.split(maxsplit=1)[:1] == ["cgroup2"]:
            return Mount(_unescape(fields[3]), _unescape(fields[4]))
    return None


def folders_upwards(group: str, mount: Mount) -> list[str]:
    """Return the folders of `group` and of its visible ancestors, the group's own first."""
    relative = os.path.relpath(group, mount.top)
    if relative == os.curdir or relative.startswith(os.pardir):
        return [mount.path]  # the group is the top itself, or outside of the namespace
    parts = relative.split("/")
    return [os.path.join(mount.path, *parts[:length]) for length in range(len(parts), -1, -1)]


def cpus_of_quota(text: str) -> float | None:
    """Return the CPUs that a `cpu.max` allows ("150000 100000" is 1.5), or None for no limit."""
    fields = text.split()
    try:
        quota, period = int(fields[0]), int(fields[1]) if len(fields) > 1 else 100_000
    except (IndexError, ValueError):
        return None  # "max"
    return quota / period if quota > 0 and period > 0 else None


def bytes_of(text: str) -> int | None:
    """Return the number in a file such as `memory.max`, or None for "max"."""
    try:
        return int(text)
    except ValueError:
        return None


def reclaimable(text: str) -> int:
    """Return the bytes of a group that the kernel can reclaim cheaply: its inactive file pages, from `memory.stat`."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == "inactive_file":
            return bytes_of(number) or 0
    return 0


def cpu_limit(root: str = "/") -> float | None:
    """Return the CPUs that the tightest of our groups allows, or None for no limit."""
    limits = [cpus_of_quota(_read(folder, "cpu.max")) for folder in _own_folders(root)]
    return min((limit for limit in limits if limit is not None), default=None)


def free_memory_bytes(root: str = "/") -> int | None:
    """Return the bytes that the tightest of our groups has left until its `memory.max`, or None for no limit.

    The memory of a group includes that of its children, so any ancestor with a limit can be the tightest.
    """
    left = []
    for folder in _own_folders(root):
        limit, held = bytes_of(_read(folder, "memory.max")), bytes_of(_read(folder, "memory.current"))
        if limit is not None and held is not None:
            left.append(max(0, limit - held + min(held, reclaimable(_read(folder, "memory.stat")))))
    return min(left, default=None)


def _own_folders(root: str) -> list[str]:
    group = own_group(_read(root, "proc/self/cgroup"))
    mount = unified_mount(_read(root, "proc/self/mountinfo"))
    if group is None or mount is None:
        return []
    return [os.path.join(root, folder.lstrip("/")) for folder in folders_upwards(group, mount)]


def _read(folder: str, name: str) -> str:
    """Return the text of a file, or "" if there is none, as in the group at the top."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _unescape(field: str) -> str:
    r"""Undo the octal escapes of mountinfo, such as \040 for a space."""
    head, *rest = field.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
