"""`ps` and `top` show what a process is for: its role, and the task that a worker runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from procbackground import Task, TaskType
from procbackground._testing import View
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system has no short names of processes")


def own_title() -> str:
    return title_of("self")


def title_of(pid: int | str) -> str:
    try:
        import setproctitle  # noqa: F401
    except ImportError:
        return Path(f"/proc/{pid}/comm").read_text().strip().removeprefix("pb:")
    return Path(f"/proc/{pid}/cmdline").read_text().strip(" \0").removeprefix("procbackground: ")


def test_a_worker_shows_its_task_and_that_it_is_idle(make_manager, gate):
    manager = make_manager(max_workers=1)
    handle = manager.run_task(Task(stop_at_gate, args=(gate.address,), name="crunch"))
    pid = gate.wait_for_arrival()
    assert title_of(pid) == "crunch"
    if os.environ.get("PROCBACKGROUND_PLATFORM") != "portable":
        assert title_of(psutil.Process(pid).ppid()) == "zygote"
    gate.open()
    handle.result(timeout=PATIENCE_S)
    wait_until(lambda: title_of(pid) == "idle", "the worker shows that it is idle")


def test_tasks_after_a_short_one_are_not_shown_and_after_a_long_one_they_are(make_manager):
    manager = make_manager(max_workers=1)
    run = manager.options(name="named").run
    assert run(own_title).result(timeout=PATIENCE_S) == "named"  # the first call of the function
    assert run(own_title).result(timeout=PATIENCE_S) == "idle"
    run(time.sleep, 0.02).result(timeout=PATIENCE_S)
    assert run(own_title).result(timeout=PATIENCE_S) == "named"


@pytest.mark.parametrize("name", ["été 中文 with quite a long name", "a\nb\0c", ""])
def test_any_name_of_a_task_is_shown_or_left_out(make_manager, gate, name):
    manager = make_manager(max_workers=1)
    handle = manager.run_task(Task(stop_at_gate, args=(gate.address,), name=name))
    pid = gate.wait_for_arrival()
    assert Path(f"/proc/{pid}/comm").read_bytes()
    gate.open()
    handle.result(timeout=PATIENCE_S)


@pytest.mark.parametrize(
    ("name", "shown"), [("crunching 東 numbers", "pb:crunching"), ("crunch", "pb:crunch"), ("a\ud800é", "pb:a?é")]
)
def test_a_short_name_ends_with_a_whole_character(name, shown):
    code = f"from procbackground._worker import title; title._set_comm({name!r}); "
    code += "print(ascii(open('/proc/self/comm', encoding='utf-8').read().strip()))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert ran.stdout.strip() == ascii(shown)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_titles_do_not_depend_on_the_start_method(make_manager, method):
    manager = make_manager(max_workers=1, mp_context=method)
    assert manager.run_task(Task(own_title, name="crunch")).result(timeout=PATIENCE_S) == "crunch"


def test_a_loop_is_shown(make_manager, gate):
    manager = make_manager(max_workers=1)
    loop = manager.run_task(Task(stop_at_gate, args=(gate.address,), name="poll", type=TaskType.LOOP))
    assert title_of(gate.wait_for_arrival()) == "poll"
    gate.open()
    loop.cancel()


def test_the_process_that_made_the_manager_keeps_its_title(make_manager):
    before = Path("/proc/self/comm").read_bytes()
    manager = make_manager()
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4
    assert View(manager).worker_pids
    assert Path("/proc/self/comm").read_bytes() == before
