"""`JsonLinesObserver`: one object for each event, whole lines, nothing that JSON has not."""

from __future__ import annotations

import io
import json
import math
import os

import pytest

from procbackground import Task, TaskType, events
from procbackground.observers import JsonLinesObserver
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, plain, surroundings
from tests.support.tasks.odd_errors import UnspeakableError


def refuse(constant):
    raise AssertionError(f"not JSON: {constant}")


def objects_in(text: str) -> list[dict]:
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_a_run_is_written_from_its_opening_to_its_close(make_manager, tmp_path):
    path = tmp_path / "run.jsonl"
    manager = make_manager(observer=JsonLinesObserver(path))
    meta = {"tenant": 7, "path": tmp_path, 3: math.nan, "count": 10**5000, "odd": UnspeakableError()}
    good = manager.run_task(Task(plain.square, args=(3,), meta=meta))
    manager.run_task(Task(failing.fail, args=("two\nlines",), name="naïve", retry=2))
    manager.run(surroundings.report_progress, 2)
    manager.close()
    objects = objects_in(path.read_text(encoding="ascii"))
    assert objects[0]["event"] == "opened"
    assert objects[0]["format"] == 1
    assert objects[-1]["event"] == "manager_closed"
    assert {each["event"] for each in objects[1:]} <= {name.removeprefix("on_") for name in events.BY_METHOD}
    assert all(isinstance(each["time"], float) for each in objects)
    tasks = [each for each in objects if each["event"].startswith("task_")]
    assert {each["id"] for each in tasks} == {1, 2, 3}
    added, *_, succeeded = [each for each in tasks if each["id"] == 1]
    assert added["meta"] == {
        "tenant": 7, "path": repr(tmp_path), "3": None, "count": "<int whose repr fails>",
        "odd": "<UnspeakableError whose repr fails>",
    }  # fmt: skip
    attempt = good.attempts[0]
    assert (succeeded["pid"], succeeded["outcome"], succeeded["exit_code"]) == (attempt.pid, "succeeded", None)
    assert (succeeded["started"], succeeded["ended"]) == (attempt.started, attempt.ended)
    *_, retrying, _, failed = [each for each in tasks if each["id"] == 2]
    assert (retrying["event"], failed["event"]) == ("task_retrying", "task_failed")
    assert failed["task"] == "naïve"
    assert failed["error"] == {"type": "Flaky", "module": failing.__name__, "message": "two\nlines"}
    assert failed["attempt"] == 2
    assert [each["done"] for each in tasks if each["event"] == "task_progress"][-1] == 2


def test_output_is_written_line_by_line_before_the_end_of_its_task(make_manager, tmp_path):
    path = tmp_path / "run.jsonl"
    manager = make_manager(observer=JsonLinesObserver(path), output="capture")
    manager.run(print, "one\nnaïve").result(timeout=PATIENCE_S)
    manager.close()
    objects = objects_in(path.read_text(encoding="ascii"))
    assert [(each["id"], each["line"], each["stream"]) for each in objects if each["event"] == "task_output"] == [
        (1, "one", None),
        (1, "naïve", None),
    ]
    assert [each["event"] for each in objects if each["event"].startswith("task_")][-1] == "task_succeeded"


def test_the_file_can_be_followed(make_manager, gate, tmp_path):
    path = tmp_path / "run.jsonl"
    manager = make_manager(observer=JsonLinesObserver(path, samples=True))
    handle = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    wait_until(lambda: "process_sampled" in path.read_text(), "a sample is written")
    text = path.read_text()
    sample = [each for each in objects_in(text[: text.rindex("\n")]) if each["event"] == "process_sampled"][-1]
    assert sample["pid"] == pid
    assert sample["rss"] > 1_000_000
    gate.release(pid)
    handle.result(timeout=PATIENCE_S)


def test_a_second_run_is_appended_also_by_the_same_observer(make_manager, tmp_path):
    path = tmp_path / "run.jsonl"
    observer = JsonLinesObserver(str(path))
    for _ in range(2):
        manager = make_manager(observer=observer)
        manager.run(plain.nothing)
        manager.close()
    assert [each["event"] for each in objects_in(path.read_text())].count("opened") == 2


def test_it_writes_to_a_stream(make_manager, capsys):
    stream = io.StringIO()
    manager = make_manager(observer=[JsonLinesObserver(stream), "jsonlines"])
    loop = manager.run_task(Task(failing.fail, type=TaskType.LOOP, interval=0.01))
    wait_until(lambda: stream.getvalue().count("task_failed") > 2, "iterations fail")
    manager.close()
    assert loop.cancelled()
    objects = objects_in(stream.getvalue())
    assert {each["id"] for each in objects if "id" in each} == {1}
    assert objects_in(capsys.readouterr().err)[-1]["event"] == "manager_closed"


def test_a_path_that_cannot_be_opened_is_an_error_where_it_is_given(tmp_path):
    with pytest.raises(FileNotFoundError):
        JsonLinesObserver(tmp_path / "no" / "such" / "folder")


def test_a_line_after_a_full_disk_begins_on_its_own(make_manager, tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    observer = JsonLinesObserver(path)
    write, writes = os.write, []

    def short_once(fd, data):
        if fd == observer._fd:
            writes.append(data)
            if len(writes) == 2:
                return write(fd, data[:5])
        return write(fd, data)

    monkeypatch.setattr(os, "write", short_once)
    manager = make_manager(observer=observer)
    manager.run(plain.nothing)
    manager.close()
    lines = path.read_text().splitlines()
    broken = [line for line in lines if not line.endswith("}")]
    assert len(broken) == 1
    assert len([json.loads(line) for line in lines if line.endswith("}")]) == len(lines) - 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_one_error_and_not_one_for_each_event(make_manager, caplog):
    manager = make_manager(observer=JsonLinesObserver("/dev/full"))
    assert list(manager.map(abs, range(-20, 0))) == list(range(20, 0, -1))
    assert manager.close(timeout=PATIENCE_S).left == ()
    assert caplog.messages == [
        "events cannot be written to '/dev/full', and are lost meanwhile: No space left on device"
    ]
    assert caplog.records[0].exc_info is None
