"""Managers with a journal: finished work is not done again, whatever ended the run before."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from concurrent.futures import CancelledError, wait
from functools import partial

import pytest

from procbackground import JournalError, Manager, Task, TaskTimeoutError, TaskType, WorkerDiedError
from procbackground._journal.reader import Journal
from procbackground._state.job import SETTLED, KeyedJob
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import gated, journaled, plain, saving
from tests.support.tasks.saving import lines_of


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "batch.sqlite")


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


def entries_of(path):
    with Journal(path) as journal:
        return list(journal.entries())


def test_finished_tasks_give_their_stored_results_in_any_order(path, log):
    with Manager(max_workers=2, journal=path) as manager:
        handles = [manager.run(journaled.counted, log, number) for number in range(20)]
        assert [handle.result(PATIENCE_S) for handle in handles] == [number * number for number in range(20)]
        assert all(len(handle.attempts) == 1 for handle in handles)
    with Manager(max_workers=2, journal=path) as manager:
        handles = [manager.run(journaled.counted, log, number) for number in reversed(range(25))]
        assert [handle.result(PATIENCE_S) for handle in handles] == [number * number for number in reversed(range(25))]
        assert [len(handle.attempts) for handle in handles] == [1] * 5 + [0] * 20
        stats = manager.stats()
        assert (stats.added, stats.succeeded, stats.queued) == (25, 25, 0)
    assert sorted(map(int, lines_of(log))) == list(range(25))
    assert os.listdir(os.path.dirname(path)) in (["batch.sqlite", "log"], ["log", "batch.sqlite"])


def test_every_way_of_giving_work_is_keyed_alike(path, log):
    with Manager(max_workers=2, journal=path) as manager:
        assert list(manager.map(partial(journaled.counted, log), range(4), chunksize=3)) == [0, 1, 4, 9]
        assert manager.run(partial(journaled.counted, log), 2).result(PATIENCE_S) == 4
        tasks = [Task(partial(journaled.counted, log), args=(number,)) for number in range(6)]
        assert sorted(handle.result() for handle in manager.stream(tasks)) == [0, 1, 4, 9, 16, 25]
        view = manager.options(timeout=30, retry=2)
        assert list(view.map(partial(journaled.counted, log), range(6), buffersize=2)) == [0, 1, 4, 9, 16, 25]
        assert view.submit(partial(journaled.counted, log), 5).result(PATIENCE_S) == 25
    assert sorted(lines_of(log)) == list("012345")


@pytest.mark.parametrize("size", [0, 100, 100_000, 3_000_000])
def test_results_of_any_size_come_back(path, log, size):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(size, dtype="uint8")
    for run in range(2):
        with Manager(max_workers=1, journal=path) as manager:
            found = manager.run_task(Task(journaled.same, args=(log, [array, "x" * size]), key="k")).result(PATIENCE_S)
            assert (found[0] == array).all()
            assert found[1] == "x" * size
            if run:
                found[0][:1] = 7  # as writable as one that has just come
    assert lines_of(log) == ["same"]


@pytest.mark.parametrize("value", [None, 0, "", {"a": {1, 2}}, journaled.Point(1, 2.0), ValueError("a value")])
def test_results_of_any_kind_come_back(path, log, value):
    for _ in range(2):
        with Manager(max_workers=1, journal=path) as manager:
            found = manager.run(journaled.same, log, value).result(PATIENCE_S)
            assert repr(found) == repr(value)
    assert lines_of(log) == ["same"]


def test_what_failed_runs_again_and_its_record_says_so(path, log, tmp_path):
    flag = tmp_path / "flag"
    for is_mended in (False, False, True, True):
        if is_mended:
            flag.touch()
        with Manager(max_workers=1, journal=path) as manager:
            handle = manager.run(journaled.fail_unless, log, str(flag), 3)
            if is_mended:
                assert handle.result(PATIENCE_S) == 3
            else:
                with pytest.raises(FileNotFoundError):
                    handle.result(PATIENCE_S)
                assert entries_of(path)[0].state == "failed"
                assert entries_of(path)[0].error_type == "FileNotFoundError"
                assert "No such file" in entries_of(path)[0].error
                assert "fail_unless" in entries_of(path)[0].traceback
    assert lines_of(log) == ["3"] * 3
    with Journal(path) as journal:
        assert journal.counts() == {"succeeded": 1}
        assert [(each.run, each.outcome) for each in journal.past_attempts()] == [(1, "raised"), (2, "raised")]
        assert len(journal.runs()) == 4
        assert all(run.ended for run in journal.runs())


@pytest.mark.parametrize(
    ("how", "outcome", "exit_code"), [("raise", "raised", None), ("kill", "died", -9), ("exit", "died", 3)]
)
def test_attempts_that_are_retried_are_recorded(path, how, outcome, exit_code):
    with Manager(max_workers=1, journal=path, retry=2) as manager:
        assert manager.run(journaled.fail_once, how).result(PATIENCE_S) == how
        with Journal(path) as journal:
            (last,) = journal.entries()
            (first,) = journal.past_attempts(last.key)
    assert (first.attempt, first.outcome, first.exit_code) == (1, outcome, exit_code)
    assert (last.attempt, last.outcome, last.state) == (2, "succeeded", "succeeded")
    assert first.started <= first.ended <= last.started <= last.ended
    assert first.pid != last.pid


def test_deaths_and_timeouts_are_recorded_and_not_taken_for_results(path):
    with Manager(max_workers=2, journal=path, grace=0.1) as manager:
        dead = manager.run(os._exit, 5)
        late = manager.run_task(Task(plain.pause, args=(60,), timeout=0.05))
        over = manager.run_task(Task(plain.pause, args=(61,), deadline=0.05))
        for handle, error in ((dead, WorkerDiedError), (late, TaskTimeoutError), (over, TaskTimeoutError)):
            with pytest.raises(error):
                handle.result(PATIENCE_S)
        found = {entry.command: (entry.state, entry.outcome) for entry in entries_of(path)}
    assert found["posix._exit(5)"] == ("failed", "died")
    assert found["tests.support.tasks.plain.pause(60)"] == ("failed", "timed_out")
    assert found["tests.support.tasks.plain.pause(61)"] in [
        ("failed", "timed_out"),
        ("failed", None),  # it may not have begun
        ("queued", None),  # nor have been looked up in the journal
    ]


def test_the_start_is_recorded_before_the_end(path, log, gate):
    with Manager(max_workers=1, journal=path) as manager:
        handle = manager.run(journaled.counted_and_held, log, gate.address)
        waiting = manager.run(pow, 2, 3)
        pid = gate.wait_for_arrival()
        wait_until(lambda: entries_of(path)[0].state == "running", "its start in the journal")
        running, queued = entries_of(path)
        assert (running.pid, running.attempt, running.ended) == (pid, 1, None)
        assert queued.state == "queued"
        gate.open()
        wait([handle, waiting], PATIENCE_S)
        assert [entry.state for entry in entries_of(path)] == ["succeeded", "succeeded"]


def test_a_done_handle_is_in_the_file(path):
    with Manager(max_workers=2, journal=path) as manager:
        for number in range(30):
            handle = manager.run(plain.square, number)
            handle.result(PATIENCE_S)
            assert entries_of(path)[-1].command.endswith(f"square({number})")
            assert entries_of(path)[-1].state == "succeeded"


def test_an_attempt_has_ended_before_the_journal_has_it(path, log, gate):
    """Nobody sees a task that has no attempt while another program holds the file."""
    with Manager(max_workers=1, journal=path) as manager:
        handle = manager.run(journaled.counted_and_held, log, gate.address)
        pid = gate.wait_for_arrival()
        wait_until(lambda: entries_of(path)[0].state == "running", "its start in the journal")
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        gate.release(pid)
        seen = []
        wait_until(lambda: seen.append(handle.attempts) or seen[-1][0].outcome is not None, "the end of its attempt")
        assert {len(attempts) for attempts in seen} == {1}
        assert (seen[-1][0].outcome, seen[-1][0].pid, handle.done()) == ("succeeded", pid, False)
        holder.execute("ROLLBACK")
        holder.close()
        handle.result(timeout=PATIENCE_S)
        assert handle.attempts == seen[-1]
    (entry,) = entries_of(path)
    assert (entry.attempt, entry.pid, entry.started, entry.ended) == (
        1, pid, seen[-1][0].started, seen[-1][0].ended,
    )  # fmt: skip


def test_many_short_tasks_end_each_with_its_own_value_and_record(path):
    """Their ends come in groups, also those of tasks that others follow."""
    with Manager(max_workers=2, journal=path) as manager:
        handles = [manager.run(plain.square, number % 300) for number in range(600)]
        assert [handle.result(PATIENCE_S) for handle in handles] == [(number % 300) ** 2 for number in range(600)]
        assert [len(handle.attempts) for handle in handles[:300]] == [1] * 300
        stats = manager.stats()
        assert (stats.succeeded, stats.failed, stats.queued, stats.running) == (600, 0, 0, 0)
    entries = entries_of(path)
    assert {entry.state for entry in entries} == {"succeeded"}
    assert len(entries) == 300
    assert all(entry.pid and entry.ended >= entry.started and entry.outcome == "succeeded" for entry in entries)


def test_keys_of_the_user_name_the_work(path, log, caplog):
    with Manager(max_workers=2, journal=path) as manager:
        first = manager.run_task(Task(journaled.counted, args=(log, 3), key="work"))
        assert first.result(PATIENCE_S) == 9
        other = manager.run_task(Task(journaled.counted, args=(log, 4), key="work"))
        assert other.result(PATIENCE_S) == 9  # the same work, by its key
        odd = manager.options(key="na\udcffme\n").run(journaled.counted, log, 5)
        assert odd.result(PATIENCE_S) == 25
        with pytest.raises(ValueError, match="one key"):
            manager.options(key="all").map(plain.square, [1, 2])
        assert "gets it" not in caplog.text
        assert manager.run_task(Task(plain.square, args=(4,), key="work")).result(PATIENCE_S) == 9
        wait_until(lambda: "gets it" in caplog.text, "a warning of another function")
    assert sorted(lines_of(log)) == ["3", "5"]
    for key in ("", 3, b"k"):
        with pytest.raises(TypeError, match="key must be a str"):
            Task(pow, key=key)  # type: ignore[arg-type]


def test_arguments_that_give_no_key_are_a_clear_error(path):
    nested: list = []
    for _ in range(300):
        nested = [nested]
    with Manager(max_workers=1, journal=path) as manager:
        with pytest.raises(JournalError, match=r"Task\(key=...\)"):
            manager.run(plain.echo, nested).result(PATIENCE_S)
        assert manager.run_task(Task(len, args=(nested,), key="deep")).result(PATIENCE_S) == 1


def test_loops_are_not_recorded(path, gate):
    with Manager(max_workers=1, journal=path) as manager:
        manager.run_task(Task(looping_once, args=(gate.address,), type=TaskType.LOOP, key="k"))
        gate.wait_for_arrival()
        gate.open()
        manager.cancel()
    assert not os.path.exists(path) or entries_of(path) == []


def looping_once(address):
    gated.stop_then_do(address)


# -- one key given several times at once -----------------------------------------------------------------------


def test_tasks_of_one_key_at_once_are_one_execution(path, log, gate):
    with Manager(max_workers=2, journal=path) as manager:
        handles = [manager.run(journaled.counted_and_held, log, gate.address) for _ in range(5)]
        pid = gate.wait_for_arrival()
        handles += [manager.run(journaled.counted_and_held, log, gate.address) for _ in range(5)]
        assert manager.count_of(TaskType.ONE_OFF) == 10
        gate.release(pid, [1, 2])
        results = [handle.result(PATIENCE_S) for handle in handles]
        assert results == [[1, 2]] * 10
        results[0].append(3)
        assert results[1:] == [[1, 2]] * 9  # copies
        assert manager.stats().succeeded == 10
    assert lines_of(log) == ["None"]


def test_a_failure_is_that_of_all_who_gave_the_key(path, gate):
    with Manager(max_workers=1, journal=path) as manager:
        handles = [manager.run(gated.stop_then_do, gate.address) for _ in range(3)]
        gate.release(gate.wait_for_arrival(), ValueError("for all"))
        for handle in handles:
            with pytest.raises(ValueError, match="for all"):
                handle.result(PATIENCE_S)
        assert manager.stats().failed == 3


@pytest.mark.parametrize("cancelled", [(0,), (1,), (0, 1), (1, 0), (2, 0)])
def test_cancel_of_one_handle_leaves_the_work_to_the_others(path, log, gate, cancelled):
    with Manager(max_workers=1, journal=path, grace=0.1) as manager:
        handles = [manager.run(journaled.counted_and_held, log, gate.address) for _ in range(3)]
        pid = gate.wait_for_arrival()
        for position in cancelled:
            assert handles[position].cancel()
            assert handles[position].cancel()
            assert handles[position].cancelled()
        gate.release(pid, "done")
        for position in {0, 1, 2} - set(cancelled):
            assert handles[position].result(PATIENCE_S) == "done"
        stats = manager.stats()
        assert (stats.succeeded, stats.cancelled) == (3 - len(cancelled), len(cancelled))
    assert lines_of(log) == ["None"]


def test_cancel_of_all_handles_ends_the_work(path, gate):
    with Manager(max_workers=1, journal=path, grace=0.1) as manager:
        handles = [manager.run(gated.stop_then_do, gate.address) for _ in range(3)]
        gate.wait_for_arrival()
        assert all(handle.cancel() for handle in handles)
        assert manager.run(pow, 2, 2).result(PATIENCE_S) == 4
        assert entries_of(path)[0].state == "cancelled"
        again = manager.run(gated.stop_then_do, gate.address)  # not done, so it is run
        gate.release(gate.wait_for_arrival(), 17)
        assert again.result(PATIENCE_S) == 17


def test_deadline_of_one_handle_is_its_own(path, gate):
    with Manager(max_workers=1, journal=path) as manager:
        long = manager.run(gated.stop_then_do, gate.address)
        pid = gate.wait_for_arrival()
        short = manager.run_task(Task(gated.stop_then_do, args=(gate.address,), deadline=0.05))
        with pytest.raises(TaskTimeoutError):
            short.result(PATIENCE_S)
        gate.release(pid, "in time")
        assert long.result(PATIENCE_S) == "in time"
        assert [entry.state for entry in entries_of(path)] == ["succeeded"]


def test_close_with_a_timeout_ends_leaders_and_followers(path, gate):
    manager = Manager(max_workers=1, journal=path, grace=0.1)
    handles = [manager.run(gated.stop_then_do, gate.address) for _ in range(3)]
    queued = manager.run(plain.pause, 0.0)
    gate.wait_for_arrival()
    report = manager.close(timeout=0)
    assert not report.left
    for handle in (*handles, queued):
        assert handle.cancelled()
    assert [entry.state for entry in entries_of(path)] == ["cancelled", "cancelled"]


def test_cancelled_look_up_does_not_harm_a_stored_result(path, log):
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(journaled.counted, log, 2).result(PATIENCE_S) == 4
        for _ in range(50):
            manager.run(journaled.counted, log, 2).cancel()
        assert manager.run(journaled.counted, log, 2).result(PATIENCE_S) == 4
    assert lines_of(log) == ["2"]


def test_task_that_ends_before_the_journal_answers_is_recorded_as_what_it_is(path):
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run_task(Task(plain.square, args=(5,), key="stored")).result(PATIENCE_S) == 25
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")  # so the answer is late
        late = manager.run_task(Task(plain.square, args=(1,), key="late", deadline=0.05))
        given_up = manager.run_task(Task(plain.square, args=(2,), key="given up"))
        replaced = manager.run_task(Task(plain.square, args=(3,), key="again"))
        stored = manager.run_task(Task(plain.square, args=(5,), key="stored"))
        for handle in (given_up, replaced, stored):
            assert handle.cancel()
        with pytest.raises(TaskTimeoutError):
            late.result(PATIENCE_S)
        again = manager.run_task(Task(plain.square, args=(3,), key="again"))
        holder.execute("ROLLBACK")
        holder.close()
        assert again.result(PATIENCE_S) == 9
    entries = {entry.key: entry for entry in entries_of(path)}
    assert {key: entry.state for key, entry in entries.items()} == {
        "stored": "succeeded", "late": "failed", "given up": "cancelled", "again": "succeeded",
    }  # fmt: skip
    assert entries["late"].error_type == "procbackground.errors.TaskTimeoutError"
    assert "deadline" in entries["late"].error
    assert entries["late"].attempt is None


def test_cancelling_many_tasks_of_one_key_looks_at_each_once(path, gate, monkeypatch):
    looks = 0

    def has_settled(job):
        nonlocal looks
        looks += 1
        return job.state == SETTLED

    with Manager(max_workers=1, journal=path) as manager:
        handles = [manager.run_task(Task(stop_at_gate, args=(gate.address,), key="alike")) for _ in range(400)]
        gate.wait_for_arrival()
        wait_until(lambda: manager.stats().added == 400, "all tasks")
        monkeypatch.setattr(KeyedJob, "has_settled", property(has_settled))
        assert all(handle.cancel() for handle in handles[:-1])
        assert looks < 400 * 20
        gate.open()
        handles[-1].result(PATIENCE_S)
        assert manager.stats().cancelled == 399
    assert [entry.state for entry in entries_of(path)] == ["succeeded"]


def test_full_queue_makes_callers_wait_as_without_a_journal(path):
    with Manager(max_workers=1, journal=path, max_pending=3) as manager:
        handles = [manager.run(plain.square, number) for number in range(200)]
        assert [handle.result(PATIENCE_S) for handle in handles] == [number**2 for number in range(200)]


def test_observers_see_stored_results_as_successes(path, recorder):
    for _ in range(2):
        with Manager(max_workers=1, journal=path, observer=recorder) as manager:
            handle = manager.run(plain.square, 3)
            assert handle.result(PATIENCE_S) == 9
    assert recorder.kinds(handle) == ["task_added", "task_succeeded"]


def test_asyncio_awaits_stored_and_new_results(path):
    async def use():
        async with Manager(max_workers=1, journal=path) as manager:
            assert await manager.run(plain.square, 3) == 9
            assert await manager.run(plain.square, 3) == 9

    asyncio.run(use())


def test_cancel_of_a_done_handle_is_refused(path):
    with Manager(max_workers=1, journal=path) as manager:
        handle = manager.run(plain.square, 3)
        assert handle.result(PATIENCE_S) == 9
        assert not handle.cancel()
        assert not manager.run(os._exit, 0).cancelled()
        late = manager.run(plain.pause, 30)
        late.cancel()
        with pytest.raises(CancelledError):
            late.result(PATIENCE_S)


# -- saved states ----------------------------------------------------------------------------------------------


def test_saved_state_is_there_in_the_next_run(path, log):
    with Manager(max_workers=1, journal=path) as manager, pytest.raises(WorkerDiedError):
        manager.run_task(Task(saving.count_to, args=(5, (3,), "kill", log), key="k")).result(PATIENCE_S)
    with Manager(max_workers=1, journal=path) as manager, pytest.raises(WorkerDiedError):
        manager.run_task(Task(saving.count_to, args=(6, (4,), "kill", log), key="k")).result(PATIENCE_S)
    with Manager(max_workers=1, journal=path) as manager:
        task = Task(saving.count_to, args=(6, (), "kill", log), key="k", isolate=True)
        assert manager.run_task(task).result(PATIENCE_S) == 6
    assert lines_of(log) == ["1", "2", "3", "4", "5", "6"]


def test_saved_state_of_a_finished_task_is_dropped(path):
    import sqlite3

    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(saving.count_to, 3).result(PATIENCE_S) == 3
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (0,)
    connection.close()


def test_stored_result_that_cannot_be_loaded_is_made_again(path, log, caplog, monkeypatch):
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(journaled.make_point, log, 2).result(PATIENCE_S) == journaled.Point(2, 1.0)
    renamed = journaled.Point
    monkeypatch.delattr(journaled, "Point")
    with Manager(max_workers=1, journal=path) as manager:
        handle = manager.run(journaled.make_point, log, 2)
        wait_until(lambda: len(lines_of(log)) == 2, "a second execution")
        monkeypatch.setattr(journaled, "Point", renamed, raising=False)
        handle.exception(PATIENCE_S)
    assert "runs again" in caplog.text


def test_a_manager_that_could_not_be_made_lets_go_of_its_journal(make_manager, tmp_path):
    file = tmp_path / "batch.sqlite"
    with pytest.raises(ValueError, match="min_free_memory") as raised:  # which is kept, as by an interactive session
        make_manager(journal=file, min_free_memory="much")
    assert make_manager(journal=file).run(pow, 2, 3).result(timeout=PATIENCE_S) == 8
    del raised
