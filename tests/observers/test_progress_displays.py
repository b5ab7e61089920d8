"""`progress=True`, and the observers that show progress: plain lines, tqdm and rich."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from collections.abc import Sequence

import pytest

from procbackground import Task
from procbackground.observers import PlainProgressObserver, live, names, runs
from procbackground.observers.logs_above import LogsAbove
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import failing, plain, reporting


def nap(number: int) -> int:
    time.sleep(0.01)
    return number


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def no_color(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


# -- what is chosen ---------------------------------------------------------------------------------------


def test_the_choice_follows_the_terminal_and_what_is_installed(monkeypatch, no_color):
    def without(*modules):
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert names.display() == "plain"
    monkeypatch.setattr(sys, "stderr", None)
    assert names.display() == "plain"
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert names.display() == "plain"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert names.display() == "plain"
    monkeypatch.setenv("TERM", "xterm")
    without("rich", "rich.live", "tqdm", "tqdm.auto")
    assert names.display() == "plain"


def test_the_choice_prefers_rich_to_tqdm(monkeypatch, no_color):
    pytest.importorskip("rich")
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert names.display() == "rich"
    monkeypatch.setitem(sys.modules, "rich.live", None)
    assert names.display() == "tqdm"
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert names.display() == "plain"


def test_a_notebook_gets_tqdms_widget(monkeypatch):
    pytest.importorskip("tqdm")

    class ZMQInteractiveShell:
        pass

    class IPython:
        get_ipython = staticmethod(ZMQInteractiveShell)

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert names.display() == "tqdm"


# -- plain lines ------------------------------------------------------------------------------------------


def test_a_manager_shows_progress_as_plain_lines_in_a_pipe(make_manager, capsys):
    manager = make_manager(progress=True)
    for each in range(10):
        manager.run(plain.square, each)
    manager.run_task(Task(failing.fail, args=("\x1b[31mred\r\n",), name="bad\nname"))
    manager.close()
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("procbackground: ") for line in lines)
    assert not any(re.search(r"[\x00-\x1f\x7f]", line) for line in lines)
    assert "procbackground: task bad name failed: Flaky:  [31mred" in lines
    assert lines[-1].startswith("procbackground: 11/11 tasks, 1 failed, ")


def test_plain_lines_come_now_and_then(make_manager):
    stream = io.StringIO()
    observer = PlainProgressObserver(stream, each=0.01)
    manager = make_manager(observer=observer)
    for each in range(30):
        manager.run(nap, each)
    manager.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) > 2
    assert lines[-1].startswith("procbackground: 30/30 tasks")
    assert any(" left" in line for line in lines)


@pytest.mark.parametrize("options", [{}, {"chunksize": 1}, {"chunksize": 7}, {"chunksize": 3, "buffersize": 4}])
@pytest.mark.parametrize("items", [range(100), "unknown"])
def test_a_map_shows_how_many_items_are_done(manager, capsys, options, items):
    rows = iter(range(100)) if items == "unknown" else items
    assert list(manager.map(plain.square, rows, progress=True, **options)) == [number**2 for number in range(100)]
    *_, line = capsys.readouterr().err.splitlines()
    of_total = "" if items == "unknown" else "/100"
    assert line.startswith(f"procbackground: square: 100{of_total} items, ")


def test_a_map_that_fails_shows_how_far_it_came(manager, capsys):
    with pytest.raises(failing.Flaky):
        list(manager.map(failing.fail_if_negative, [1, 2, -3], progress=True))
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("procbackground: fail_if_negative: ")


def test_a_map_of_a_manager_that_shows_progress_has_no_bar_of_its_own(make_manager, capsys):
    manager = make_manager(progress=True)
    assert len(list(manager.map(plain.square, range(50), progress=True))) == 50
    manager.close()
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("procbackground: 50/50 tasks")


def test_without_progress_nothing_is_shown(make_manager, capsys):
    manager = make_manager()
    list(manager.map(plain.square, range(50)))
    manager.close()
    assert capsys.readouterr().err == ""


# -- the words --------------------------------------------------------------------------------------------


def test_cancelled_tasks_do_not_count_as_work_that_is_done():
    class Event:
        handle, pid, attempt, time = "handle", 1, 1, 0.0
        task = Task(plain.nothing)

    run = runs.Run()
    for _ in range(1000):
        run.take_added(Event)
    run.began_s -= 10
    for _ in range(20):
        run.take_end(Event, "succeeded")
    for _ in range(900):
        run.take_end(Event, "cancelled")
    assert run.rate() == pytest.approx(2, rel=0.1)
    assert run.seconds_left() == pytest.approx(40, rel=0.1)
    assert run.summary().startswith("920/1000 tasks, 900 cancelled, ")


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0/s"), (0.31149, "0.311/s"), (17.46, "17.5/s"), (999.6, "1,000/s"), (10640.5, "10,600/s")],
)
def test_a_rate_is_written_in_three_digits_and_without_an_exponent(rate, text):
    assert runs.per_second(rate) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1234567, "1234567"), (2e6, "2000000"), (0.1 + 0.2, "0.3"), (1e30, "1e+30")]
)
def test_progress_is_written_in_full(value, text):
    assert runs.number(value) == text


# -- tqdm -------------------------------------------------------------------------------------------------


@pytest.fixture
def tqdm(monkeypatch):
    module = pytest.importorskip("tqdm")
    monkeypatch.setattr(module.tqdm, "monitor_interval", 0)  # a thread that would stay for good
    return module


def test_tqdm_shows_all_tasks_and_the_failed_ones(make_manager, tqdm):
    from procbackground.observers import TqdmObserver

    stream = io.StringIO()
    manager = make_manager(observer=TqdmObserver(file=stream, ncols=100, ascii=True))
    list(manager.map(plain.square, range(200)))
    for _ in range(3):
        manager.run(failing.fail)
    manager.close()
    last = stream.getvalue().rstrip("\n").split("\r")[-1]
    assert "203/203" in last
    assert "failed=3" in last


def test_a_map_has_a_bar_of_tqdm(monkeypatch, make_manager, tqdm, no_color):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "rich.live", None)
    manager = make_manager()
    assert len(list(manager.map(plain.square, range(500), progress=True))) == 500
    assert "500/500" in terminal.getvalue().split("\r")[-1]


# -- rich -------------------------------------------------------------------------------------------------


@pytest.fixture
def console(no_color):
    """A console of rich on a terminal of 100 columns, which is a string."""
    module = pytest.importorskip("rich.console")
    return module.Console(file=Terminal(), force_terminal=True, width=100, height=30)


def test_rich_shows_a_bar_a_line_for_each_task_and_failures(make_manager, console, gate):
    from procbackground.observers import RichProgressObserver

    manager = make_manager(observer=RichProgressObserver(console))
    manager.run_task(Task(failing.fail, args=("no [ink] left",), name="print [all]"))
    handle = manager.run_task(Task(reporting.count_then_stop, args=(30, gate.address), name="count [up]"))
    pid = gate.wait_for_arrival()
    text = console.file.getvalue
    line = re.compile(r"count \[up\].*30/30.*0:00:\d\d.*MiB.*% CPU")
    wait_until(lambda: line.search(text()) is not None, "its line is shown")
    assert "failed: print [all]: Flaky: no [ink] left" in text()
    gate.release(pid)
    handle.result(timeout=PATIENCE_S)
    manager.close()
    last = text().rsplit("100%", 1)[-1]
    assert "2/2 tasks, 1 failed" in last
    assert "count [up]" not in last


def test_rich_writes_plain_lines_where_there_is_no_terminal(make_manager, monkeypatch, console):
    from rich.console import Console

    from procbackground.observers import RichProgressObserver

    pipe = io.StringIO()
    monkeypatch.setenv("NO_COLOR", "1")
    observers = [RichProgressObserver(console), RichProgressObserver(Console(file=pipe))]
    manager = make_manager(observer=observers)
    manager.run(plain.square, 2)
    manager.close()
    for text in (console.file.getvalue(), pipe.getvalue()):
        assert re.fullmatch(r"procbackground: 1/1 tasks, .*\n", text)


def test_rich_draws_nothing_in_a_pipe_though_colours_are_forced(make_manager, monkeypatch, no_color):
    pytest.importorskip("rich")
    from procbackground.observers import RichProgressObserver

    pipe = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", pipe)
    manager = make_manager(observer=RichProgressObserver())
    manager.run(plain.square, 2)
    manager.close()
    assert re.fullmatch(r"procbackground: 1/1 tasks, .*\n", pipe.getvalue())


def test_log_lines_appear_above_the_display_and_go_back_afterwards(make_manager, monkeypatch, no_color, gate):
    pytest.importorskip("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logging.StreamHandler()
    logger = logging.getLogger("tests.above")
    logger.addHandler(handler)
    try:
        manager = make_manager(observer="rich")
        manager.run(reporting.count_then_stop, 3, gate.address)
        pid = gate.wait_for_arrival()
        wait_until(lambda: handler.stream is not terminal, "the handler writes above the display")
        logger.warning("the ink is low")
        gate.release(pid)
        manager.close()
        assert handler.stream is sys.stderr is terminal
    finally:
        logger.removeHandler(handler)
    assert "the ink is low\n" in terminal.getvalue()


def test_handlers_of_loguru_are_moved_and_moved_back():
    from loguru import logger

    old, new = io.StringIO(), io.StringIO()
    sink = logger.add(old, format="{message}")
    try:
        logs = LogsAbove()
        logs.redirect({old: new})
        logger.info("above")
        logs.restore()
        logger.info("as before")
    finally:
        logger.remove(sink)
    assert (new.getvalue(), old.getvalue()) == ("above\n", "as before\n")


def test_a_map_has_a_bar_of_rich(monkeypatch, make_manager, no_color):
    pytest.importorskip("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    manager = make_manager()
    assert len(list(manager.map(plain.square, range(500), progress=True))) == 500
    assert "500/500" in terminal.getvalue()
    assert sys.stderr is terminal


def test_managers_and_maps_that_run_at_once_share_one_display(make_manager, monkeypatch, no_color, gate):
    pytest.importorskip("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    first, second, third = make_manager(progress=True), make_manager(progress=True), make_manager()
    handles = [each.run(reporting.count_then_stop, 3, gate.address) for each in (first, second)]
    pids = {gate.wait_for_arrival() for _ in handles}
    assert len(list(third.map(plain.square, range(50), progress=True))) == 50
    for number in range(4):
        second.run(plain.square, number)
    frame = re.compile(r"0/1 tasks, 1 running.*\n.*\n.*4/5 tasks, 1 running")
    wait_until(lambda: frame.search(terminal.getvalue()) is not None, "both are drawn")
    for pid in pids:
        gate.release(pid)
    first.close()
    wait_until(lambda: "1/1 tasks" in terminal.getvalue(), "the first one has ended")
    assert sys.stderr is not terminal
    second.close()
    wait_until(lambda: sys.stderr is terminal, "the second one has ended")
    screen = screen_of(terminal.getvalue())
    assert [re.findall(r"\d+/\d+", line) for line in screen] == [["50/50"], ["1/1"], ["5/5"]]


def screen_of(text: str, before: Sequence[str] = ("",)) -> list[str]:
    """Return the lines that a terminal shows at last, which has room for all, and has shown these `before`."""
    lines, row = [*before], len(before) - 1
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part[0] not in "\r\x1b":
            lines[row] += part
    return [line for line in lines if line.strip()]


def test_a_display_that_a_narrower_terminal_has_wrapped_is_erased_as_a_whole(monkeypatch):
    console_module = pytest.importorskip("rich.console")
    monkeypatch.setattr(live, "REFRESHES", 0.001)  # only prints draw it
    terminal = Terminal()
    console = console_module.Console(file=terminal, force_terminal=True, width=200, height=40)
    hide = live.show(console, lambda: "\n".join(["a" * 150, "b" * 60, "c" * 9]))
    console.print("one")
    assert [len(line) for line in screen_of(terminal.getvalue())] == [3, 150, 60, 9]
    wrapped = [line[at : at + 60] for line in screen_of(terminal.getvalue()) for at in range(0, len(line), 60)]
    length = len(terminal.getvalue())
    console.width = 60
    console.print("two")
    console.print("three")
    hide()
    screen = screen_of(terminal.getvalue()[length:], wrapped)
    assert screen == ["one", "two", "three", "a" * 60, "a" * 60, "a" * 30, "b" * 60, "c" * 9]


@pytest.mark.parametrize("shown_by", ["manager", "map"])
def test_a_display_of_rich_leaves_room_for_what_the_terminal_echoes(monkeypatch, make_manager, no_color, shown_by):
    pytest.importorskip("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    manager = make_manager(progress=shown_by == "manager")
    assert len(list(manager.map(plain.square, range(500), progress=True))) == 500
    manager.run_task(Task(failing.fail, args=("no ink left " * 20,))).exception(timeout=PATIENCE_S)
    manager.close()
    lines = re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()))
    assert 90 < max(map(len, lines)) <= 100 - len("^C^C")


def test_progress_works_with_processes_of_a_real_script(tmp_path):
    from tests.support.scripts import run

    ended = run(
        """
        from procbackground import Manager

        if __name__ == "__main__":
            with Manager(2, progress=True) as manager:
                print(sum(manager.map(abs, range(100))))
        """,
        folder=tmp_path,
    )
    assert ended.stdout == "4950\n"
    assert re.fullmatch(r"(procbackground: .*\n)*procbackground: 100/100 tasks, .*\n", ended.stderr)
