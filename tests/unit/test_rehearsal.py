"""The rehearsal, which the zygote runs once, leaves its state as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

from procbackground._worker.rehearsal import ROUNDS
from tests.support.gate import PATIENCE_S
from tests.support.scripts import ENVIRONMENT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no zygote")

SCRIPT = """
import faulthandler, os, signal, sys, threading
from procbackground._worker import rehearsal, relay
from procbackground.context import current

def own(number, frame):
    pass

def count(*args):
    play(*args)
    rounds.append(args)

rounds, play, rehearsal._run_worker = [], rehearsal._run_worker, count
pipe = os.pipe()
os.set_blocking(pipe[1], False)
signal.set_wakeup_fd(pipe[1])
{before}

def state():
    logging, random = sys.modules.get("logging"), sys.modules.get("random")
    return {{
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "wakeup": signal.set_wakeup_fd(pipe[1]),
        "faulthandler": faulthandler.is_enabled(),
        "finders": [id(finder) for finder in sys.meta_path],
        "logging": logging and (logging.root.level, list(logging.root.handlers)),
        "chances": random and random.getstate(),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": threading.enumerate(),
        "context": current().name,
        "channel": relay._channel,
        "session": os.getsid(0),
    }}

before = state()
rehearsal.rehearse()
after = state()
assert after == before, (before, after)
assert len(rounds) == {rounds}, rounds
"""


def rehearse(before: str, rounds: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before, rounds=rounds)], env=ENVIRONMENT,
        start_new_session=True, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "before",
    [
        "assert 'logging' not in sys.modules",
        "signal.signal(signal.SIGINT, own); signal.signal(signal.SIGTERM, own); signal.signal(signal.SIGCHLD, own)",
        "faulthandler.enable()",
        "import logging; logging.basicConfig(level=logging.INFO)",
        "import random; random.seed(7)",
        "sys.modules['random'] = None",
    ],
)
def test_it_leaves_the_process_as_it_was(before):
    rehearse(before, ROUNDS)


def test_it_gives_up_where_it_cannot_be_played():
    rehearse("import random; random._inst = 'no generator'", 0)


def test_it_survives_a_lack_of_descriptors():
    # A worker takes four.
    rehearse("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))", 0)
