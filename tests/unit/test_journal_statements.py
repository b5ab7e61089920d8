"""Groups of entries of any length → few statements, which are filled up with rows that are ignored."""

from __future__ import annotations

from contextlib import closing

import pytest

from procbackground._journal import records as r
from procbackground._journal import schema, statements

RUN = 1


@pytest.fixture
def connection(tmp_path):
    path = str(tmp_path / "batch.sqlite")
    schema.check_and_prepare(path)
    with closing(schema.connect(path)) as opened:
        yield opened


def facts_of(keys):
    return [r.Facts(key, "mul", "operator.mul", f"mul({key})", 1.0) for key in keys]


def states_of(connection):
    return dict(connection.execute("SELECT key, state FROM tasks"))


@pytest.mark.parametrize("count", [*range(1, 20), statements.MAX_ROWS, statements.MAX_ROWS + 1, 2100])
def test_all_tasks_of_a_group_are_written_and_no_others(connection, count):
    facts = facts_of(map(str, range(count)))
    statements_run: list[str] = []
    connection.set_trace_callback(statements_run.append)
    assert statements.enter(connection, facts, RUN) == {}
    assert states_of(connection) == {str(number): "queued" for number in range(count)}
    successes = [(each, 7, 2.0, 3.0, None, None, b"value" + each.key.encode(), None) for each in facts]
    statements.write(connection, [r.Succeeded(successes)], RUN)
    connection.set_trace_callback(None)
    assert len(statements_run) == 1 + 2 * (1 + (count - 1) // statements.MAX_ROWS)
    assert states_of(connection) == {str(number): "succeeded" for number in range(count)}
    found = statements.enter(connection, [*facts, *facts_of(["new"])], RUN + 1)
    assert {key: answer.data for key, answer in found.items()} == {
        each.key: b"value" + each.key.encode() for each in facts
    }
    assert states_of(connection)["new"] == "queued"


def test_what_an_earlier_run_left_is_entered_again_and_what_this_run_entered_is_not(connection):
    old, new = facts_of(["old"]), facts_of(["new"])
    statements.enter(connection, old, RUN)
    statements.write(connection, [r.Started(old[0], 1, 7, 2.0)], RUN)
    later = statements.begin_run(connection, (5.0, 8, "host", "command", "1"))
    assert statements.enter(connection, [*old, *new], later) == {}
    assert states_of(connection) == {"old": "queued", "new": "queued"}
    assert connection.execute("SELECT key, attempt, outcome FROM attempts").fetchall() == [("old", 1, "interrupted")]


def test_task_that_is_withdrawn_keeps_a_result_and_what_a_later_run_entered(connection):
    done, waits, replaced = facts_of(["done", "waits", "replaced"])
    statements.enter(connection, [done, waits, replaced], RUN)
    statements.write(connection, [r.Succeeded([(done, 7, 2.0, 3.0, None, None, b"", None)])], RUN)
    connection.execute("UPDATE tasks SET run = 2 WHERE key = 'replaced'")
    statements.withdraw(connection, [r.Withdrawn(each, r.CANCELLED, None) for each in (done, waits, replaced)], RUN)
    assert states_of(connection) == {"done": "succeeded", "waits": "cancelled", "replaced": "queued"}
