"""The limits of this process's control groups (cgroup v2): the part of the machine that a container may use.

Also the kernel's kills for want of memory in these groups, of cgroup v2 and v1.

Parsing is separate from reading. `root` is the root of the file system, so that tests can provide a tree of their own.
Without cgroup v2, or without limits there, all limits are None.
"""

from __future__ import annotations

import os
from io import FileIO

from procbackground._named import NamedTuple


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


def memory_limit_bytes(root: str = "/") -> int | None:
    """Return the tightest `memory.max` of our groups, or None for no limit."""
    limits = [bytes_of(_read(folder, "memory.max")) for folder in _own_folders(root)]
    return min((limit for limit in limits if limit is not None), default=None)


class OomFiles(NamedTuple):
    """Files that count kills for want of memory, or times that a limit of memory was reached; see `oom_files`."""

    kills: tuple[str, str] | None  # path, name of the counter: processes of our group that were killed
    limits: tuple[tuple[str, str], ...]  # the same for the limits of our group and of its ancestors


def oom_files(root: str = "/") -> OomFiles:
    """Return where our groups count kills for want of memory. They stay there: to be looked for once.

    With cgroup v2 `memory.events` counts `oom_kill` in the group of the victim, whoever ran out of memory, and `oom` in
    the groups whose limit was reached. With v1, `memory.oom_control` and `memory.failcnt` do.
    """
    folders = [folder for folder in _own_folders(root) if _counter(f"{folder}/memory.events", "oom_kill") is not None]
    if folders:
        events = [f"{folder}/memory.events" for folder in folders]
        return OomFiles((events[0], "oom_kill"), tuple((path, "oom") for path in events))
    folders = _own_memory_folders_v1(root)
    if not folders or _counter(f"{folders[0]}/memory.oom_control", "oom_kill") is None:
        return OomFiles(None, ())
    limits = tuple((f"{folder}/memory.failcnt", "") for folder in folders)
    return OomFiles((f"{folders[0]}/memory.oom_control", "oom_kill"), limits)


def oom_kills(files: OomFiles) -> int | None:
    """Return how many processes of our group were killed for want of memory; None where the group does not count."""
    return None if files.kills is None else _counter(*files.kills)


def limits_reached(files: OomFiles) -> int:
    """Return how often a limit of memory was reached."""
    return sum(_counter(*each) or 0 for each in files.limits)


def _counter(path: str, name: str) -> int | None:
    """Return the number after `name` in a file of counters, or for an empty name its only number."""
    for line in _read(path, "").splitlines():
        before, _, number = line.rpartition(" ")
        if before == name:
            return bytes_of(number)
    return None


def _own_memory_folders_v1(root: str) -> list[str]:
    """Return the folders of our group of the v1 hierarchy of memory and of its visible ancestors."""
    group = mount = None
    for line in _read(root, "proc/self/cgroup").splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3 and "memory" in fields[1].split(","):
            group = fields[2]
    for line in _read(root, "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, after_fields = before.split(), after.split()
        if len(fields) >= 5 and after_fields[:1] == ["cgroup"] and "memory" in after_fields[-1].split(","):
            mount = Mount(_unescape(fields[3]), _unescape(fields[4]))
    if group is None or mount is None:
        return []
    return [os.path.join(root, folder.lstrip("/")) for folder in folders_upwards(group, mount)]


def _own_folders(root: str) -> list[str]:
    group = own_group(_read(root, "proc/self/cgroup"))
    mount = unified_mount(_read(root, "proc/self/mountinfo"))
    if group is None or mount is None:
        return []
    return [os.path.join(root, folder.lstrip("/")) for folder in folders_upwards(group, mount)]


def _read(folder: str, name: str) -> str:
    """Return the text of a file, or "" if there is none, as in the group at the top.

    By an object that closes the file whatever interrupts a caller's thread, and without a buffer and a decoder, which
    take longer than the kernel: the error of a task that was killed waits for such a file.
    """
    try:
        with FileIO(os.path.join(folder, name) if name else folder) as file:
            return file.readall().decode(errors="replace")
    except OSError:
        return ""


def _unescape(field: str) -> str:
    r"""Undo the octal escapes of mountinfo, such as \040 for a space."""
    head, *rest = field.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
