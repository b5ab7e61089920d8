"""The kernel's OOM killer at work, in a control group of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from procbackground import _platform
from procbackground._platform import cgroup
from tests.support import scripts
from tests.support.facts import wait_until

LIMIT_BYTES = 256 << 20
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not _platform.IS_LINUX, reason="control groups are Linux's")]


def make_limited_group() -> Path | None:
    """Make a group with a limit of memory below our own, of version 2 or 1; None where that is not possible."""
    parents = [(folder, "memory.max", "memory.swap.max") for folder in cgroup._own_folders("/")[:1]]
    parents += [(folder, "memory.limit_in_bytes", "") for folder in cgroup._own_memory_folders_v1("/")[:1]]
    for parent, limit, swap_limit in parents:
        group = Path(parent) / f"procbackground-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(LIMIT_BYTES))
            if swap_limit and (group / swap_limit).exists():
                (group / swap_limit).write_text("0")
        except OSError:
            group.rmdir()  # the group has no such file: its parent does not let it limit memory
        else:
            return group
    return None


@pytest.fixture
def limited_group() -> Iterator[Path]:
    group = make_limited_group()
    if group is None:
        pytest.skip("no control group with a limit of memory can be made here")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), "all processes in the group have ended")
    group.rmdir()


FULL = """
    import os
    with open({procs!r}, "w") as file:
        file.write(str(os.getpid()))
    from procbackground import Manager

    def fill():
        parts = []
        while True:
            parts.append(bytearray(os.urandom(1 << 20)))

    if __name__ == "__main__":
        with Manager(max_workers=1) as manager:
            print(manager.run(fill).exception(60))
            print(manager.run(pow, 2, 3).result(60))
"""


def test_a_task_that_the_oom_killer_ends_in_a_full_container_is_told_so(limited_group, tmp_path):
    done = scripts.run(FULL.format(procs=os.fspath(limited_group / "cgroup.procs")), folder=tmp_path)
    assert "was killed by SIGKILL while running 'fill'" in done.stdout, done.stdout + done.stderr
    assert "the container (cgroup) reached its limit of memory, not the machine" in done.stdout
    assert done.stdout.endswith("\n8\n")
