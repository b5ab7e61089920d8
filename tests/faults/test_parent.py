"""Faults 15 to 18a: the parent is killed or exits. Within a second none of its processes is left."""

from __future__ import annotations

import os
import signal
import textwrap

import psutil
import pytest

from procbackground import _platform
from tests.support.facts import is_gone, wait_until_gone
from tests.support.gate import PATIENCE_S
from tests.support.scripts import ORPHANS_GONE_S, family, parent, running

# What the workers do, all at once: how often each says where it is, and what.
BUSY = {
    "spins": "manager.run(gated.tell_and_spin, address)",
    "sleeps": "manager.run(gated.tell_and_sleep, address)",
    "is in C with the GIL": "manager.run(gated.tell_and_hold_the_interpreter, address)",
    "is deaf to SIGTERM": "manager.run(gated.ignore_sigterm, address)",
    "has a grandchild": "manager.run(gated.start_grandchild, address)",
    "has a grandchild in a session of its own": "manager.run(gated.start_grandchild, address, True)",
    "loops": "manager.run_task(Task(looping.iterate, args=(address,), type=TaskType.LOOP))",
}

HUNG = [BUSY["is in C with the GIL"], BUSY["is deaf to SIGTERM"], BUSY["has a grandchild in a session of its own"]]


def script(gate, method: str, works, ending: str) -> str:
    """Return a script whose manager does `works`, stops at the gate as "parent", and then ends."""
    lines = [
        "import multiprocessing",
        f"context = multiprocessing.get_context({method!r})",
        f"options = dict(max_workers={max(2, len(works))}, mp_context=context, retry=2)",
        "manager = Manager(**options, grace=0.2, exit_timeout=0.2)",
        *works,
        "stop_at_gate(address, 'parent')",
        *textwrap.dedent(ending).strip().splitlines(),
    ]
    return parent(gate, "\n".join(lines))


def everybody_below(gate, process, arrivals: int) -> set[int]:
    """Return all that there is below the script, once it and its tasks have said where they are."""
    labels = [gate.next_arrival().label for _ in range(arrivals)]
    assert "parent" in labels
    grandchildren = {label for label in labels if isinstance(label, int) and label > 1}
    everybody = family(process.pid)
    assert grandchildren <= everybody
    assert len(everybody) > arrivals
    return everybody


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["15a_sigkill", "17_sigterm"])
def test_15a_17_parent_is_killed_with_busy_workers(gate, method, tmp_path, number):
    with running(script(gate, method, BUSY.values(), ""), tmp_path) as process:
        everybody = everybody_below(gate, process, len(BUSY) + 1)
        os.kill(process.pid, number)
        assert process.wait(PATIENCE_S) == -number
        wait_until_gone(everybody, ORPHANS_GONE_S)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["15b_sigkill", "17_sigterm"])
def test_15b_17_parent_is_killed_with_idle_workers(gate, method, tmp_path, number):
    idle = ["assert list(manager.map(plain.square, range(8), chunksize=1)) == [n * n for n in range(8)]"]
    with running(script(gate, method, idle, ""), tmp_path) as process:
        assert gate.wait_for_label() == "parent"
        everybody = family(process.pid)
        assert everybody
        os.kill(process.pid, number)
        process.wait(PATIENCE_S)
        wait_until_gone(everybody, ORPHANS_GONE_S)


def test_15_parent_is_killed_while_initializers_hang(gate, method, tmp_path):
    """Before their first task, too, workers need not come to anything to be ended."""
    start = f"""
    import multiprocessing
    context = multiprocessing.get_context({method!r})
    hang = gated.tell_and_hold_the_interpreter
    manager = Manager(max_workers=2, mp_context=context, initializer=hang, initargs=(address,))
    handles = [manager.run(plain.square, number) for number in range(2)]
    stop_at_gate(address, "parent")
    """
    with running(parent(gate, start), tmp_path) as process:
        everybody = everybody_below(gate, process, 3)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_until_gone(everybody, ORPHANS_GONE_S)


STARTING = """
import multiprocessing, os, subprocess, sys, threading, time
from procbackground import Manager
from tests.support.gate import Address, stop_at_gate, tell_gate

address = Address(*{address!r})

class Sink:
    def write(self, text):
        pass

    def stop(self):
        if __name__ != "__main__":
            stop_at_gate(address, "stops its sink")
            time.sleep(60)

{at_import}
if __name__ == "__main__":
    bystander = subprocess.Popen(["sleep", "60"])
    manager = Manager(max_workers=1, mp_context=multiprocessing.get_context({method!r}))
    handle = manager.run(abs, -1)
    tell_gate(address, bystander.pid)
    time.sleep(60)
"""

AT_IMPORT = {
    "imports the main module": """
if __name__ != "__main__":
    threading.Thread(target=time.sleep, args=(60,)).start()  # which a process waits for before it ends
    stop_at_gate(address, "imports")
""",
    "lets go of handlers": """
from loguru import logger
logger.add(Sink())
""",
    "sets levels": """
import logging

class Blocking(logging.Logger):
    is_made = False

    def setLevel(self, level):
        if self.is_made:
            stop_at_gate(address, "sets a level")
            time.sleep(60)
        super().setLevel(level)

logging.setLoggerClass(Blocking)
logging.getLogger("blocking").setLevel(logging.INFO)
Blocking.is_made = __name__ != "__main__"
""",
}


@pytest.mark.parametrize("step", AT_IMPORT)
def test_15_parent_is_killed_while_a_worker_starts(gate, method, tmp_path, step):
    """The worker ends, or what is to become one; what else there is in the parent's group does not."""
    source = STARTING.format(address=tuple(gate.address), at_import=AT_IMPORT[step], method=method)
    with running(source, tmp_path) as process:
        arrivals = [gate.next_arrival() for _ in range(2)]
        (bystander,) = [arrival.label for arrival in arrivals if arrival.pid == process.pid]
        (starting,) = [arrival.pid for arrival in arrivals if arrival.pid != process.pid]
        everybody = family(process.pid)
        assert {bystander, starting} <= everybody
        # These two of multiprocessing wait for the worker themselves.
        waiting = {pid for pid in everybody if "resource_tracker" in " ".join(psutil.Process(pid).cmdline())}
        waiting.add(psutil.Process(starting).ppid())
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        if step == "imports the main module":  # and comes to itself when all that could have ended it has ended
            wait_until_gone(everybody - {bystander, starting} - waiting)
            gate.release(starting)
        wait_until_gone(everybody - {bystander}, ORPHANS_GONE_S)
        assert not is_gone(bystander)
        os.kill(bystander, signal.SIGKILL)


@pytest.mark.skipif(not _platform.IS_LINUX, reason="there is no zygote")
@pytest.mark.parametrize("when", ["at work", "in the initializer"])
def test_15_zygote_is_killed_and_then_the_parent(gate, tmp_path, when):
    """Then nobody is left to end the workers but the kernel."""
    start = {
        "at work": "manager.run(gated.tell_and_hold_the_interpreter, address)",
        "in the initializer": """
            other = Manager(max_workers=1, initializer=gated.tell_and_hold_the_interpreter, initargs=(address,))
            handle = other.run(plain.square, 1)
        """,
    }[when]
    source = parent(gate, textwrap.dedent(start) + "\ntime.sleep(60)")
    with running(source, tmp_path) as process:
        worker = gate.wait_for_arrival()
        os.kill(psutil.Process(worker).ppid(), signal.SIGKILL)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_until_gone([worker], ORPHANS_GONE_S)


def test_15_parent_is_killed_under_the_fork_context(gate, tmp_path):
    works = [BUSY["is in C with the GIL"], BUSY["has a grandchild in a session of its own"]]
    with running(script(gate, "fork", works, ""), tmp_path) as process:
        everybody = everybody_below(gate, process, 3)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_until_gone(everybody, ORPHANS_GONE_S)


SLOW_MODULE = """
import multiprocessing
from tests.support.gate import Address
from tests.support.tasks import gated

if multiprocessing.current_process().name == "procbackground-zygote":
    gated.tell_and_hold_the_interpreter(Address(*{address!r}))

def work():
    pass
"""


@pytest.mark.skipif(not _platform.IS_LINUX, reason="there is no zygote")
def test_15_parent_is_killed_while_the_zygote_imports(gate, tmp_path):
    """What is below it goes all the same, though an import in C hears of nothing."""
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE.format(address=tuple(gate.address)))
    ending = """
    manager.run(gated.start_grandchild, address, True)
    stop_at_gate(address, "parent")
    import slow_module
    manager.run(slow_module.work)
    time.sleep(60)
    """
    with running(parent(gate, ending), tmp_path) as process:
        labels = {}
        for _ in range(2):
            arrival = gate.next_arrival()
            labels[arrival.label == "parent"] = arrival
        grandchild = labels[False].label
        gate.release(process.pid)
        importing = gate.next_arrival().pid
        everybody = family(process.pid)
        assert {grandchild, importing} <= everybody
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_until_gone(everybody, ORPHANS_GONE_S)


@pytest.mark.skipif(not _platform.IS_LINUX, reason="there is no zygote")
def test_15_parent_is_killed_while_the_zygote_is_stopped(gate, tmp_path):
    with running(script(gate, "forkserver", HUNG, ""), tmp_path) as process:
        everybody = everybody_below(gate, process, len(HUNG) + 1)
        zygotes = {psutil.Process(pid).ppid() for pid in everybody} & everybody
        (zygote,) = [pid for pid in zygotes if len(psutil.Process(pid).children()) >= len(HUNG)]
        os.kill(zygote, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_until_gone(everybody, ORPHANS_GONE_S)


def test_16_ctrl_c_to_the_group(gate, method, tmp_path):
    ending = """
    with manager:
        handles = [manager.run(gated.clean_up_when_stopped, address) for _ in range(6)]
        handles[0].result()
    """
    with running(script(gate, method, [], ending), tmp_path) as process:
        gate.release(gate.wait_for_arrival())
        for _ in range(2):
            assert gate.wait_for_label() == "at work"
        everybody = family(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in (-signal.SIGINT, 130, 1)
        wait_until_gone(everybody, ORPHANS_GONE_S)
        assert [gate.wait_for_label() for _ in range(2)] == ["SystemExit"] * 2
        assert not gate.has_arrivals()  # nothing of the queue has run
        assert stderr.count("Traceback") == 1
        assert "KeyboardInterrupt" in stderr
        assert stdout == ""


ENDINGS = {
    "sys.exit": ("sys.exit(0)", 0),
    "os._exit": ("os._exit(0)", 0),
    "an exception": ("raise KeyError('oh')", 1),
    "the end of the script": ("pass", 0),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_18a_exit_while_tasks_hang_and_the_pool_is_open(gate, method, tmp_path, ending):
    line, code = ENDINGS[ending]
    with running(script(gate, method, HUNG, line), tmp_path) as process:
        everybody = everybody_below(gate, process, len(HUNG) + 1)
        gate.release(process.pid)
        assert process.wait(PATIENCE_S) == code
        wait_until_gone(everybody, ORPHANS_GONE_S)


def test_18a_exit_without_close_while_idle_is_quick_and_silent(gate, method, tmp_path):
    works = ["print(manager.run(plain.square, 3).result(timeout=20))"]
    with running(script(gate, method, works, "pass"), tmp_path) as process:
        gate.wait_for_arrival()
        everybody = family(process.pid)
        gate.release(process.pid)
        assert process.wait(PATIENCE_S) == 0
        wait_until_gone(everybody, ORPHANS_GONE_S)
        assert (process.stdout.read(), process.stderr.read()) == ("9\n", "")


def test_16_ctrl_c_while_a_worker_is_still_starting(gate, tmp_path):
    """A worker that imports the main module when the signal comes prints nothing of its own."""
    source = parent(
        gate,
        """
        import multiprocessing
        context = multiprocessing.get_context("spawn")
        with Manager(max_workers=1, mp_context=context, grace=0.2) as manager:
            manager.run(plain.square, 3).result()
        """,
    ).replace(
        'if __name__ == "__main__":',
        'if __name__ != "__main__":\n    stop_at_gate(address, "importing")\nif __name__ == "__main__":',
    )
    with running(source, tmp_path) as process:
        assert gate.next_arrival().label == "importing"
        everybody = family(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
        assert (stdout, stderr.count("Traceback")) == ("", 1)
        wait_until_gone(everybody, ORPHANS_GONE_S)
