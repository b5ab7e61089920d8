"""What an import leaves that forks must not share, and what it may leave: each tried in a fork of one clean process."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import procbackground

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no zygote")

HARMFUL = {
    "import random; made = random.Random()": "random generator",
    "import random; made = [{'key': random.Random(7)}]": "random generator",
    "import random\nclass Own(random.Random): pass\nmade = Own()": "random generator",
    "import random; random.seed(7)": "seeded the generator of `random`",
    "made = open('/etc/passwd')": "/etc/passwd",
    "import socket; made = socket.socketpair()": "socket",
    "import sqlite3; made = sqlite3.connect('file.sqlite')": "file.sqlite",
    "import select; made = select.epoll()": "eventpoll",
    "import os; made = os.pipe()": "pipe",
    "import os; os.dup2(os.open('/etc/passwd', os.O_RDONLY), 0)": "/etc/passwd",
    "import multiprocessing; made = multiprocessing.get_context('fork').Lock()": "shared memory",
    "import mmap; made = mmap.mmap(-1, 100)": "shared memory",
    "import subprocess; made = subprocess.Popen(['sleep', '2'])": "started a process",
    "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()": "threads",
    # A thread that Python knows nothing of.
    "import ctypes; c = ctypes.CDLL(None); t = ctypes.c_ulong(); "
    "c.pthread_create(ctypes.byref(t), None, c.pause, None)": "threads",
    "import numpy; made = numpy.random.default_rng()": "random generator",
    "import numpy; made = numpy.random.default_rng(3)": "random generator",
    "import numpy; made = numpy.random.RandomState(3)": "random generator",
    "import numpy; made = numpy.random.PCG64(3)": "random generator",
    "import numpy; numpy.random.seed(3)": "seeded the generator of numpy",
}
HARMLESS = [
    "import decimal, json, logging.handlers, asyncio, concurrent.futures, sqlite3, uuid",
    "import random; random.random(); made = random.SystemRandom()",
    "import tempfile; made = tempfile.mktemp()",
    "with open('/etc/passwd') as file: made = file.read()",
    "made = open('/dev/null')",
    "import threading; thread = threading.Thread(target=print); thread.start(); thread.join()",
    "import subprocess; subprocess.run(['true'])",
    "import threading, queue; made = threading.RLock(), queue.Queue()",
    # A library that keeps itself open, as libffi does. This one is mapped as code in any process.
    "made = open(next(line.split()[-1] for line in open('/proc/self/maps') if 'r-xp' in line and '.so' in line))",
    "import numpy; numpy.random.random(); made = numpy.ones((300, 300)) @ numpy.ones((300, 300))",
]
SCRIPT = """
import json, os, random, sys, tempfile
from procbackground._worker.fitness import Traces
cases = json.loads(sys.stdin.read())
for case in cases:
    sys.stdout.flush()
    if os.fork() == 0:
        traces = Traces()
        names = {}
        exec(case, names)
        print(json.dumps([case, traces.find_new()]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, str | None]:
    """What was found after each case."""
    cases = [case for case in [*HARMFUL, *HARMLESS] if "numpy" not in case or find_spec("numpy") is not None]
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=tmp_path_factory.mktemp("cases"),
        env={"PYTHONPATH": str(Path(procbackground.__file__).parents[1])},
    )
    return dict(json.loads(line) for line in finished.stdout.splitlines() if line.startswith("["))


@pytest.mark.parametrize("case", HARMFUL)
def test_what_forks_would_share_or_lack_is_found(found, case):
    if "numpy" in case:
        pytest.importorskip("numpy")
    assert HARMFUL[case] in str(found[case])


@pytest.mark.parametrize("case", HARMLESS)
def test_what_forks_may_share_is_let_pass(found, case):
    if "numpy" in case:
        pytest.importorskip("numpy")
    assert found[case] is None


def test_a_thread_that_was_about_to_end_before_the_import_hides_none_that_it_starts():
    script = """
import threading, time
from procbackground._worker.fitness import Traces
leaves = threading.Event()
earlier = threading.Thread(target=leaves.wait)
earlier.start()
traces = Traces()
leaves.set()
earlier.join()
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print(traces.find_new())
"""
    environment = {"PYTHONPATH": str(Path(procbackground.__file__).parents[1])}
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert finished.stdout == "it started threads\n"
