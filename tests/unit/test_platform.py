"""What the operating system reports about processes, asked of real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from procbackground import _platform
from procbackground._platform import linux, portable

pytestmark = pytest.mark.skipif(not _platform.IS_LINUX, reason="reads /proc")


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("os._exit(7)", 7), ("os._exit(0)", 0), ("os.kill(os.getpid(), 6)", -signal.SIGABRT)],
)
def test_exit_code_of_a_zombie_is_known_without_reaping_it(code: str, exit_code: int):
    with subprocess.Popen([sys.executable, "-c", f"import os; {code}"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert _platform.exit_code_of_zombie(process.pid) == exit_code
        assert process.wait() == exit_code
        assert _platform.exit_code_of_zombie(process.pid) is None


def test_process_that_has_not_ended_has_no_exit_code():
    assert _platform.exit_code_of_zombie(os.getpid()) is None


def test_linux_and_the_fallback_provide_the_same_names():
    for module in (linux, portable):
        assert [name for name in _platform.__all__ if name != "IS_LINUX" and not hasattr(module, name)] == []
