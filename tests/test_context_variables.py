"""Context variables named in `context` have in each task the values that they had where it was submitted."""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import os
import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path

import pytest

from procbackground import Manager, SerializationError, Task, TaskType, current
from tests.support.gate import PATIENCE_S, stop_at_gate, tell_gate

request_id: ContextVar[str] = ContextVar("request_id")
locale: ContextVar[str] = ContextVar("another name than its own", default="en")
untold: ContextVar[str] = ContextVar("untold", default="nobody told")

UNSET = "unset"


def seen(*_: object, **__: object) -> tuple[str, str]:
    return request_id.get(UNSET), locale.get()


def seen_and_changed(to: str) -> str:
    found = request_id.get(UNSET)
    request_id.set(to)
    untold.set(to)
    return found


def seen_untold() -> str:
    return untold.get()


def seen_by_second_attempt() -> tuple[str, str]:
    if current().attempt == 1:
        os._exit(3)
    return seen()


def seen_if_even(number: int) -> tuple[int, str]:
    if number % 2:
        raise ValueError(number)
    return number, request_id.get(UNSET)


def seen_unless_it_kills(number: int) -> tuple[int, str]:
    if number == 5 and current().attempt == 1:
        os._exit(3)
    return number, request_id.get(UNSET)


def tell_seen(address) -> None:
    tell_gate(address, request_id.get(UNSET))


def set_by_initializer() -> None:
    locale.set("of the initializer")


@pytest.fixture
def carrying(make_manager):
    return make_manager(context=[request_id, locale])


@pytest.fixture(autouse=True)
def _a_context_of_its_own():
    """Give each test values that no other test sees."""
    tokens = [request_id.set("r-1"), locale.set("de")]
    yield
    for token in tokens:
        token.var.reset(token)


# -- every way to give work ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_run_submit_and_run_task(make_manager, method):
    manager = make_manager(context=[request_id, locale], mp_context=multiprocessing.get_context(method))
    handles = [manager.run(seen, 1, two=2), manager.submit(seen), manager.run_task(Task(seen, args=(1,)))]
    handles += [manager.run_task(Task(seen, isolate=True)), manager.options(timeout=PATIENCE_S).run(seen)]
    handles += [manager.run(lambda: seen())]
    assert [handle.result(timeout=PATIENCE_S) for handle in handles] == [("r-1", "de")] * len(handles)


def test_values_are_those_of_the_moment_of_giving(make_manager, gate):
    manager = make_manager(max_workers=1, context=[request_id])
    held = manager.run(stop_at_gate, gate.address)
    queued = []
    for number in range(5):
        request_id.set(f"r-{number}")
        queued.append(manager.run(seen))
    gate.open()
    held.result(timeout=PATIENCE_S)
    assert [handle.result(timeout=PATIENCE_S)[0] for handle in queued] == [f"r-{number}" for number in range(5)]


def test_each_thread_and_each_asyncio_task_has_its_own(carrying):
    found = {}

    def give(name: str) -> None:
        request_id.set(name)
        found[name] = carrying.run(seen).result(timeout=PATIENCE_S)[0]

    threads = [threading.Thread(target=give, args=(f"thread {number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    async def give_async(name: str) -> None:
        request_id.set(name)
        await asyncio.sleep(0)
        found[name] = (await carrying.run(seen))[0]

    async def give_all() -> None:
        await asyncio.gather(*(give_async(f"task {number}") for number in range(3)))

    asyncio.run(give_all())
    assert found == {name: name for name in found}
    assert len(found) == 6


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_map_has_the_context_of_its_call(carrying, chunksize):
    results = carrying.map(seen, range(20), range(20), chunksize=chunksize, buffersize=None)
    request_id.set("later")
    assert list(results) == [("r-1", "de")] * 20
    lazy = carrying.map(seen, range(20), chunksize=chunksize, buffersize=2)
    request_id.set("later still")
    assert list(lazy) == [("later", "de")] * 20


def test_rows_that_go_on_alone_have_it_too(make_manager):
    manager = make_manager(context=[request_id], retry=2)
    results = manager.map(seen_unless_it_kills, range(12), chunksize=6)
    request_id.set("later")
    assert list(results) == [(number, "r-1") for number in range(12)]


def test_a_raising_row_of_a_map_fails_alone(carrying):
    results = carrying.map(seen_if_even, [0, 2, 3, 4], chunksize=4)
    assert [next(results), next(results)] == [(0, "r-1"), (2, "r-1")]
    with pytest.raises(ValueError, match="3"):
        next(results)


def test_a_stream_has_the_context_in_which_each_task_is_pulled(carrying):
    def tasks():
        for number in range(10):
            request_id.set(f"r-{number}")
            yield Task(seen)

    handles = carrying.stream(tasks(), ordered=True, buffersize=3)
    assert [handle.result()[0] for handle in handles] == [f"r-{number}" for number in range(10)]


def test_a_retry_has_the_values_of_the_first_attempt(make_manager):
    manager = make_manager(context=[request_id, locale], retry=2)
    handle = manager.run(seen_by_second_attempt)
    request_id.set("later")
    assert handle.result(timeout=PATIENCE_S) == ("r-1", "de")
    assert handle.task.fn is seen_by_second_attempt


def test_every_iteration_of_a_loop_has_them(carrying, gate):
    carrying.run_task(Task(tell_seen, args=(gate.address,), type=TaskType.LOOP))
    request_id.set("later")
    assert [gate.wait_for_label() for _ in range(3)] == ["r-1"] * 3
    assert carrying.cancel(timeout=PATIENCE_S)


# -- what comes before and after -----------------------------------------------------------------------------


def test_a_variable_that_is_not_set_stays_unset(carrying):
    assert contextvars.Context().run(carrying.run, seen).result(timeout=PATIENCE_S) == (UNSET, "en")


def test_a_variable_that_is_not_set_is_what_the_initializer_made_it(make_manager):
    manager = make_manager(context=[locale], initializer=set_by_initializer)
    assert manager.run(seen).result(timeout=PATIENCE_S) == (UNSET, "de")
    assert contextvars.Context().run(manager.run, seen).result(timeout=PATIENCE_S) == (UNSET, "of the initializer")


def test_nothing_is_left_for_the_next_task(make_manager):
    manager = make_manager(max_workers=1, context=[request_id])
    assert manager.run(seen_and_changed, "mine").result(timeout=PATIENCE_S) == "r-1"
    assert contextvars.Context().run(manager.run, seen).result(timeout=PATIENCE_S)[0] == UNSET
    assert manager.run(seen_untold).result(timeout=PATIENCE_S) == "nobody told"
    assert list(manager.map(seen_and_changed, ["a", "b", "c"], chunksize=3)) == ["r-1"] * 3


def test_variables_that_nobody_named_stay_at_home(make_manager):
    manager = make_manager(context=[locale])
    assert manager.run(seen).result(timeout=PATIENCE_S) == (UNSET, "de")
    assert make_manager().run(seen).result(timeout=PATIENCE_S) == (UNSET, "en")


def test_a_variable_of_the_main_module_is_found(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from contextvars import ContextVar\n"
        "user = ContextVar('user')\n"
        "def who():\n"
        "    return user.get()\n"
        "if __name__ == '__main__':\n"
        "    from procbackground import Manager\n"
        "    with Manager(max_workers=1, context=[user]) as manager:\n"
        "        user.set('ada')\n"
        f"        assert manager.run(who).result(timeout={PATIENCE_S}) == 'ada'\n"
    )
    assert run_python(str(script)).returncode == 0


# -- what cannot be ------------------------------------------------------------------------------------------


def test_a_value_that_cannot_be_pickled_is_named_at_the_handle(carrying):
    request_id.set({"lock": threading.Lock()})  # type: ignore[arg-type]
    for give in (carrying.run, carrying.submit, lambda fn: carrying.run_task(Task(fn))):
        error = give(seen).exception(timeout=PATIENCE_S)
        assert isinstance(error, SerializationError)
        assert "the value of the context variable 'request_id' cannot be pickled: _thread.lock" in str(error)
        assert "['lock']" in str(error)
        assert error.task.fn is seen
    for chunksize in (None, 1, 2):
        with pytest.raises(SerializationError, match="context variable 'request_id'"):
            list(carrying.map(seen, range(4), chunksize=chunksize))
    request_id.set("fine")
    assert carrying.run(seen).result(timeout=PATIENCE_S) == ("fine", "de")


class LoadsHereOnly:
    def __init__(self) -> None:
        self.pid = os.getpid()

    def __setstate__(self, state: dict) -> None:
        if state["pid"] != os.getpid():
            raise RuntimeError("not at home")


def test_a_value_that_does_not_load_fails_the_task(carrying):
    request_id.set(LoadsHereOnly())  # type: ignore[arg-type]
    error = carrying.run(seen).exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    assert "context variables could not be loaded in the child (RuntimeError: not at home)" in str(error)


def test_functions_and_arguments_are_blamed_as_ever(carrying):
    error = carrying.run(seen, 1, threading.Lock()).exception(timeout=PATIENCE_S)
    assert "argument 1 cannot be pickled: _thread.lock" in str(error)
    lock = threading.Lock()
    error = carrying.run(lambda: lock).exception(timeout=PATIENCE_S)
    assert "the function cannot be pickled: _thread.lock, at closing over lock" in str(error)


@pytest.mark.parametrize(
    ("context", "error", "words"),
    [
        (request_id, TypeError, "not a single one"),
        (["request_id"], TypeError, "context variables, not 'request_id'"),
        ([ContextVar("homeless")], ValueError, "'homeless' is no variable of a module"),
    ],
)
def test_what_is_no_variable_that_a_child_can_find_is_refused_at_once(context, error, words):
    with pytest.raises(error, match=words):
        Manager(context=context)


def test_a_variable_of_a_main_module_that_no_child_can_import_is_refused_at_once():
    code = (
        "from contextvars import ContextVar; from procbackground import Manager\n"
        "user = ContextVar('user')\n"
        "try:\n"
        "    Manager(context=[user])\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    assert "'user' is a variable of `__main__`, which a child cannot import here" in run_python("-c", code).stdout


def run_python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
