"""Journals whose bytes were changed: damage is a clear error or costs an execution, and gives no wrong result."""

from __future__ import annotations

import os
import random
import sqlite3
import zlib
from contextlib import closing
from operator import mul
from pathlib import Path

import pytest

from procbackground import JournalError, Manager, Task
from procbackground._journal import records as r
from procbackground._journal import schema, statements, values
from procbackground._journal.reader import Journal
from tests.support.gate import PATIENCE_S
from tests.support.tasks import journaled, saving
from tests.support.tasks.saving import lines_of

KEYS = {f"key-{number}": (f"value of {number} ", 1 + number % 40) for number in range(200)}


def execute(path: str, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def look_up(path: str) -> dict[str, statements.Found]:
    """Return what a new manager would find."""
    schema.check_and_prepare(path)
    with schema.explained(path), closing(schema.connect(path)) as connection:
        return statements.enter(connection, [r.Facts(key, "mul", "operator.mul", "mul(...)", 1.0) for key in KEYS], 2)


def test_any_damage_is_an_error_or_costs_executions(tmp_path: Path) -> None:
    whole, path = str(tmp_path / "whole.sqlite"), str(tmp_path / "batch.sqlite")
    with Manager(max_workers=2, journal=whole) as manager:
        for handle in [manager.run_task(Task(mul, args=args, key=key)) for key, args in KEYS.items()]:
            handle.result(PATIENCE_S)
    content = Path(whole).read_bytes()
    chance = random.Random(17)
    errors = found = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 20))):
            at, size = chance.randrange(len(content)), chance.choice((1, 1, 2, 16, 300))
            damaged[at : at + size] = chance.randbytes(len(damaged[at : at + size]))
        for name in os.listdir(tmp_path):
            if name.startswith("batch"):
                os.unlink(tmp_path / name)
        Path(path).write_bytes(damaged)
        try:
            answers = look_up(path)
        except JournalError:
            errors += 1
            continue
        for key, answer in answers.items():
            if answer.form is not None:
                assert values.load(answer.form, answer.data) == mul(*KEYS[key]), key
                found += 1
    assert 50 < errors < 350
    assert found > 5000


def test_result_of_another_key_is_not_given(tmp_path: Path) -> None:
    """A damaged index leads to the row of another task, whose bytes are as they were written."""
    path, log = str(tmp_path / "batch.sqlite"), str(tmp_path / "log")
    results = {"a": 17, "b": "text", "c": None}
    for run in range(2):
        with Manager(max_workers=1, journal=path) as manager:
            for key, value in results.items():
                task = Task(journaled.same, args=(log, value), key=key)
                assert manager.run_task(task).result(PATIENCE_S) == value
        if not run:
            exchange = "UPDATE tasks SET key = CASE key WHEN 'a-' THEN 'b' WHEN 'b-' THEN 'c' ELSE 'a' END"
            execute(path, "UPDATE tasks SET key = key || '-'", exchange)
            with Journal(path) as journal:
                for key in results:
                    with pytest.raises(JournalError, match="is not what was written"):
                        journal.value(key)
    assert lines_of(log) == ["same"] * 6


def test_state_that_another_task_saved_is_not_given(tmp_path: Path) -> None:
    path, log = str(tmp_path / "batch.sqlite"), str(tmp_path / "log")
    with Manager(max_workers=1, journal=path) as manager:
        for key, goal in (("a", 5), ("b", 9)):
            task = Task(saving.count_to, args=(goal, (goal - 1,)), key=key)
            assert manager.run_task(task).exception(PATIENCE_S) is not None
    execute(path, "UPDATE checkpoints SET key = CASE key WHEN 'a' THEN 'c' ELSE 'a' END")
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run_task(Task(saving.count_to, args=(5, (), "kill", log), key="a")).result(PATIENCE_S) == 5
    assert lines_of(log) == ["1", "2", "3", "4", "5"]


def test_text_that_was_damaged_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = str(tmp_path / "batch.sqlite")
    Manager(journal=path).close()
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b"CREATE TABLE tasks", b"CREATE TAB\xd1E tasks"))
    with pytest.raises(JournalError, match="is damaged"):
        Manager(journal=path)
    with Journal(path) as journal, pytest.raises(JournalError, match="is damaged"):
        journal.runs()


def test_file_of_the_first_version_is_used_and_becomes_one_of_this_version(tmp_path: Path) -> None:
    path, log = str(tmp_path / "batch.sqlite"), str(tmp_path / "log")
    tasks = [Task(journaled.same, args=(log, value), key=repr(value)) for value in (17, None)]
    tasks.append(Task(saving.count_to, args=(5, (3,), "kill", log), key="saved"))
    with Manager(max_workers=1, journal=path) as manager:
        for task in tasks:
            manager.run_task(task).exception(PATIENCE_S)
    with closing(sqlite3.connect(path)) as connection:  # as that version wrote it
        connection.create_function("crc32", 1, lambda data: None if data is None else zlib.crc32(data))
        connection.execute("UPDATE tasks SET crc = crc32(result)")
        connection.execute("UPDATE checkpoints SET crc = crc32(state)")
        connection.commit()
        connection.execute("PRAGMA user_version = 1")
    with Journal(path) as journal:
        assert (journal.value("17"), journal.value("None")) == (17, None)
    with Manager(max_workers=1, journal=path) as manager:
        found = [manager.run_task(task) for task in tasks[:2]]
        assert [(each.result(PATIENCE_S), len(each.attempts)) for each in found] == [(17, 0), (None, 0)]
        counting = Task(saving.count_to, args=(5, (), "kill", log), key="saved")
        assert manager.run_task(counting).result(PATIENCE_S) == 5
    assert lines_of(log) == ["same", "same", "1", "2", "3", "4", "5"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
