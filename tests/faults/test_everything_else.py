"""Faults 22, 23, 25 to 27, 29 and 30: threads, callbacks, initializers, locks, output, nested pools, descriptors."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from procbackground import InitializerError
from tests.faults import acts
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.recorder import Recorder
from tests.support.scripts import ENVIRONMENT
from tests.support.tasks import plain, surroundings

SUBMITTERS, EACH = 8, 250
DEPTH = 50


def test_22_submit_from_eight_threads(manager):
    def submit(first: int) -> list[int]:
        handles = [manager.run(plain.square, first + number) for number in range(EACH)]
        return [handle.result(timeout=PATIENCE_S) for handle in handles]

    with ThreadPoolExecutor(SUBMITTERS) as threads:
        results = list(threads.map(submit, range(0, SUBMITTERS * EACH, EACH)))
    assert list(itertools.chain(*results)) == [number**2 for number in range(SUBMITTERS * EACH)]
    assert manager.stats().succeeded == SUBMITTERS * EACH


def test_23_submit_in_a_done_callback_fifty_deep(manager):
    is_through = threading.Event()
    results = []

    def go_on(handle):
        results.append(handle.result())
        if len(results) == DEPTH:
            is_through.set()
        else:
            manager.run(plain.square, len(results)).add_done_callback(go_on)

    manager.run(plain.square, 0).add_done_callback(go_on)
    assert is_through.wait(PATIENCE_S)
    assert results == [number**2 for number in range(DEPTH)]


# -- initializers ---------------------------------------------------------------------------------------------

BROKEN_STARTS = {
    "raises": (acts.log_and_fail, ["the initializer failed: Flaky: bad start"], "in log_and_fail", 3),
    "exits": (
        acts.log_and_exit,
        ["3 workers in a row died before they were ready", "exit code 7", "WARNING tests.child: about to exit"],
        None,
        6,
    ),
    "hangs": (
        acts.hang_in_initializer,
        ["not ready within its start_timeout of", "in hang_in_initializer", "WARNING tests.child: about to hang"],
        "in hang_in_initializer",
        3,
    ),
    "dies when it is ready": (
        acts.die_when_ready,
        ["8 workers in a row died before they began a first task", "SIGKILL"],
        None,
        12,
    ),
}


@pytest.mark.parametrize("how", BROKEN_STARTS)
def test_25_initializer_fails(make_manager, method, how):
    """Every task is told why, now and later, and the manager stops starting workers."""
    initializer, words, cause, most_starts = BROKEN_STARTS[how]
    recorder = Recorder()
    manager = make_manager(
        mp_context=multiprocessing.get_context(method),
        initializer=initializer,
        start_timeout=60 if how != "hangs" else 5 if method == "spawn" else 3,  # time for it to get there, and hang
        observer=recorder,
    )
    handles = [manager.run(pow, 2, 2) for _ in range(10)]
    errors = [handle.exception(timeout=PATIENCE_S) for handle in handles]
    with pytest.raises(InitializerError) as later:
        manager.run(pow, 2, 2)
    for error in (*errors, later.value):
        assert isinstance(error, InitializerError)
        for word in words:
            assert word in str(error)
        assert cause is None or cause in str(error.__cause__.__cause__ or error.__cause__)
    assert len(set(map(id, errors))) == len(errors)
    assert [error.task for error in errors] == [handle.task for handle in handles]
    assert manager.close(timeout=PATIENCE_S).leftovers == ()
    assert len(recorder.events("process_exited")) <= most_starts


# -- locks ----------------------------------------------------------------------------------------------------


def test_26_lock_held_by_a_parent_thread_at_the_start(manager):
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with surroundings.shared_lock, logging._lock:
            is_held.set()
            may_go.wait(PATIENCE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert is_held.wait(PATIENCE_S)
        handles = [manager.run(surroundings.take_shared_lock) for _ in range(6)]
        wait_until(lambda: all(handle.done() for handle in handles), "all tasks are through, with the lock held")
    finally:
        may_go.set()
        holder.join()
    assert [handle.result() for handle in handles] == ["taken"] * 6


def test_26_fork_context_given_by_the_user_works_and_ends_by_itself(make_manager, recorder):
    manager = make_manager(mp_context=multiprocessing.get_context("fork"), max_workers=3, observer=recorder)
    assert list(manager.map(plain.square_after, [0.05] * 9, range(9), chunksize=1)) == [n * n for n in range(9)]
    wait_until(lambda: len(manager.processes()) == 3, "three workers")
    assert manager.close().leftovers == ()
    # A worker that does not see the end of its task pipe is killed a second later.
    assert [event.exit_code for event in recorder.events("process_exited")] == [0, 0, 0]


# -- output ---------------------------------------------------------------------------------------------------

SAYING = """
    import multiprocessing
    from procbackground import Manager
    from tests.faults import acts

    if __name__ == "__main__":
        with Manager(max_workers=4, mp_context=multiprocessing.get_context({method!r})) as manager:
            for first in range(0, 800, 50):
                manager.run(acts.say, first, 50)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["27a_buffered", "27b_unbuffered"])
def test_27_what_workers_print_is_whole(method, tmp_path, unbuffered):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SAYING).format(method=method))
    with (tmp_path / "output").open("w+") as output:
        subprocess.run(
            [sys.executable, script],
            env={**ENVIRONMENT, "PYTHONUNBUFFERED": unbuffered},
            stdout=output,
            timeout=60,
            check=True,
        )
        output.seek(0)
        lines = output.read().splitlines()
    assert sorted(lines) == sorted(f"line {number} of many" for number in range(800))


def test_27c_log_records_reach_the_parents_handlers(make_manager, method, caplog):
    with caplog.at_level(logging.INFO):
        manager = make_manager(mp_context=multiprocessing.get_context(method))
        for first in range(0, 200, 20):
            manager.run(acts.log, first, 20)
        manager.close()
    records = [record.getMessage() for record in caplog.records if record.name == "tests.faults"]
    assert sorted(records) == sorted(f"record {number}" for number in range(200))


# -- nesting, and a machine without room ----------------------------------------------------------------------


def test_29_nested_pool(manager):
    handles = [manager.run(acts.square_in_a_pool, number) for number in range(3)]
    assert [handle.result(timeout=60) for handle in handles] == [0, 1, 4]


SHORT_OF_DESCRIPTORS = """
    import multiprocessing, os, resource
    from procbackground import Manager
    from tests.support.tasks import failing, plain

    if __name__ == "__main__":
        manager = Manager(max_workers=2, mp_context=multiprocessing.get_context({method!r}))
        print(manager.run(plain.square, 3).result(timeout=20))
        taken = [os.open("/dev/null", os.O_RDONLY)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 8, hard))
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        handles = [manager.run(plain.square_after, 0.01, number) for number in range(30)]
        doomed = manager.run(failing.exit_hard, 3)
        behind = [manager.run(plain.square, number) for number in range(10)]
        print(type(doomed.exception(timeout=20)).__name__)
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        print([handle.result(timeout=20) for handle in handles] == [n * n for n in range(30)])
        print([handle.result(timeout=20) for handle in behind] == [n * n for n in range(10)])
        print(manager.close(timeout=20).leftovers)
"""


def test_30_no_descriptors_left(method, tmp_path):
    """Nothing is lost: what cannot be started now is started when there is room."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SHORT_OF_DESCRIPTORS).format(method=method))
    finished = subprocess.run(
        [sys.executable, script], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.stdout.split("\n") == ["9", "WorkerDiedError", "True", "True", "()", ""], finished.stderr
    assert finished.returncode == 0
