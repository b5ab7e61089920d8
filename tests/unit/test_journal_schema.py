"""The tables of a journal are as their docstring says, for programs that read the file."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from procbackground._journal import records, schema


def columns_of(path: Path) -> dict[str, set[str]]:
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} - {"id"} for (table,) in tables
        }


def test_every_table_and_column_is_described(tmp_path: Path) -> None:
    schema.check_and_prepare(str(tmp_path / "batch.sqlite"))
    found = columns_of(tmp_path / "batch.sqlite")
    text = schema.__doc__ or ""
    assert set(re.findall(r"`(\w+)` has ", text)) == set(found)
    described = [re.split(r"  |$", line.strip())[0] for line in text.splitlines() if re.match(r"    \w", line)]
    assert {name for names in described for name in names.split(", ")} == found["tasks"]


def test_what_is_written_is_what_is_there(tmp_path: Path) -> None:
    schema.check_and_prepare(str(tmp_path / "batch.sqlite"))
    found = columns_of(tmp_path / "batch.sqlite")
    assert set(records.TASK_COLUMNS) == found["tasks"]
    assert set(records.ATTEMPT_COLUMNS) == found["attempts"]
    assert set(records.CHECKPOINT_COLUMNS) == found["checkpoints"]
