"""`procbackground run` and `procbackground loop`."""

from __future__ import annotations

import os
import signal
import socket

NIGHTLY = """
from procbackground.cli import task
import time

@task
def report(): return "done"

@task(timeout=0.2, retry=2)
def slow(): time.sleep(60)

@task(args=(1,), name="one")
def numbered(n): return n

def unregistered(): raise SystemExit
"""


def test_run_runs_what_a_file_registers(command):
    ran = command("run", command.write("nightly.py", NIGHTLY), "--keep-order")
    assert ran.code == 1
    assert [(each["name"], each["outcome"], each["attempts"]) for each in ran.records] == [
        ("report", "succeeded", 1), ("slow", "timed out", 2), ("one", "succeeded", 1),
    ]  # fmt: skip


def test_run_runs_only_what_is_asked_for(command):
    file = command.write("nightly.py", NIGHTLY)
    ran = command("run", file, "--only", "one", "-q")
    assert ran.values == [1]
    ran = command("run", file, "--only", "reprot")
    assert ran.code == 2
    assert "did you mean report?" in ran.err


def test_run_says_what_is_wrong_with_a_file(command):
    for name, text, message in (
        ("empty.py", "", "registers no tasks"),
        ("bad.py", "import nonesuch\n", "No module named 'nonesuch'"),
        ("worse.py", "from procbackground.cli import task\n@task(timeout=-1)\ndef f(): ...\n", "timeout"),
        ("os.py", "", "rename the file"),
        ("a-b.py", "", "whose name can be imported"),
    ):
        ran = command("run", command.write(name, text))
        assert (ran.code, ran.out) == (2, "")
        assert message in ran.err
        assert "_cli" not in ran.err


NEEDING = """
from procbackground import current
from procbackground.cli import task

@task
def any(): return current().slots

@task(slots={"gpu": 2})
def both(): return current().slots

@task(slots={"tpu": 1})
def strange(): ...
"""


def test_run_gives_slots_to_tasks_that_name_none_of_their_own(command):
    file = command.write("needing.py", NEEDING)
    ran = command("run", file, "--slots", "gpu=2", "--only", "any", "--only", "both", "--keep-order")
    assert ran.values == [{"gpu": [0]}, {"gpu": [0, 1]}]
    ran = command("run", file, "--slots", "gpu=2", "--only", "strange")
    assert ran.code == 2
    assert "strange: slots={'tpu': 1} can never be met: the manager declares no slot 'tpu'" in ran.err


POLLER = """
import os
def poll(address, fail="0"):
    import socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix: unix.sendto(b"polled", address)
    if fail == "1": raise RuntimeError("no luck")
"""


class Manager:
    """A service manager's end of the messages."""

    def __init__(self, command) -> None:
        command.write("poller.py", POLLER)
        self.address = os.path.join(command.folder, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.settimeout(60)
        command.environment["NOTIFY_SOCKET"] = self.address

    def wait_for(self, word: str, count: int = 1) -> None:
        while count:
            count -= word in self.socket.recv(4096).decode()


def test_loop_runs_until_sigterm_and_tells_the_service_manager(command):
    manager = Manager(command)
    command.environment["WATCHDOG_USEC"] = "200000"
    with command.running("loop", "poller:poll", manager.address, "--interval", "0.05") as process:
        manager.wait_for("READY=1")
        manager.wait_for("polled", 3)
        manager.wait_for("WATCHDOG=1", 2)
        process.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert process.wait(60) == 143
        assert "finishing the running iteration" in process.stderr.read()
    manager.socket.close()


def test_loop_reports_failed_iterations_and_goes_on(command):
    manager = Manager(command)
    arguments = (manager.address, "1", "--interval", "0.05", "--retries", "1")
    with command.running("loop", "poller:poll", *arguments) as process:
        manager.wait_for("polled", 5)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().count("an iteration failed: RuntimeError: no luck") >= 2
    manager.socket.close()


def test_loop_gives_no_sign_of_life_while_an_iteration_is_stalled(command):
    manager = Manager(command)
    command.environment["WATCHDOG_USEC"] = "100000"
    with command.running("loop", "tasks:sleeps", "x", "--stalled-after", "0.3") as process:
        manager.wait_for("READY=1")
        manager.wait_for("stalled")
        manager.socket.settimeout(0.5)
        try:
            while True:
                assert "WATCHDOG" not in manager.socket.recv(4096).decode()
        except TimeoutError:
            pass
        manager.socket.settimeout(60)
        process.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")  # the system delivers what waits by its number, and SIGINT has the lowest
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 143
    manager.socket.close()
