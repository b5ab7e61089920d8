"""A task may be called anything: wherever its name is shown, it tears no line and no terminal."""

from __future__ import annotations

import io
import logging

import pytest

from procbackground import Task
from procbackground.observers import LoggingObserver, PlainProgressObserver
from tests.support.gate import PATIENCE_S
from tests.support.scripts import run
from tests.support.tasks import failing, plain, printing

NAME = "a\nb\x1b[31mc\r\u202ed\udc80\t名"
SHOWN = "a b [31mc  d  名"


def test_lines_of_a_task_are_tagged_by_its_name_in_one_line(make_manager, capsys):
    manager = make_manager(output="tagged")
    manager.run_task(Task(printing.say, args=("x\ny",), name=NAME)).result(PATIENCE_S)
    assert capsys.readouterr().out.splitlines() == [f"[{SHOWN}] x", f"[{SHOWN}] y"]


def test_what_is_logged_of_a_task_is_one_line(make_manager, caplog):
    caplog.set_level(logging.DEBUG, logger="procbackground")
    plain_lines = io.StringIO()
    manager = make_manager(observer=[LoggingObserver(), PlainProgressObserver(plain_lines)], retry=2)
    manager.run_task(Task(plain.nothing, name=NAME))
    manager.run_task(Task(failing.fail, name=NAME))
    manager.close()
    texts = [record.getMessage() for record in caplog.records]
    assert sum(SHOWN in text for text in texts) > 6
    lines = plain_lines.getvalue().splitlines()
    assert f"procbackground: task {SHOWN} failed: Flaky: broken on purpose" in lines
    assert all(text.isprintable() for text in (*texts, *lines))


def test_a_failure_that_nobody_looked_at_is_one_line(make_manager, caplog):
    manager = make_manager()
    manager.run_task(Task(failing.fail, name=NAME))
    manager.close()
    (text,) = (record.getMessage() for record in caplog.records if "never retrieved" in record.getMessage())
    assert text.startswith(f"task {SHOWN} failed")


def test_a_report_is_text_that_can_be_encoded(make_manager, tmp_path):
    manager = make_manager()
    manager.run_task(Task(failing.fail, name=NAME)).exception(PATIENCE_S)
    report = manager.report()
    assert all(line.isprintable() for line in report.text().splitlines())
    assert f"{SHOWN}: Flaky" in report.text()
    report.html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"<td>{SHOWN}</td>" in page
    assert "\x1b" not in page


def test_what_an_exit_drops_is_one_line(tmp_path):
    source = f"""
        import time
        from procbackground import Manager, Task

        if __name__ == "__main__":
            manager = Manager(1, exit_timeout=0.05)
            manager.run_task(Task(time.sleep, args=(60,), name={NAME!r}))
    """
    ended = run(source, folder=tmp_path)
    lines = [line for line in ended.stderr.split("\n") if line]
    assert any(SHOWN in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_the_screen_of_the_command_shows_a_call_in_one_line():
    pytest.importorskip("click")
    console_module = pytest.importorskip("rich.console")
    from procbackground._cli.screen import render

    worker = {"pid": 7, "task": NAME, "call": f"{NAME}()", "attempt": 1, "since": 1.0, "memory": 1, "cpu_percent": 0.0}
    tasks = dict.fromkeys(("succeeded", "failed", "cancelled", "retried", "running", "queued"), 0)
    status = {
        "name": NAME, "pid": 6, "state": "open", "time": 2.0, "began": 1.0, "tasks": tasks, "queue_age": None,
        "workers": [worker], "max_workers": 1, "memory": 1, "respawned": 0,
    }  # fmt: skip
    console = console_module.Console(file=io.StringIO(), width=120, color_system=None)
    console.print(render(status, 0.0))
    lines = [line.rstrip() for line in console.file.getvalue().split("\n")]
    assert all(line.isprintable() for line in lines)
    assert any(line.endswith(f"{SHOWN}()") for line in lines)


def test_a_message_of_the_command_has_no_more_lines_than_were_meant(capsys):
    pytest.importorskip("click")
    from procbackground._cli.errors import say

    say("one\x1b[2J\ntwo\rthree")
    assert capsys.readouterr().err == "procbackground: one [2J\ntwo three\n"
