"""What attempts write to standard output and standard error: captured, relayed or in files, and shown in errors."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from procbackground import (
    InitializerError,
    Manager,
    MemoryLimitError,
    Task,
    TaskTimeoutError,
    TaskType,
    WorkerDiedError,
)
from tests.support.gate import PATIENCE_S, Gate
from tests.support.recorder import Recorder
from tests.support.tasks import printing

METHODS = ["forkserver", "spawn", "fork"]
MakeManager = Callable[..., Manager]

ALL_WAYS = ["python", "python stderr", "descriptor", "C", "process", "process stderr"]


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("method", METHODS)
def test_all_that_an_attempt_writes_is_captured_in_its_order(make_manager: MakeManager, method: str):
    manager = make_manager(mp_context=multiprocessing.get_context(method), output="capture")
    handle = manager.run(printing.say_everywhere)
    handle.result(timeout=PATIENCE_S)
    assert handle.output is not None
    assert handle.output.splitlines() == ALL_WAYS
    assert [attempt.output for attempt in handle.attempts] == [handle.output]


def test_what_c_code_holds_in_its_buffer_belongs_to_its_task(make_manager: MakeManager):
    manager = make_manager(max_workers=1, output="capture")
    handles = [manager.run(printing.puts, text) for text in "abc"]
    assert [(handle.result(timeout=PATIENCE_S), handle.output) for handle in handles] == [
        (None, "a\n"), (None, "b\n"), (None, "c\n")
    ]  # fmt: skip


def test_a_task_may_have_its_own_output_and_the_next_one_in_its_worker_another(make_manager: MakeManager):
    manager = make_manager(max_workers=1)
    for turn in range(3):
        captured = manager.run_task(Task(printing.say, (f"captured {turn}",), output="capture"))
        plain = manager.run(printing.say, f"inherited {turn}")
        assert plain.result(timeout=PATIENCE_S) == f"inherited {turn}"
        assert plain.output is None
        assert captured.output == f"captured {turn}\n"


def test_each_attempt_has_its_output(make_manager: MakeManager):
    handle = make_manager(output="capture", retry=3).run(printing.say_and_fail, "words")
    error = handle.exception(timeout=PATIENCE_S)
    assert [attempt.output for attempt in handle.attempts] == [f"words attempt {number}\n" for number in (1, 2, 3)]
    assert handle.output == "words attempt 3\n"
    assert "what it wrote last:\n  words attempt 3" in "".join(traceback.format_exception(error))


def test_the_last_lines_before_a_death_are_in_its_error(make_manager: MakeManager, tmp_path: Path):
    for output in ("capture", "relay", tmp_path / "death.log"):
        with pytest.raises(WorkerDiedError) as died:
            make_manager(output=output).run(printing.say_and_die, "words").result(timeout=PATIENCE_S)
        assert {*str(died.value.output).splitlines()} <= {"words", "words on stderr"}
        assert "words on stderr" in str(died.value).partition("what it wrote last:\n")[2]


def test_the_last_lines_are_in_the_errors_of_limits(make_manager: MakeManager):
    manager = make_manager(output="capture", timeout=0.5)
    with pytest.raises(TaskTimeoutError, match=r"(?s)what it wrote last:\n  words") as timed_out:
        manager.run(printing.say_and_hang, "words").result(timeout=PATIENCE_S)
    assert timed_out.value.output == "words"
    assert timed_out.value.stack
    handle = manager.run_task(Task(say_and_hoard, ("words",), memory_limit="200MiB", timeout=30))
    with pytest.raises(MemoryLimitError, match="what it wrote last:\n  words"):
        handle.result(timeout=PATIENCE_S)


def say_and_hoard(text: str) -> None:
    print(text)
    held = []
    while True:
        held.append(b"x" * 2**24)
        time.sleep(0.001)


def test_of_much_output_the_middle_is_left_out(make_manager: MakeManager):
    handle = make_manager(output="capture").run(printing.say_much, 300_000)
    handle.result(timeout=PATIENCE_S)
    output = handle.output
    assert output is not None
    assert output.startswith("line 0\nline 1\n")
    assert output.endswith("\nline 299999\n")
    assert "bytes left out" in output
    assert 900_000 < len(output) < 1_200_000


def test_output_is_there_while_the_task_runs(make_manager: MakeManager, gate: Gate):
    handle = make_manager(output="capture").run(printing.say_and_stop, gate.address, "so far")
    gate.wait_for_arrival()
    wait_until(lambda: handle.output == "so far\n")
    gate.open()
    handle.result(timeout=PATIENCE_S)


def test_a_process_that_writes_on_holds_up_nothing(make_manager: MakeManager, gate: Gate):
    manager = make_manager(max_workers=1, output="capture")
    handle = manager.run(printing.say_and_leave_a_process, gate.address)
    handle.result(timeout=PATIENCE_S)
    assert handle.output is not None
    assert "mine\n" in handle.output
    after = manager.run(printing.say, "next")
    after.result(timeout=PATIENCE_S)
    assert after.output == "next\n"


@pytest.mark.parametrize("do", ["close", "replace"])
def test_a_task_may_close_or_replace_its_output(make_manager: MakeManager, tmp_path: Path, do: str):
    manager = make_manager(max_workers=1, output="capture")
    if do == "close":
        handle = manager.run(printing.close_stdout)
    else:
        handle = manager.run(printing.replace_stdout, str(tmp_path / "other"))
    handle.result(timeout=PATIENCE_S)
    assert handle.output == "before\n"
    after = manager.run(printing.say, "next")
    after.result(timeout=PATIENCE_S)
    assert after.output == "next\n"
    if do == "replace":
        assert (tmp_path / "other").read_text() == "elsewhere\n"


def test_isolated_tasks_and_rows_of_a_map_have_their_own(make_manager: MakeManager, tmp_path: Path):
    manager = make_manager()
    isolated = manager.run_task(Task(printing.say, ("alone",), isolate=True, output="capture"))
    isolated.result(timeout=PATIENCE_S)
    assert isolated.output == "alone\n"
    view = manager.options(output=tmp_path / "rows" / "{id}.log")
    assert list(view.map(printing.say, "abc")) == ["a", "b", "c"]
    assert sorted(file.read_text() for file in (tmp_path / "rows").iterdir()) == ["a\n", "b\n", "c\n"]


def test_a_loop_has_the_output_of_its_process(make_manager: MakeManager):
    manager = make_manager(output="capture")
    handle = manager.run_task(Task(printing.say, ("again",), type=TaskType.LOOP, interval=0.01))
    wait_until(lambda: (handle.output or "").count("again\n") > 3)
    assert manager.cancel(timeout=PATIENCE_S)
    assert {*str(handle.output).splitlines()} == {"again"}


def test_lines_are_events(make_manager: MakeManager, recorder: Recorder):
    manager = make_manager(output="capture", observer=recorder)
    handle = manager.run(printing.say_and_fail, "half a line\nand another")
    handle.exception(timeout=PATIENCE_S)
    manager.close()
    lines = [event.line for event in recorder.events("task_output")]
    assert lines == ["half a line", "and another attempt 1"]
    assert recorder.kinds(handle) == ["task_added", "task_started", "task_output", "task_output", "task_failed"]


def test_a_last_line_without_an_end_counts(make_manager: MakeManager, recorder: Recorder):
    manager = make_manager(output="capture", observer=recorder)
    handle = manager.run(printing.say_without_end, "no end")
    handle.result(timeout=PATIENCE_S)
    assert handle.output == "no end"
    assert [event.line for event in recorder.wait_for("task_output")] == ["no end"]


# -- relayed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_relayed_lines_are_there_when_the_result_is(make_manager: MakeManager, method: str, capsys):
    manager = make_manager(mp_context=multiprocessing.get_context(method), output="relay")
    manager.run(printing.say_everywhere).result(timeout=PATIENCE_S)
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [line for line in ALL_WAYS if "stderr" not in line]
    assert captured.err.splitlines() == [line for line in ALL_WAYS if "stderr" in line]


def test_relayed_lines_are_whole_and_tagged(make_manager: MakeManager, capsys):
    manager = make_manager(max_workers=4, output="tagged")
    handles = [manager.run_task(Task(printing.say_halves, (f"line {number}",), name="halves")) for number in range(50)]
    for handle in handles:
        handle.result(timeout=PATIENCE_S)
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(f"[halves] line {number}" for number in range(50))


def test_much_relayed_output_comes_whole(make_manager: MakeManager, capsys):
    make_manager(output="relay").run(printing.say_much, 100_000).result(timeout=PATIENCE_S)
    assert capsys.readouterr().out.splitlines() == [f"line {number}" for number in range(100_000)]


def test_a_parent_without_stdout_loses_no_task(make_manager: MakeManager, monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    assert make_manager(output="relay").run(printing.say, "words").result(timeout=PATIENCE_S) == "words"


# -- files ---------------------------------------------------------------------------------------------------


def test_a_directory_has_a_file_for_each_task_with_all_its_attempts(make_manager: MakeManager, tmp_path: Path):
    (tmp_path / "say_and_fail-1.log").write_text("of an earlier run\n")
    manager = make_manager(output=tmp_path, retry=2)
    failed = manager.run(printing.say_and_fail, "words")
    failed.exception(timeout=PATIENCE_S)
    other = manager.run_task(Task(printing.say, ("a",), name="odd/../name"))
    other.result(timeout=PATIENCE_S)
    assert failed.output is None
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "say_and_fail-1.log": "words attempt 1\nwords attempt 2\n",
        "odd_.._name-2.log": "a\n",
    }


def test_a_file_takes_the_output_of_all(make_manager: MakeManager, tmp_path: Path):
    manager = make_manager(output=tmp_path / "new" / "all.log")
    for text in "abc":
        manager.run(printing.say, text).result(timeout=PATIENCE_S)
    assert (tmp_path / "new" / "all.log").read_text() == "a\nb\nc\n"


def test_a_relative_path_is_of_the_parents_directory(make_manager: MakeManager, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cwd").mkdir()
    manager = make_manager(output="here.log", cwd=tmp_path / "cwd")
    manager.run(printing.say, "a").result(timeout=PATIENCE_S)
    assert (tmp_path / "here.log").read_text() == "a\n"


@pytest.mark.parametrize("type_", [TaskType.ONE_OFF, TaskType.LOOP])
def test_a_file_that_cannot_be_opened_fails_the_task(
    make_manager: MakeManager, tmp_path: Path, type_: TaskType, recorder: Recorder
):
    (tmp_path / "file").write_text("")
    manager = make_manager(max_workers=1, observer=recorder)
    manager.run_task(Task(printing.say, ("a",), type=type_, output=tmp_path / "file" / "below.log"))
    error = recorder.wait_for("task_failed")[0].error
    assert isinstance(error, OSError)
    assert "below.log" in str(error)
    assert manager.run(printing.say, "next").result(timeout=PATIENCE_S) == "next"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk")
def test_a_full_disk_is_the_tasks_own_error_and_no_other_tasks(make_manager: MakeManager):
    manager = make_manager(max_workers=1)
    full: Any = manager.run_task(Task(printing.say, ("a",), output=Path("/dev/full")))
    assert isinstance(full.exception(timeout=PATIENCE_S), OSError)
    assert manager.run(printing.say, "next").result(timeout=PATIENCE_S) == "next"


# -- inherited -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["exit", "kill", "segfault", "abort"])
def test_what_python_wrote_last_to_stderr_is_in_the_error_of_a_death(make_manager: MakeManager, method: str, how: str):
    manager = make_manager(mp_context=multiprocessing.get_context(method), max_workers=1)
    manager.run(printing.tell_stderr, "of an earlier task").result(timeout=PATIENCE_S)
    error = manager.run(printing.tell_stderr_and_end, how).exception(timeout=PATIENCE_S)
    assert isinstance(error, WorkerDiedError)
    shown = [*(f"step {number}" for number in range(42, 50)), "30%", "half a \N{SNOWMAN}"]
    assert str(error.output).splitlines() == shown
    assert str(error).endswith("what it wrote last to sys.stderr:" + "".join(f"\n  {line}" for line in shown))


def test_of_a_task_that_wrote_nothing_the_error_shows_no_other_tasks_lines(make_manager: MakeManager):
    manager = make_manager(max_workers=1)
    manager.run(printing.tell_stderr, "of an earlier task").result(timeout=PATIENCE_S)
    error = manager.run(printing.end_as, "exit").exception(timeout=PATIENCE_S)
    assert isinstance(error, WorkerDiedError)
    assert error.output is None
    assert "sys.stderr" not in str(error)


def test_a_row_has_its_own_last_lines(make_manager: MakeManager):
    rows = make_manager(max_workers=1).map(
        printing.tell_stderr_and_end_at, range(8), [5] * 8, chunksize=8, return_exceptions=True
    )
    died = [*rows][5]
    assert isinstance(died, WorkerDiedError)
    assert died.output == "row 5"


def test_the_last_lines_are_in_the_error_of_a_limit(make_manager: MakeManager):
    handle = make_manager(timeout=0.5).run(printing.tell_stderr_and_hang, "words")
    with pytest.raises(TaskTimeoutError, match=r"what it wrote last to sys.stderr:\n  words") as caught:
        handle.result(timeout=PATIENCE_S)
    assert caught.value.stack


@pytest.mark.parametrize("method", METHODS)
def test_the_last_lines_of_an_initializer_are_in_its_error(make_manager: MakeManager, method: str):
    context = multiprocessing.get_context(method)
    manager = make_manager(mp_context=context, initializer=printing.tell_stderr_and_end, initargs=("exit",))
    with pytest.raises(InitializerError, match=r"(?s)what it wrote last to sys.stderr:.*  step 49\n"):
        manager.run(printing.say, "words").result(timeout=PATIENCE_S)


def test_a_fork_of_the_task_does_not_overwrite_the_tasks_lines(make_manager: MakeManager):
    error = make_manager().run(printing.fork_and_tell_stderr).exception(timeout=PATIENCE_S)
    assert isinstance(error, WorkerDiedError)
    assert error.output == "mine"


def test_inherited_stderr_stays_the_parents_own_terminal(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "from procbackground import Manager\n"
        "from tests.support.tasks.printing import tell_stderr\n"
        "if __name__ == '__main__':\n"
        "    with Manager(max_workers=1) as manager:\n"
        "        print(*manager.run(tell_stderr, 'to the terminal').result(), flush=True)\n"
    )
    parent, child = os.openpty()
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=child, text=True) as run:
        name = os.ttyname(child)
        os.close(child)
        facts, _ = run.communicate(timeout=PATIENCE_S)
        written = os.read(parent, 1000)
        os.close(parent)
    assert (facts.split(), written) == (["2", "True", name], b"to the terminal\r\n")


# -- what is no output ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["captured", "", 7, True])
def test_a_wrong_output_is_refused_at_once(wrong: Any):
    with pytest.raises((TypeError, ValueError), match="inherit, capture, relay, tagged"):
        Task(printing.say, output=wrong)
    with pytest.raises((TypeError, ValueError), match="inherit, capture, relay, tagged"):
        Manager(output=wrong)


def test_a_file_that_cannot_be_opened_leaves_no_large_argument_behind(make_manager: MakeManager, tmp_path: Path):
    (tmp_path / "file").write_text("")
    manager = make_manager(max_workers=1)
    first, second = bytes(2 << 20), b"x" * (2 << 20)
    failed = manager.run_task(Task(len, (first,), output=tmp_path / "file" / "below.log"))
    assert isinstance(failed.exception(timeout=PATIENCE_S), OSError)
    assert manager.run(bytes.count, second, b"x").result(timeout=PATIENCE_S) == len(second)
