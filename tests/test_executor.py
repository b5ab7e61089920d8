"""The promises of `concurrent.futures`, point by point, and what code written for `ProcessPoolExecutor` relies on."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import os
import re
import sys
import threading
import weakref
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from procbackground import InitializerError, Manager, ManagerClosedError, RemoteTraceback, SerializationError
from tests.support.facts import child_pids, wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, plain
from tests.test_interpreter import run

METHODS = ("forkserver", "spawn", "fork")


class Value:
    """Something that can be referred to weakly, and crosses."""


def make_value(_: object) -> Value:
    return Value()


def raise_for_odd(number: int) -> int:
    if number % 2:
        raise failing.Flaky(number)
    return number


def pid_of_worker(_: object) -> int:
    return os.getpid()


def die_at_seven(number: int) -> int:
    if number == 7:
        os._exit(3)
    return number


# -- constructor --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, -1])
def test_max_workers_must_be_positive_in_the_same_words(count):
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        Manager(count)


def test_the_first_five_arguments_may_be_positional():
    with Manager(1, multiprocessing.get_context("spawn"), plain.nothing, ()) as manager:
        assert manager.submit(pow, 2, 3).result(PATIENCE_S) == 8


def test_an_initializer_must_be_callable():
    with pytest.raises(TypeError, match="initializer must be a callable"):
        Manager(initializer=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), ("3", TypeError), (1.5, TypeError)])
def test_max_tasks_per_child_is_checked(value, error):
    with pytest.raises(error):
        Manager(max_tasks_per_child=value)


def test_max_tasks_per_child_does_not_go_with_fork():
    with pytest.raises(ValueError, match="incompatible with the 'fork' multiprocessing start method"):
        Manager(1, multiprocessing.get_context("fork"), max_tasks_per_child=3)


def note_in(queue: Any, lock: Any, connection: Any) -> None:
    with lock:
        queue.put(os.getpid())
        connection.send(os.getpid())


@pytest.mark.parametrize("method", METHODS)
def test_an_initializer_takes_what_can_only_be_inherited(method, gate):
    context = multiprocessing.get_context(method)
    queue, lock = context.SimpleQueue(), context.Lock()
    here, there = context.Pipe()
    with Manager(2, context, note_in, (queue, lock, there)) as manager:
        for _ in range(2):
            manager.submit(stop_at_gate, gate.address)
        pids = {gate.wait_for_arrival() for _ in range(2)}
        assert {queue.get() for _ in range(2)} == pids
        assert {here.recv() for _ in range(2)} == pids
        gate.open()
    for end in (here, there, queue):
        end.close()


def test_a_lambda_may_initialize_with_a_lock():
    lock = multiprocessing.get_context("forkserver").Lock()
    with Manager(1, initializer=lambda held: held.acquire(), initargs=(lock,)) as manager:
        manager.submit(plain.nothing).result(PATIENCE_S)
        assert not lock.acquire(block=False)
    lock.release()


def test_an_initializer_that_cannot_be_pickled_is_told_at_once():
    with pytest.raises(SerializationError, match="initializer"):
        Manager(initializer=plain.echo, initargs=(threading.Lock(),))


def fail_to_initialize() -> None:
    raise ValueError("no such licence")


def test_a_failing_initializer_breaks_the_manager_and_is_logged(make_manager, caplog):
    manager = make_manager(initializer=fail_to_initialize)
    with pytest.raises(BrokenProcessPool, match="no such licence"):
        manager.submit(pow, 2, 3).result(PATIENCE_S)
    # From then on nothing is queued: it would wait for ever.
    with pytest.raises(InitializerError, match="no such licence"):
        manager.submit(pow, 2, 3)
    assert "no such licence" in manager._broken
    wait_until(lambda: "Exception in initializer" in caplog.text, "the child's log record has come")


# -- submit -------------------------------------------------------------------------------------------------


def test_submit_passes_any_keyword_on(manager):
    call = manager.submit(plain.keywords, self=1, fn=2, task=3, timeout=4)
    assert call.result(PATIENCE_S) == {"self": 1, "fn": 2, "task": 3, "timeout": 4}


def test_submit_takes_its_function_by_position_only(manager):
    with pytest.raises(TypeError):
        manager.submit(fn=pow, x=2)
    with pytest.raises(TypeError):
        manager.submit()


def test_workers_are_started_on_demand(make_manager):
    manager = make_manager(max_workers=64)
    before = child_pids()
    for _ in range(3):
        manager.submit(pow, 2, 3).result(PATIENCE_S)
    assert len(manager._processes) == 1
    assert len(child_pids() - before) <= 2  # the worker and the zygote


def test_the_childs_traceback_comes_along(manager):
    error = manager.submit(raise_for_odd, 1).exception(PATIENCE_S)
    assert isinstance(error, failing.Flaky)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "raise failing.Flaky(number)" in error.__cause__.tb


def test_system_exit_in_a_task_is_an_error_like_others(manager):
    assert isinstance(manager.submit(exit, 3).exception(PATIENCE_S), SystemExit)
    assert manager.submit(pow, 2, 3).result(PATIENCE_S) == 8


# -- map ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [0, -1])
def test_map_checks_its_chunk_size_in_the_same_words(manager, chunksize):
    with pytest.raises(ValueError, match=re.escape("chunksize must be >= 1.")):
        manager.map(abs, [1], chunksize=chunksize)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [("3", TypeError, "buffersize must be an integer or None"), (0, ValueError, "buffersize must be None or > 0")],
)
def test_map_checks_its_buffer_size_in_the_same_words(manager, value, error, words):
    with pytest.raises(error, match=words):
        manager.map(abs, [1], buffersize=value)


def test_map_over_nothing_gives_nothing(manager):
    assert list(manager.map(abs)) == []
    assert list(manager.map(abs, [], buffersize=2)) == []


@pytest.mark.parametrize("options", [{}, {"chunksize": 7}, {"chunksize": 1}], ids=str)
def test_results_of_a_map_can_be_read_after_the_block(options):
    with Manager(2) as manager:
        results = manager.map(plain.square_after, [0.0005] * 500, range(500), **options)
    assert list(results) == [number * number for number in range(500)]


@pytest.mark.parametrize("options", [{}, {"chunksize": 7}], ids=str)
def test_results_of_a_map_can_be_read_after_a_shutdown_without_waiting(make_manager, options):
    manager = make_manager()
    results = manager.map(plain.square_after, [0.0005] * 500, range(500), **options)
    manager.shutdown(wait=False)
    assert list(results) == [number * number for number in range(500)]


@pytest.mark.parametrize("options", [{}, {"chunksize": 100}], ids=str)
def test_rows_after_a_death_run_though_the_manager_closes(options):
    with Manager(1, retry=None) as manager:
        results = manager.map(die_at_seven, range(100), **options)
        view = manager.options(retry=2)
        survivors = view.map(die_at_seven, range(8, 108), **options)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(BrokenProcessPool):
        next(results)
    assert list(survivors) == list(range(8, 108))


def test_wait_includes_the_rows_that_a_map_has_not_sent_yet(manager):
    results = manager.map(plain.square_after, [0.001] * 300, range(300))
    assert manager.wait(PATIENCE_S)
    report = manager.close(timeout=0)
    assert (report.cancelled, report.stopped, report.killed) == (0, 0, 0)  # nothing was left to do
    assert sum(1 for _ in results) == 300


def test_a_map_whose_close_is_cut_short_is_cancelled(make_manager, gate):
    manager = make_manager(max_workers=1, grace=0.2)
    results = manager.map(stop_at_gate, [gate.address] * 50)
    gate.wait_for_arrival()
    manager.close(timeout=0)
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)


def test_a_map_on_a_closed_manager_is_refused_at_once(manager):
    manager.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        manager.map(abs, [1])


@pytest.mark.parametrize("options", [{}, {"chunksize": 5}, {"chunksize": 1}, {"buffersize": 3}], ids=str)
def test_a_map_keeps_no_result_that_it_has_given(manager, options):
    for value in manager.map(make_value, range(10), **options):
        ref = weakref.ref(value)
        del value
        # A thread of the manager's may be about to let go of it.
        wait_until(lambda ref=ref: ref() is None, "nobody holds the value")  # type: ignore[misc]


# -- shutdown -----------------------------------------------------------------------------------------------


def test_submit_after_shutdown_is_refused_in_the_words_people_look_for(manager):
    manager.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown") as caught:
        manager.submit(pow, 2, 3)
    assert isinstance(caught.value, ManagerClosedError)


def test_cancelling_futures_cancels_what_waits_in_a_workers_pipe(make_manager, gate):
    manager = make_manager(max_workers=1)
    list(manager.map(abs, range(200), chunksize=1))  # learns that these are short, so that many are sent ahead
    holding = manager.submit(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    behind = [manager.submit(abs, -number) for number in range(100)]
    manager.shutdown(wait=False, cancel_futures=True)
    gate.open()
    manager.shutdown()
    assert holding.exception(PATIENCE_S) is None
    assert all(each.cancelled() for each in behind)


def test_shutdown_with_cancelled_futures_lets_what_runs_finish(make_manager, gate):
    manager = make_manager(max_workers=2)
    running = [manager.submit(stop_at_gate, gate.address) for _ in range(2)]
    pids = [gate.wait_for_arrival() for _ in range(2)]
    queued = [manager.submit(plain.nothing) for _ in range(50)]
    manager.shutdown(wait=False, cancel_futures=True)
    for pid in pids:
        gate.release(pid, "done")
    assert [each.result(PATIENCE_S) for each in running] == ["done", "done"]
    manager.shutdown()
    assert all(each.cancelled() for each in queued)


# -- references ---------------------------------------------------------------------------------------------


def test_a_manager_that_is_dropped_goes_away_with_its_workers():
    manager = Manager(2)
    handles = [manager.submit(plain.own_pid) for _ in range(8)]
    thread = manager._executor_manager_thread
    assert thread is not None
    ref = weakref.ref(manager)
    del manager
    assert ref() is None
    pids = {handle.result(PATIENCE_S) for handle in handles}
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    wait_until_gone(pids)


def test_a_view_keeps_its_manager():
    view = Manager(max_workers=1).options(timeout=PATIENCE_S).options(priority=1)
    gc.collect()
    (pid,) = view.map(pid_of_worker, [0])
    assert view.submit(pow, 2, 3).result(PATIENCE_S) == 8
    del view
    wait_until_gone([pid])


def test_the_results_of_a_map_outlive_a_dropped_manager():
    manager = Manager(2)
    results = manager.map(plain.square_after, [0.0005] * 400, range(400))
    ref = weakref.ref(manager)
    del manager
    assert ref() is None
    assert list(results) == [number * number for number in range(400)]


def test_arguments_and_results_are_dropped_with_the_handle(manager):
    argument = Value()
    handle = manager.submit(plain.echo, argument)
    refs = [weakref.ref(argument), weakref.ref(handle.result(PATIENCE_S))]
    manager.wait(PATIENCE_S)
    del argument, handle
    gc.collect()
    wait_until(lambda: not any(ref() for ref in refs), "nobody holds the argument or the result")


# -- what is private there, and used all the same -------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_hanging_workers_can_be_ended_by_their_processes(method, gate):
    with Manager(2, multiprocessing.get_context(method)) as manager:
        hanging = manager.submit(stop_at_gate, gate.address)
        pid = gate.wait_for_arrival()
        process = manager._processes[pid]
        assert process.is_alive()
        process.terminate()
        with pytest.raises(BrokenProcessPool):
            hanging.result(PATIENCE_S)
        process.join(PATIENCE_S)
        assert not process.is_alive()
        assert process.exitcode == -15
        assert manager.submit(pow, 2, 3).result(PATIENCE_S) == 8  # and the pool goes on
        assert manager._broken is False


def test_processes_include_those_that_are_being_started(make_manager, gate):
    manager = make_manager(max_workers=3)
    for _ in range(5):
        manager.submit(stop_at_gate, gate.address)
    assert len(manager._processes) == 3
    gate.open()


def test_the_context_is_the_one_that_was_given():
    context = multiprocessing.get_context("spawn")
    assert Manager(1, context)._mp_context is context


# -- whole interpreters -------------------------------------------------------------------------------------

SUBMIT_AND_END = """
    import multiprocessing, time
    from procbackground import Manager

    def work(number):
        time.sleep(0.1)
        if number == 1:
            raise ValueError("one")
        return number

    if __name__ == "__main__":
        manager = Manager(2, multiprocessing.get_context({method!r}))
        for number in range(3):
            manager.submit(work, number).add_done_callback(lambda handle: print(repr(handle.exception()), flush=True))
"""


def test_a_worker_that_dies_while_the_interpreter_exits_fails_its_own_task(tmp_path):
    ended = run(
        """
        import os, time
        from procbackground import Manager

        def die():
            time.sleep(0.2)
            os._exit(3)

        if __name__ == "__main__":
            manager = Manager(1)
            manager.submit(die).add_done_callback(lambda handle: print(type(handle.exception()).__name__, flush=True))
            manager.submit(pow, 2, 3).add_done_callback(lambda handle: print(handle.result(), flush=True))
        """,
        folder=tmp_path,
    )
    assert ended.stdout.split() == ["WorkerDiedError", "8"], ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_forked_manager_that_a_script_leaves_behind_is_no_hang(tmp_path):
    # Python 3.12 and later do not fork any more by then: the tasks may run or fail, but each is told.
    ended = run(SUBMIT_AND_END.format(method="fork"), folder=tmp_path)
    assert len(ended.stdout.splitlines()) == 3, ended.stderr
    assert "the supervisor failed" not in ended.stderr


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_script_that_submits_and_ends_gets_its_work_done(method, tmp_path):
    ended = run(SUBMIT_AND_END.format(method=method), folder=tmp_path)
    assert sorted(ended.stdout.split()) == ["None", "None", "ValueError('one')"], ended.stderr
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr


SUBMIT_AT_EXIT = """
    import atexit
    from procbackground import Manager

    def late():
        try:
            manager.submit(pow, 2, 3)
        except RuntimeError as error:
            print(error)

    if __name__ == "__main__":
        atexit.register(late)
        manager = Manager(1)
        {before}
"""


@pytest.mark.parametrize(
    ("before", "why"),
    [
        ("manager.submit(pow, 2, 3).result()", "interpreter shutdown"),
        ("manager.close()", "shutdown: the manager is closed"),
    ],
    ids=["open", "closed"],
)
def test_submitting_while_the_interpreter_exits_is_refused(before, why, tmp_path):
    ended = run(SUBMIT_AT_EXIT.format(before=before), folder=tmp_path)
    assert ended.stdout == f"cannot schedule new futures after {why}\n", ended.stderr


LATE = """
    import threading
    from procbackground import Manager, ManagerClosedError

    def try_late(make):
        try:
            make().submit(pow, 2, 3)
        except ManagerClosedError as error:
            print(error)

    def work():
        threading.main_thread().join()  # returns once the interpreter waits for this thread, with all managers closed
        for make in (lambda: used, lambda: unused, lambda: Manager(1)):
            try_late(make)

    def work_with_the_first():
        threading.main_thread().join()
        for make in (lambda: Manager(1), lambda: Manager(1)):
            try_late(make)

    if __name__ == "__main__":
        if {which!r} == "later":
            used, unused = Manager(1), Manager(1)
            used.submit(pow, 2, 3).result()
            threading.Thread(target=work).start()
        else:
            threading.Thread(target=work_with_the_first).start()
"""


@pytest.mark.parametrize(("which", "lines"), [("later", 3), ("first", 2)])
def test_no_manager_takes_work_once_the_main_thread_has_ended(which, lines, tmp_path):
    ended = run(LATE.format(which=which), folder=tmp_path)
    assert ended.stdout.splitlines() == ["cannot schedule new futures after interpreter shutdown"] * lines, ended.stderr
    assert ended.stderr == ""


NESTED = """
    import multiprocessing
    from procbackground import Manager, Task

    def nested(number):
        with Manager(1) as inner:
            return inner.submit(pow, 2, number).result()

    if __name__ == "__main__":
        manager = Manager(1, mp_context=multiprocessing.get_context("fork"))
        handles = [manager.run_task(Task(nested, args=(number,), isolate=True)) for number in range(4)]
        for handle in handles:
            handle.add_done_callback(lambda done: print(done.exception() or done.result()))
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python 3.12 and later do not fork while they exit")
def test_a_worker_forked_while_its_parent_exits_may_have_a_manager(tmp_path):
    ended = run(NESTED, folder=tmp_path)
    assert sorted(ended.stdout.split()) == ["1", "2", "4", "8"], ended.stdout + ended.stderr
