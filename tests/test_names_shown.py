"""A task may be called anything: wherever its name is shown, it tears no line and no terminal."""

from __future__ import annotations

import io
import logging

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
