"""The screen of `procbackground top`, in a terminal: what it shows, and what its keys do."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from procbackground import Manager, Task, WorkerDiedError
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.scripts import ENVIRONMENT

DOWN = "\x1b[B"


class Screen:
    """A terminal with `procbackground top` in it."""

    def __init__(self) -> None:
        self._ours, its = os.openpty()
        termios.tcsetwinsize(its, (20, 100))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "procbackground", "top", str(os.getpid()), "--interval", "0.05"],
            stdin=its, stdout=its, stderr=its, env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100", "LINES": "20"},
            start_new_session=True,
        )  # fmt: skip
        os.close(its)
        self._text = ""

    def wait_for(self, pattern: str) -> None:
        """Return once `pattern` was shown in what is drawn from now on."""
        end = time.monotonic() + PATIENCE_S
        self._text = ""
        while not re.search(pattern, self._text):
            left_s = end - time.monotonic()
            assert left_s > 0, f"{pattern!r} did not appear in {self._text[-2000:]!r}"
            if select.select([self._ours], [], [], left_s)[0]:
                drawn = os.read(self._ours, 65536).decode(errors="replace")
                self._text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def leave(self) -> int:
        """Press q, and return the exit code."""
        self.press("q")
        while True:
            try:
                if not os.read(self._ours, 65536):
                    break
            except OSError:  # nobody has the terminal open any more
                break
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self._ours)


@pytest.fixture(autouse=True)
def _own_sockets(tmp_path, monkeypatch):
    (tmp_path / "r").mkdir()
    monkeypatch.setitem(ENVIRONMENT, "XDG_RUNTIME_DIR", str(tmp_path / "r"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "r"))


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager(max_workers=1, name="crunch", status=True, grace=0.1) as manager:
        yield manager


@pytest.fixture
def screen(manager: Manager) -> Iterator[Screen]:
    screen = Screen()
    yield screen
    screen.close()


def test_it_shows_what_runs_and_cancels_the_chosen_task(manager, gate, screen):
    running = manager.run_task(Task(stop_at_gate, args=(gate.address,), name="crunching"))
    queued = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    screen.wait_for(rf"procbackground crunch, process {os.getpid()}, open")
    screen.wait_for(r"1 running  1 queued, the oldest for")
    screen.press("c")
    screen.wait_for("choose a worker that runs a task")
    screen.press(DOWN + "c")
    screen.wait_for(r"Cancel .* in process \d+\? y/n")
    screen.press("n")
    screen.wait_for("q leave")
    assert not running.done()
    screen.press("c")
    screen.wait_for("y/n")
    screen.press("y")
    screen.wait_for("1 cancelled")
    assert running.cancelled()
    gate.wait_for_arrival()
    assert not queued.done()
    queued.cancel()
    assert screen.leave() == 0


def test_the_task_of_a_worker_that_has_ended_meanwhile_is_not_cancelled_and_the_screen_stays(manager, gate, screen):
    running = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    screen.wait_for("1 running")
    screen.press(DOWN + "c")
    screen.wait_for(rf"Cancel .* in process {pid}\? y/n")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError):
        running.result(timeout=PATIENCE_S)
    screen.press("y")
    screen.wait_for("it had ended already")
    assert screen.leave() == 0


def test_a_drain_ends_what_is_queued_and_then_the_manager(manager, gate, screen):
    running = manager.run(stop_at_gate, gate.address)
    queued = manager.run(pow, 2, 3)
    pid = gate.wait_for_arrival()
    screen.wait_for("1 queued")
    screen.press("d")
    screen.wait_for("Drain: cancel 1 queued tasks, finish 1")
    screen.press("y")
    screen.wait_for("1 cancelled")
    assert queued.cancelled()
    gate.release(pid)
    assert running.result(timeout=PATIENCE_S) is None
    manager.close(timeout=PATIENCE_S)
    assert screen.process.wait(PATIENCE_S) == 0  # there is nothing left to watch


def test_a_close_stops_what_runs(manager, gate, screen):
    running = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    screen.wait_for("1 running")
    screen.press("x")
    screen.wait_for("Close: stop 1 running tasks")
    screen.press("y")
    with pytest.raises(CancelledError):
        running.result(timeout=PATIENCE_S)
    assert screen.process.wait(PATIENCE_S) == 0


def test_the_rate_is_that_of_the_last_seconds():
    from procbackground._cli.screen import _Watch

    looks = [(3600.0, 7200), (3601.0, 7201), (3605.0, 7201), (3611.0, 7211), (3651.0, 7251)]
    tasks = {"failed": 0, "cancelled": 0}
    statuses = [{"began": 0.0, "time": now, "tasks": {**tasks, "succeeded": ended}} for now, ended in looks]

    class Answers:
        def ask(self, do: str) -> dict[str, object]:
            return statuses.pop(0)

    watch = _Watch(Answers(), 1.0)
    rates = []
    for _ in looks:
        watch._refresh()
        rates.append(round(watch._rate, 2))
    # From the start of the manager, then from the first look, and from one of ten seconds ago.
    assert rates == [2.0, 1.0, 0.2, 1.0, 1.0]
