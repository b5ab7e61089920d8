"""The first zygote of a process has a head start: its interpreter is started before the manager's modules are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import scripts
from tests.support.facts import wait_until_gone
from tests.support.gate import PATIENCE_S
from tests.support.scripts import ORPHANS_GONE_S, family, running

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.environ.get("PROCBACKGROUND_PLATFORM") == "portable", reason="there is no zygote"
)

BEGINNING = f"""
import multiprocessing, os, signal, sys
from multiprocessing import forkserver
import psutil
from procbackground import Manager, _headstart
from tests.support.facts import child_pids, wait_until
from tests.support.tasks import plain

PATIENCE_S = {PATIENCE_S}

def fork_server():
    return forkserver._forkserver._forkserver_pid

def has(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
"""


def passes(body: str, folder: Path, before: str = "") -> None:
    """Run a script whose main part is `body`; it fails by an assertion."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    done = scripts.run(f'{BEGINNING}\n{before}\nif __name__ == "__main__":\n{lines}\n', "file", folder)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_the_first_zygote_needs_no_fork_server_and_later_ones_use_it(tmp_path):
    body = """
with Manager(max_workers=1) as manager:
    worker = psutil.Process(manager.run(plain.own_pid).result(PATIENCE_S))
    assert worker.ppid() in child_pids() and worker.parent().ppid() == os.getpid()
    assert manager.run(seen_of_multiprocessing).result(PATIENCE_S) == (os.getpid(), "forkserver", False)
    assert fork_server() is None
assert not child_pids()
with Manager(max_workers=1) as manager:
    worker = psutil.Process(manager.run(plain.own_pid).result(PATIENCE_S))
    assert worker.parent().ppid() == fork_server()
assert not child_pids()
"""
    before = """
def seen_of_multiprocessing():
    parent, process = multiprocessing.parent_process(), multiprocessing.current_process()
    return parent.pid, multiprocessing.get_start_method(), process.daemon
"""
    passes(body, tmp_path, before)


def test_a_manager_that_is_not_used_leaves_nothing(tmp_path):
    body = """
before = os.listdir("/proc/self/fd")
manager = Manager()
assert len(child_pids()) == 1
manager.close()
assert not child_pids() and os.listdir("/proc/self/fd") == before
"""
    passes(body, tmp_path)


def test_a_manager_that_is_refused_or_dropped_leaves_nothing(tmp_path):
    body = """
try:
    Manager(max_workers=0)
except ValueError:
    assert not child_pids()
_headstart._was_given = False
Manager()
assert not child_pids()
"""
    passes(body, tmp_path)


@pytest.mark.parametrize("lacking", ["os.pidfd_open", "os.posix_spawn", "_headstart._socket.socketpair"])
def test_a_manager_is_made_without_what_a_head_start_needs(tmp_path, lacking):
    body = f"""
def fail(*args, **kwargs):
    raise OSError(errno.EMFILE, "too many")
before, usual = os.listdir("/proc/self/fd"), {lacking}
{lacking} = fail
manager = Manager(max_workers=1)
{lacking} = usual
assert not child_pids() and os.listdir("/proc/self/fd") == before
assert manager.run(plain.square, 3).result(PATIENCE_S) == 9
manager.close()
"""
    passes(body, tmp_path, "import errno")


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_the_loss_of_the_interpreter_costs_no_task(tmp_path, how):
    body = f"""
with Manager(max_workers=1) as manager:
    (pid,) = child_pids()
    os.kill(pid, signal.{how})
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "it has ended")
    assert manager.run(plain.square, 3).result(PATIENCE_S) == 9
"""
    passes(body, tmp_path)


@pytest.mark.parametrize("is_killed", [True, False])
def test_an_interpreter_that_does_not_read_a_large_environment_costs_no_task(tmp_path, is_killed):
    """It is stopped; or killed then, while the pipe is full."""
    before = """
import contextlib, traceback

def is_sending():
    lines = [traceback.extract_stack(frame)[-1].line for frame in sys._current_frames().values()]
    return any("has_room.poll" in line for line in lines)
"""
    body = f"""
os.environ["LARGE"] = "x" * 120_000  # more than a pipe holds
with Manager(max_workers=1) as manager:
    (pid,) = child_pids()
    os.kill(pid, signal.SIGSTOP)
    handle = manager.run(plain.square, 3)
    if {is_killed}:
        wait_until(lambda: is_sending() or handle.done(), "the interpreter is sent what it is to do")
        with contextlib.suppress(ProcessLookupError):  # it was found to be stopped, and ended
            os.kill(pid, signal.SIGKILL)
    assert handle.result(PATIENCE_S) == 9
    assert not psutil.pid_exists(pid)
"""
    passes(body, tmp_path, before)


def test_the_loss_of_the_zygote_that_it_became_costs_no_task(tmp_path):
    body = """
with Manager(max_workers=1) as manager:
    zygote = psutil.Process(manager.run(plain.own_pid).result(PATIENCE_S)).ppid()
    os.kill(zygote, signal.SIGKILL)
    assert manager.map(plain.square, range(3)).__next__() == 0
    assert manager.run_task(Task(plain.square, args=(3,), isolate=True)).result(PATIENCE_S) == 9
"""
    passes(body, tmp_path, "from procbackground import Task")


def test_a_program_that_waits_for_all_its_children_costs_no_task(tmp_path):
    body = """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps children
with Manager(max_workers=1) as manager:
    assert manager.run(plain.square, 3).result(PATIENCE_S) == 9
assert not child_pids()
"""
    passes(body, tmp_path)


def test_it_inherits_no_descriptor_and_no_blocked_interrupt(tmp_path):
    body = """
fd = os.open(os.devnull, os.O_RDONLY)
fd = os.dup2(fd, 77, inheritable=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGCHLD])
with Manager(max_workers=1) as manager:
    (pid,) = child_pids()
    wait_until(lambda: "adopted" in "".join(psutil.Process(pid).cmdline()), "it was executed")
    assert "77" not in os.listdir(f"/proc/{pid}/fd")
    assert not manager.run(has, 77).result(PATIENCE_S)
    blocked = manager.run(signal.pthread_sigmask, signal.SIG_BLOCK, []).result(PATIENCE_S)
    assert blocked == {signal.SIGUSR1}
"""
    passes(body, tmp_path)


def test_what_the_user_wants_of_the_fork_server_holds(tmp_path):
    body = """
multiprocessing.set_forkserver_preload(["wave"])
with Manager(max_workers=1) as manager:
    assert not child_pids()
    assert manager.run(is_loaded, "wave").result(PATIENCE_S)
"""
    passes(body, tmp_path, "def is_loaded(name):\n    return name in sys.modules")


def test_options_of_the_interpreter_and_the_path_cross(tmp_path):
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "only_here.py").write_text("answer = 42\n")
    source = f"""
    import sys
    sys.path.append({str(tmp_path / "later")!r})
    from procbackground import Manager

    def seen():
        import only_here
        return sys.flags.optimize, sys.warnoptions, only_here.answer

    if __name__ == "__main__":
        with Manager(max_workers=1) as manager:
            print(manager.run(seen).result())
    """
    script = tmp_path / "script.py"
    script.write_text("\n".join(line[4:] for line in source.splitlines()))
    with scripts.started(["-O", "-W", "error", str(script)], tmp_path) as process:
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert out.strip() == "(1, ['error'], 42)"


OPTIONS = """
import sys
from procbackground import _headstart
options = _headstart._options()
assert "-O" in options or "subprocess" not in sys.modules
from subprocess import _args_from_interpreter_flags
assert options == _args_from_interpreter_flags(), options
"""


@pytest.mark.parametrize("flags", [[], ["-B"], ["-B", "-O"]])
def test_options_are_those_of_multiprocessing_and_the_common_ones_take_no_import(flags):
    environment = {name: value for name, value in scripts.ENVIRONMENT.items() if not name.startswith("PYTHON")}
    environment["PYTHONPATH"] = scripts.ENVIRONMENT.get("PYTHONPATH", "")
    done = subprocess.run(
        [sys.executable, *flags, "-c", OPTIONS], env=environment, capture_output=True, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_it_ends_with_its_parent_also_where_a_fork_of_that_lives_on(tmp_path):
    source = f"""{BEGINNING}
if __name__ == "__main__":
    manager = Manager()
    (pid,) = child_pids()
    if os.fork() == 0:
        print(pid, os.getpid(), flush=True)
        signal.pause()
    signal.pause()
"""
    with running(source, tmp_path) as process:
        assert process.stdout is not None
        interpreter, fork = map(int, process.stdout.readline().split())
        try:
            assert interpreter in family(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)
            wait_until_gone([interpreter], ORPHANS_GONE_S)
        finally:
            os.kill(fork, signal.SIGKILL)


def test_none_is_started_in_a_child_or_for_inline_tasks(tmp_path):
    body = """
with Manager(inline=True) as manager:
    assert manager.run(plain.square, 3).result() == 9
    assert not child_pids()
with multiprocessing.get_context("spawn").Pool(1) as pool:
    assert pool.apply(children_of_a_manager) == 0
"""
    before = """
def children_of_a_manager():
    with Manager():
        return len(child_pids())
"""
    passes(body, tmp_path, before)
