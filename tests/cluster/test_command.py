"""The command on a cluster: `--engine dask --scheduler ADDRESS`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.support.scripts import ENVIRONMENT

if not find_spec("click"):
    pytest.skip("needs the extra `cli`", allow_module_level=True)

PATIENCE_S = 60.0


def run(*arguments: str, folder: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "procbackground", *arguments], cwd=str(folder), env=ENVIRONMENT, capture_output=True,
        text=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_map_runs_on_the_nodes(shared_cluster, tmp_path):
    where = ("--engine", "dask", "--scheduler", shared_cluster.address)
    ran = run("map", "tests.support.tasks.plain:square", "--types", "-k", *where, ":::", "1", "2", "3", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert [json.loads(line)["value"] for line in ran.stdout.splitlines()] == [1, 4, 9]


def test_map_reports_failures_and_continues_from_its_journal(shared_cluster, tmp_path):
    where = ("--engine", "dask", "--scheduler", shared_cluster.address, "--journal", "batch.sqlite")
    inputs = (":::", "1", "-2", "3")
    for _ in range(2):
        ran = run("map", "tests.support.tasks.failing:fail_if_negative", "--types", *where, *inputs, folder=tmp_path)
        assert ran.returncode == 1, ran.stderr
        assert "Flaky" in ran.stderr + ran.stdout
    assert "2 " in ran.stderr  # from the journal


def test_loop_ends_with_the_signal(shared_cluster, tmp_path):
    log = tmp_path / "log"
    where = ("--engine", "dask", "--scheduler", shared_cluster.address)
    command = [sys.executable, "-m", "procbackground", "loop", "tests.support.tasks.counting:iterate", str(log), *where]
    from tests.support.facts import wait_until
    from tests.support.tasks.counting import lines

    with subprocess.Popen(command, env=ENVIRONMENT, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        wait_until(lambda: len(lines(log)) > 2, "it iterates", PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "dask"), "--scheduler ADDRESS"),
        (("--scheduler", "tcp://127.0.0.1:1"), "--engine dask"),
        (("--engine", "dask", "--scheduler", "tls://127.0.0.1:9", "--security", "."), "there is no file ./ca.pem"),
    ],
)
def test_wrong_use_is_told_in_a_line(tmp_path, options, message):
    ran = run("map", "math:sqrt", "--types", *options, ":::", "4", folder=tmp_path)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["map", "loop"])
def test_scheduler_that_cannot_be_reached_is_told_in_a_line(tmp_path, command):
    ran = run(command, "math:sqrt", "--types", "4", "--engine", "dask", "--scheduler", "127.0.0.1:9", folder=tmp_path)
    assert (ran.returncode, ran.stdout) == (255, "")
    assert ran.stderr.splitlines()[-1].startswith("procbackground: DaskEngine('tcp://127.0.0.1:9') cannot be used: ")
    assert "Traceback" not in ran.stderr
