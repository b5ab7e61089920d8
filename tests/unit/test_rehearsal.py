"""The rehearsal leaves the zygote, which goes through it once, as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.gate import PATIENCE_S
from tests.support.scripts import ENVIRONMENT

SCRIPT = """
import faulthandler, logging, os, signal, sys, threading
import procbackground
from procbackground._worker import relay
from procbackground._worker.rehearsal import rehearse

def own(number, frame):
    pass

pipe = os.pipe()
os.set_blocking(pipe[1], False)
signal.set_wakeup_fd(pipe[1])
{before}

def state():
    return {{
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "wakeup": signal.set_wakeup_fd(pipe[1]),
        "faulthandler": faulthandler.is_enabled(),
        "finders": [id(finder) for finder in sys.meta_path],
        "logging": (logging.root.level, list(logging.root.handlers)),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": threading.enumerate(),
        "context": procbackground.current().name,
        "channel": relay._channel,
        "session": os.getsid(0),
    }}

before = state()
rehearse()
after = state()
assert after == before, (before, after)
"""


@pytest.mark.parametrize(
    "before",
    [
        "",
        "signal.signal(signal.SIGINT, own); signal.signal(signal.SIGTERM, own); signal.signal(signal.SIGCHLD, own)",
        "faulthandler.enable()",
        "logging.basicConfig(level=logging.INFO)",
        "sys.modules.pop('logging')",
        "sys.modules['random'] = None",
        "import random; random._inst = 'no generator'",
    ],
)
def test_it_leaves_the_process_as_it_was(before):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)], env=ENVIRONMENT, start_new_session=True,
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_it_survives_a_lack_of_descriptors():
    before = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (7, 7))"
    script = SCRIPT.format(before="").replace("before = state()", f"before = state(); {before}")
    done = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, start_new_session=True,
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
