"""The example, on a cluster that it makes and on nodes of which one is killed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

from examples.cluster import count_file
from tests.support.scripts import ENVIRONMENT, ROOT

PATIENCE_S = 120.0
STDLIB = Path(sysconfig.get_path("stdlib"))


def totals_of(*folders: Path) -> str:
    totals: Counter[str] = Counter()
    for folder in folders:
        for path in folder.rglob("*.py"):
            totals += count_file(str(path))
    return ", ".join(f"{count} {what}" for what, count in totals.items())


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "examples/cluster.py", *map(str, arguments)], cwd=ROOT, env=ENVIRONMENT, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_it_makes_a_cluster_of_its_own():
    out, err = start().communicate(timeout=PATIENCE_S)
    assert out.strip() == totals_of(STDLIB / "json"), err


def test_totals_are_the_same_where_a_node_is_killed(make_cluster):
    cluster = make_cluster()
    folders = (STDLIB / "asyncio", STDLIB / "email", STDLIB / "unittest", STDLIB / "multiprocessing")
    with start("--scheduler", cluster.address, *folders) as process:
        assert process.stderr is not None
        line = ""
        while "101 of" not in line:
            line = process.stderr.readline()
            assert line, "it ended"
        cluster.nodes[0].kill()
        out, err = process.communicate(timeout=PATIENCE_S)
    assert out.strip() == totals_of(*folders), err
