"""The exit of the interpreter: what was submitted is run, or named on stderr, and Ctrl-C shortens the wait."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time

import pytest

from tests.support.facts import wait_until_gone
from tests.support.gate import PATIENCE_S
from tests.support.scripts import ORPHANS_GONE_S, family, parent, run, running, started

SCRIPT = """
    import asyncio, functools, sys, threading, time
    from procbackground import Manager, Task, TaskType

    def work(number):
        print("did", number, flush=True)

    def submit(manager, count=12):
        for number in range(count):
            manager.run(work, number)

    if __name__ == "__main__":
        {body}
"""


def end(body: str, folder) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    return run(SCRIPT.format(body=body), folder=folder)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("manager = Manager(2); submit(manager)", 0),
        ("manager = Manager(2); submit(manager); sys.exit(3)", 3),
        ("manager = Manager(2, max_tasks_per_child=2); submit(manager); manager.shutdown(wait=False)", 0),
        ("submit(Manager(1))", 0),
        ("managers = [Manager(1) for _ in range(3)]; [submit(each, 4) for each in managers]", 0),
        ("manager = Manager(2); results = manager.map(work, range(12))", 0),
        ("thread = threading.Thread(target=submit, args=(Manager(1),)); thread.start(); thread.join()", 0),
        ("async def main(): submit(manager)\n        manager = Manager(2); asyncio.run(main())", 0),
        ("manager = Manager(2, exit_timeout=60); submit(manager)", 0),
    ],
    ids=["plain", "sys.exit", "shutdown", "dropped", "several", "map", "thread", "asyncio", "exit_timeout"],
)  # fmt: skip
def test_what_was_submitted_is_run_when_the_program_ends(body, code, tmp_path):
    ended = end(body, tmp_path)
    assert len(ended.stdout.splitlines()) == 12, ended.stderr
    assert ended.returncode == code


@pytest.mark.parametrize("how", ["file", "-c", "module"])
def test_a_program_that_an_exception_ends_begins_nothing_more(how, gate, tmp_path):
    source = parent(
        gate,
        """
        manager.run(gated.stop_then_do, address)
        held = manager.run(gated.tell_and_sleep, address)
        queued = [manager.run(plain.square, 3) for _ in range(5)]
        print(*(handle.task.name for handle in queued[:1]), flush=True)
        while "asleep" not in input():
            pass
        raise LookupError("of the program")
        """,
    )
    (tmp_path / "program.py").write_text(source)
    arguments = {"file": [str(tmp_path / "program.py")], "-c": ["-c", source], "module": ["-m", "program"]}[how]
    with started(arguments, tmp_path) as process:
        while gate.wait_for_label() != "asleep":
            pass
        stdout, stderr = process.communicate("asleep\n", timeout=PATIENCE_S)
    assert process.returncode == 1
    assert stderr.count("Traceback") == 1, stderr
    assert "of the program" in stderr
    name = stdout.strip()
    last = stderr.splitlines()[-1]
    assert "the program ended with LookupError" in last
    assert f"5 not begun: {name} (5)" in last
    assert "2 stopped while they ran" in last


def test_past_exit_timeout_tasks_are_dropped_by_name(gate, tmp_path):
    source = parent(
        gate,
        """
        manager = Manager(max_workers=1, exit_timeout=0, grace=0)
        manager.run_task(Task(gated.ignore_sigterm, args=(address,), name="deaf"))
        for number in range(3):
            manager.run_task(Task(plain.square, args=(number,), name="waiting"))
        sys.exit(int(input()))
        """,
    )
    with running(source, tmp_path) as process:
        assert gate.wait_for_label() == "deaf"
        stdout, stderr = process.communicate("3\n", timeout=PATIENCE_S)
    assert (stdout, process.returncode) == ("", 3)
    assert "exit_timeout=0 passed: 1 stopped while they ran: deaf; 3 not begun: waiting (3)." in stderr
    assert "Traceback" not in stderr


NOTICED = """
    from procbackground._testing import hasten_exit_notices
    hasten_exit_notices(after_s=0.01, stacks_after_s={stacks_after_s})
    manager = Manager(max_workers=1, grace=3600)
    manager.run_task(Task({task}, args=(address,), name="held"))
    for number in range(3):
        manager.run_task(Task(plain.square, args=(number,), name="waiting"))
    input()
"""


def go_on(process: subprocess.Popen[str]) -> None:
    """Let a script continue that waits in `input()`."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return what the process writes to stderr, up to the line that has `text`."""
    lines = ""
    assert process.stderr is not None
    while text not in lines:
        line = process.stderr.readline()
        assert line, lines
        lines += line
    return lines


def test_the_exit_says_what_it_waits_for_and_later_where_that_is(gate, tmp_path):
    body = NOTICED.format(task="gated.stop_then_do", stacks_after_s=0.5)
    with running(parent(gate, body), tmp_path) as process:
        pid = gate.wait_for_arrival()
        go_on(process)
        notice = read_until(process, "waits for")
        assert "4 tasks" in notice
        assert f"1 running: held (process {pid}, " in notice
        assert "3 waiting: waiting (3)" in notice
        stacks = read_until(process, "in stop_at_gate")
        assert f"held (process {pid}" in stacks
        gate.release(pid)
        _, stderr = process.communicate(timeout=PATIENCE_S)
        assert "dropped" not in stderr
        assert process.returncode == 0


def test_interrupts_of_the_exit_stop_then_kill_what_runs(gate, tmp_path):
    body = NOTICED.format(task="gated.survive_all_stops", stacks_after_s=3600)
    with running(parent(gate, body), tmp_path) as process:
        assert gate.wait_for_label() == "at work"
        go_on(process)
        read_until(process, "waits for")
        everybody = family(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        assert gate.wait_for_label() == "stopped"  # it has an hour for that
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert "Traceback" not in stderr
        assert "its exit was interrupted: 1 stopped while they ran: held; 3 not begun: waiting (3)." in stderr
        wait_until_gone(everybody, ORPHANS_GONE_S)


AT_ONCE_S = 3.0  # the second Ctrl-C would end the wait after 5

HELD = """
    import signal, time
    from procbackground._testing import hasten_exit_notices
    hasten_exit_notices(after_s=0.01, stacks_after_s=3600)

    def hold():
        print("held", file=sys.stderr, flush=True)
        time.sleep(3600)

    def hear(number, frame):
        print("heard", file=sys.stderr, flush=True)

    signal.signal(signal.SIGUSR1, lambda number, frame: manager._supervisor._inbox.put(hold))
    signal.signal(signal.SIGUSR2, hear)
    manager = Manager(max_workers=1, grace=3600)
    {block}
        manager.run(gated.survive_all_stops, address)
"""


@pytest.mark.parametrize("block", ["if True:", "with manager:"], ids=["exit", "end of with"])
def test_a_third_ctrl_c_leaves_what_the_second_could_not_end(block, gate, tmp_path):
    """The supervisor is held, so that it kills nothing, as on a machine that is too busy."""
    with running(parent(gate, HELD.format(block=block)), tmp_path) as process:
        assert gate.wait_for_label() == "at work"
        if block == "if True:":
            read_until(process, "waits for")
        everybody = family(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        assert gate.wait_for_label() == "stopped"
        process.send_signal(signal.SIGUSR1)
        noise = read_until(process, "held")
        os.killpg(process.pid, signal.SIGINT)
        # Its handler runs after that of SIGINT, which has the lower number. A signal that comes just before the main
        # thread blocks runs its handler with the next one.
        process.send_signal(signal.SIGUSR2)
        while not select.select([process.stderr], [], [], 0.2)[0]:
            process.send_signal(signal.SIGUSR2)
        noise += read_until(process, "heard")
        assert process.poll() is None
        began_s = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        while not select.select([process.stderr], [], [], 1.0)[0]:
            os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE_S)
        assert time.monotonic() - began_s < AT_ONCE_S
        assert process.returncode == (0 if block == "if True:" else -signal.SIGINT)
        assert (noise + stderr).count("Traceback") == (0 if block == "if True:" else 1), stderr
        assert "Exception ignored" not in stderr
        wait_until_gone(everybody, ORPHANS_GONE_S)


INTERRUPTED = """
    manager = Manager(max_workers=1, grace=3600)
    {block}
        handle = manager.run(gated.survive_all_stops, address)
        manager.run(plain.square, 3)
        {wait}
"""


@pytest.mark.parametrize(
    ("block", "wait"),
    [("if True:", "handle.result()"), ("with manager:", "handle.result()"), ("with manager:", "pass"), ("async", "")],
    ids=["script", "with", "end of with", "end of async with"],
)
def test_a_second_ctrl_c_shortens_the_grace_without_a_traceback_of_its_own(block, wait, gate, tmp_path):
    body = INTERRUPTED.format(block=block, wait=wait)
    if block == "async":
        body = """
            import asyncio
            async def main():
                async with Manager(max_workers=1, grace=3600) as manager:
                    manager.run(gated.survive_all_stops, address)
            asyncio.run(main())
            """
    with running(parent(gate, body), tmp_path) as process:
        assert gate.wait_for_label() == "at work"
        everybody = family(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        assert gate.wait_for_label() == "stopped"
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == -signal.SIGINT
        assert stderr.count("KeyboardInterrupt") >= 1
        if block != "async":  # asyncio adds that of the cancellation
            assert stderr.count("Traceback") == 1, stderr
        assert "Exception ignored" not in stderr
        wait_until_gone(everybody, ORPHANS_GONE_S)


def test_a_loop_ends_after_its_running_iteration(gate, tmp_path):
    body = """
        manager.run_task(Task(gated.stop_then_do, args=(address,), type=TaskType.LOOP))
        input()
        """
    with running(parent(gate, body), tmp_path) as process:
        pid = gate.wait_for_arrival()
        go_on(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)  # only a hint that it waits: the test is right without
        gate.release(pid)
        _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert "dropped" not in stderr
        assert "Traceback" not in stderr
