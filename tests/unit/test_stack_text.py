"""The raw stacks that `faulthandler` writes, as those of a traceback."""

from __future__ import annotations

import os

import procbackground
from procbackground._supervisor.stack_text import readable
from procbackground._supervisor.stacks import shorten

OURS = os.path.dirname(procbackground.__file__)
LIBRARY = os.path.dirname(os.__file__)


def test_garbage_is_no_stack():
    for raw in ("", "\n", "Fatal Python error: Aborted\n", '  File "x.py", line 1 in f\n', "\x00\xff"):
        assert readable(raw) == ""


def test_frames_turn_round_and_lose_what_starts_a_process():
    raw = (
        "Current thread 0x00007f0000000000 (most recent call first):\n"
        '  File "/nowhere/user.py", line 7 in <lambda>\n'
        f'  File "{OURS}/joblib.py", line 5 in call\n'
        '  File "/nowhere/user.py", line ??? in main\n'
        f'  File "{OURS}/_worker/execute.py", line 100 in call\n'
        f'  File "{LIBRARY}/multiprocessing/spawn.py", line 10 in _main\n'
        '  File "<string>", line 1 in <module>\n'
    )
    assert readable(raw).splitlines() == [
        '  File "/nowhere/user.py", line ?, in main',
        f'  File "{OURS}/joblib.py", line 5, in call',
        *([f"    {source}"] if (source := _line_of(f"{OURS}/joblib.py", 5)) else []),
        '  File "/nowhere/user.py", line 7, in <lambda>',
    ]


def test_the_thread_of_the_task_comes_first_and_idle_threads_of_ours_are_left_out():
    raw = (
        "Thread 0x00007f0000000001 [helper] (most recent call first):\n"
        '  File "/nowhere/helper.py", line 1 in help\n'
        f'  File "{LIBRARY}/threading.py", line 982 in run\n'
        "\n"
        "Thread 0x00007f0000000002 (most recent call first):\n"
        f'  File "{OURS}/_worker/relay.py", line 1 in send\n'
        f'  File "{LIBRARY}/threading.py", line 982 in run\n'
        "\n"
        "Current thread 0x00007f0000000003 (most recent call first):\n"
        '  File "/nowhere/user.py", line 7 in task\n'
        f'  File "{OURS}/_worker/execute.py", line 100 in call\n'
    )
    assert readable(raw).splitlines() == [
        '  File "/nowhere/user.py", line 7, in task',
        "Another thread:",
        '  File "/nowhere/helper.py", line 1, in help',
    ]


def test_what_is_below_the_call_is_left_out():
    helper = (
        "Thread 0x00007f0000000001 [helper] (most recent call first):\n"
        '  File "/nowhere/helper.py", line 1 in help\n'
        f'  File "{LIBRARY}/threading.py", line 982 in run\n'
        "\n"
    )
    task = (
        "Current thread 0x00007f0000000003 (most recent call first):\n"
        '  File "<string>", line 7 in task\n'
        f'  File "{OURS}/_worker/execute.py", line 100 in call\n'  # of a manager in the task with `inline=True`
        '  File "/nowhere/user.py", line 7 in task\n'
        f'  File "{OURS}/_worker/execute.py", line 100 in call\n'
    )
    below = f'  File "{OURS}/_worker/main.py", line 107 in run\n  File "<string>", line 1 in <module>\n'
    end = "\nExtension modules: numpy (total: 1)\n"
    assert shorten(f"{helper}{task}{below}{end}") == f"{helper}{task}{end}"
    assert readable(f"{helper}{task}{below}{end}") == readable(f"{helper}{task}{end}")
    assert shorten(task + below) == task
    for without_a_call in (helper, below, "", "\n", "Fatal Python error: Aborted", "\x00\xff\n"):
        assert shorten(without_a_call) == without_a_call


def test_a_function_of_python_c_is_the_user_s():
    raw = (
        "Current thread 0x00007f0000000003 (most recent call first):\n"
        '  File "<string>", line 7 in task\n'
        f'  File "{OURS}/_worker/execute.py", line 100 in call\n'
        f'  File "{OURS}/_worker/main.py", line 107 in run\n'
        '  File "<string>", line 1 in <module>\n'
    )
    assert readable(raw) == '  File "<string>", line 7, in task'


def _line_of(path: str, number: int) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()[number - 1].strip()
