"""The life pipe, by which the kernel kills a worker's group when the parent is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from procbackground import _platform
from tests.support.gate import PATIENCE_S
from tests.support.scripts import ENVIRONMENT

pytestmark = pytest.mark.skipif(not _platform.IS_LINUX, reason="a thread does this elsewhere")


def test_it_can_be_owned_for_another_group():
    read_fd, write_fd = os.pipe()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        own = _platform.open_life_pipe(read_fd)
        try:
            _platform.own_life_pipe(own, process.pid)
            os.close(write_fd)
            assert process.wait(PATIENCE_S) == -signal.SIGKILL
        finally:
            process.kill()
            os.close(own)
            os.close(read_fd)


@pytest.mark.parametrize("ends_early", [True, False])
def test_an_end_that_came_before_is_seen(ends_early):
    source = f"""
import os
from procbackground import _platform
read_fd, write_fd = os.pipe()
own = _platform.open_life_pipe(read_fd)
if {ends_early}:
    os.close(write_fd)
_platform.own_life_pipe(own)
_platform.end_if_over(own)
"""
    done = subprocess.run(
        [sys.executable, "-c", source], env=ENVIRONMENT, start_new_session=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == (-signal.SIGKILL if ends_early else 0)
