"""States that tasks save: a further attempt goes on from the newest, whatever ended the attempt before."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from procbackground import Manager, SerializationError, Task, TaskType, current
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.scripts import ENVIRONMENT
from tests.support.tasks import plain, saving


@pytest.mark.parametrize("how", ["kill", "exit", "raise"])
@pytest.mark.parametrize("isolate", [False, True])
def test_attempts_continue_where_the_one_before_saved_last(tmp_path, how, isolate):
    log = str(tmp_path / "log")
    with Manager(max_workers=1, retry=4) as manager:
        task = Task(saving.count_to, args=(9, (2, 3, 7), how, log), isolate=isolate)
        handle = manager.run_task(task)
        assert handle.result(PATIENCE_S) == 9
        assert len(handle.attempts) == 4
    assert saving.lines_of(log) == [str(number) for number in range(1, 10)]


def test_attempt_over_its_time_continues(tmp_path):
    log = str(tmp_path / "log")
    with Manager(max_workers=1, retry=2, grace=0.1) as manager:
        task = Task(saving.count_to, args=(5, (3,), "time", log), timeout=0.3)
        assert manager.run_task(task).result(PATIENCE_S) == 5
    assert saving.lines_of(log) == ["1", "2", "3", "4", "5"]


def test_attempt_over_its_memory_continues(tmp_path):
    log = str(tmp_path / "log")
    with Manager(max_workers=1, retry=2) as manager:
        task = Task(saving.count_to, args=(5, (3,), "memory", log), memory_limit="150MiB")
        assert manager.run_task(task).result(PATIENCE_S) == 5
    assert saving.lines_of(log) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("size", [0, 70_000, 3_000_000])
def test_state_of_any_size_arrives_with_arguments_of_any_size(size):
    arrays = pytest.importorskip("numpy")
    argument = arrays.arange(size // 8 + 1)  # in a parcel, if it is large

    def add_up(array, goal):
        done, filler = current().saved or (0, None)
        assert filler is None or filler == bytes(size)
        while done < goal:
            done += 1
            current().save((done, bytes(size)))
            if done in (1, 2):
                saving.end_attempt("kill")
        return done, int(array.sum())

    with Manager(max_workers=1, retry=3) as manager:
        handle = manager.run(add_up, argument, goal=4)
        assert handle.result(PATIENCE_S) == (4, int(argument.sum()))
        assert len(handle.attempts) == 3


@pytest.mark.parametrize("chunksize", [None, 1, 40])
def test_each_row_of_a_map_has_a_state_of_its_own(chunksize):
    with Manager(max_workers=2, retry=2) as manager:
        found = list(manager.map(saving.show_saved, range(60), chunksize=chunksize))
    assert found == [(number, None if number % 7 else number) for number in range(60)]


def test_row_that_dies_continues_with_its_own_state():
    with Manager(max_workers=1, retry=2) as manager:
        assert list(manager.map(saving.count_to, [3, 5, 4], [(), (2,), ()], chunksize=3)) == [3, 5, 4]


def test_later_tasks_of_a_process_find_nothing():
    with Manager(max_workers=1) as manager:
        for state in ("first", "second"):
            assert manager.run(saving.save, state).result(PATIENCE_S) == state
            assert manager.run(saving.show_saved, 1).result(PATIENCE_S) == (1, None)


def test_loop_finds_the_state_of_its_last_iteration_also_in_a_new_process(tmp_path):
    log = str(tmp_path / "log")
    with Manager(max_workers=1) as manager:
        manager.run_task(Task(saving.iterate_from_saved, args=(log,), type=TaskType.LOOP, interval=0.001))
        wait_until(lambda: len(saving.lines_of(log)) >= 8, "eight iterations")
        manager.close(0)
    lines = saving.lines_of(log)
    assert lines == [str(number) for number in range(1, len(lines) + 1)]


def test_state_that_cannot_be_pickled_raises_in_the_task_and_names_the_part():
    with Manager(max_workers=1) as manager:
        with pytest.raises(SerializationError, match=r"the state to be saved .*lock.* at \['a'\]\[1\]"):
            manager.run(save_a_lock).result(PATIENCE_S)
        assert manager.run(pow, 2, 3).result(PATIENCE_S) == 8


def save_a_lock():
    current().save({"a": [1, threading.Lock()]})


def test_state_that_cannot_be_loaded_is_a_fresh_start_with_a_warning(caplog):
    with Manager(max_workers=1, retry=2) as manager:
        assert manager.run(saving.save_what_cannot_be_loaded).result(PATIENCE_S) is None
        wait_until(lambda: "starts afresh" in caplog.text, "a warning")


@pytest.mark.parametrize("size", [1000, 3_000_000])
@pytest.mark.parametrize("has_journal", [False, True])
def test_attempt_that_is_killed_amid_a_save_leaves_a_whole_state(tmp_path, size, has_journal):
    log = str(tmp_path / "log")
    chance = random.Random(17)
    journal = {"journal": tmp_path / "batch.sqlite"} if has_journal else {}
    with Manager(max_workers=1, retry=6, **journal) as manager:
        handle = manager.run(saving.save_large_states, log, size, 6)
        for attempt in range(1, 6):
            wait_until(lambda: len(saving.lines_of(log)) == attempt, "a save")  # noqa: B023
            time.sleep(chance.random() * 0.05)  # it is killed at a point that chance decides
            os.kill(int(saving.lines_of(log)[-1].split()[0]), signal.SIGKILL)
        found = [int(line.split()[1]) for line in saving.lines_of(log)]
        found.append(handle.result(PATIENCE_S))
    assert all(after > before for before, after in pairwise(found))


def test_outside_a_task_nothing_is_saved():
    current().save(1)
    assert current().saved is None
    assert saving.count_to(3) == 3


def test_forked_process_of_a_task_saves_nothing():
    with Manager(max_workers=1, retry=2) as manager:
        assert manager.run(save_in_a_fork).result(PATIENCE_S) == "mine"


def save_in_a_fork():
    context = current()
    if context.attempt == 2:
        return context.saved
    context.save("mine")
    pid = os.fork()
    if pid == 0:
        context.save("of a fork")
        os._exit(0)
    os.waitpid(pid, 0)
    raise RuntimeError("once")


def test_thread_that_outlives_its_task_saves_for_no_other():
    with Manager(max_workers=1, retry=2) as manager:
        manager.run(leave_a_saving_thread).result(PATIENCE_S)
        assert manager.run(saving.show_saved, 7).result(PATIENCE_S) == (7, 7)
        assert manager.run(plain.square, 4).result(PATIENCE_S) == 16


def leave_a_saving_thread():
    context, begun = current(), threading.Event()

    def save_on_and_on():
        while not context.stopping:
            context.save("stray")
            begun.set()
            context.wait(0.0005)

    threading.Thread(target=save_on_and_on, daemon=True).start()
    begun.wait()


# -- the example -----------------------------------------------------------------------------------------------

EXAMPLE = Path(__file__).parents[1] / "examples" / "pi.py"
SAMPLES = "12000000"  # so that a quick machine has not done before ten kills


def start_example(folder, name):
    command = [sys.executable, str(EXAMPLE), str(folder / name), "--samples", SAMPLES]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def look_into(path):
    """Return when the newest state was saved, and the pids of the workers that run a task."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (newest,) = connection.execute("SELECT max(saved) FROM checkpoints").fetchone()
            return newest, [pid for (pid,) in connection.execute("SELECT pid FROM tasks WHERE state = 'running'")]
    except sqlite3.OperationalError:
        return None, []  # it is not there yet


@pytest.mark.slow
def test_example_that_is_killed_ten_times_comes_to_the_same_answer(tmp_path):
    """Five times a worker is killed, and five times the parent, each time after another state was saved."""
    path = tmp_path / "disturbed.sqlite"
    with start_example(tmp_path, "undisturbed.sqlite") as undisturbed:
        expected = undisturbed.communicate(timeout=120)[0].splitlines()[0]
    process = start_example(tmp_path, path.name)
    kills = 0
    seen = None
    while process.poll() is None and kills < 10:
        newest, workers = look_into(path)
        if newest == seen or not workers:
            time.sleep(0.005)  # between two looks
            continue
        seen = newest
        if kills % 2:
            process.kill()
            process.communicate()
            process = start_example(tmp_path, path.name)
        else:
            with suppress(ProcessLookupError):
                os.kill(workers[0], signal.SIGKILL)
        kills += 1
    output = process.communicate(timeout=120)[0]
    assert kills == 10
    assert output.splitlines()[0] == expected
    assert expected.startswith("pi is about 3.14")
