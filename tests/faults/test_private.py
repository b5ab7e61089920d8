"""Other users cannot reach what the processes communicate by: no port is open, and no file or socket is public."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.facts import wait_until_gone
from tests.support.gate import PATIENCE_S
from tests.support.scripts import ENVIRONMENT, ORPHANS_GONE_S, family, parent, running

LARGE = 8 << 20  # bytes, which travel in a memory file

BODY = """
import multiprocessing, os
manager = Manager(max_workers=2, mp_context=multiprocessing.get_context({method!r}), retry=2)
assert len(manager.run(plain.echo, bytes({large})).result(timeout=20)) == {large}
manager.run(gated.stop_then_do, address)
stop_at_gate(address, "parent")
manager.close()
"""


def open_files(pid: int) -> list[str]:
    """Return what the descriptors and mappings of a process lead to."""
    targets = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            targets.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    targets += [mapping.path for mapping in psutil.Process(pid).memory_maps(grouped=True)]
    return targets


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files that others can look into, as /tmp is. The path of a socket in it must be short."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_pipes_pages_files_and_sockets_are_private(gate, method, tmp_path, scratch, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(scratch))
    with running(parent(gate, BODY.format(method=method, large=LARGE)), tmp_path) as process:
        labels = {gate.next_arrival().label for _ in range(2)}
        assert labels == {None, "parent"}
        everybody = family(process.pid) | {process.pid}
        assert len(everybody) > 2
        for pid in everybody:
            listening = [
                each for each in psutil.Process(pid).net_connections("inet") if each.status == psutil.CONN_LISTEN
            ]
            assert listening == []
            for connection in psutil.Process(pid).net_connections("unix"):
                # Where a socket has a name at all, it is a file in a folder of the user's own.
                if connection.laddr:
                    assert connection.laddr.startswith(str(scratch))
            for target in open_files(pid):
                assert not target.startswith("/dev/shm/")
                assert not target.startswith(str(scratch)) or target.endswith(" (deleted)")
        for path in scratch.iterdir():
            assert path.is_dir()
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        for pid in list(gate._held):
            gate.release(pid)
        assert process.wait(PATIENCE_S) == 0
        wait_until_gone(everybody, ORPHANS_GONE_S)
