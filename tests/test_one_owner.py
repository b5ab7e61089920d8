"""One owner: the supervisor thread alone calls the scheduler, and no code of the user's runs in it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tenacity import stop_after_attempt

from procbackground import Manager, Retry, Task, TaskType
from procbackground._state.scheduler import Scheduler
from procbackground._testing import View
from procbackground.observers import Observer
from tests.support.engine import OwnNode
from tests.support.gate import PATIENCE_S
from tests.support.tasks import failing, plain

seen: dict[str, set[threading.Thread]] = {}


def note(what: str) -> None:
    seen.setdefault(what, set()).add(threading.current_thread())


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


def load_noting() -> str:
    note("unpickling of a value")
    return "value"


class Noting:
    """A value that notes the thread in which it is loaded."""

    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        return load_noting, ()


class LoadNoting(Exception):
    """An error that notes the thread in which it is loaded."""

    def __setstate__(self, state: Any) -> None:
        note("unpickling of an error")

    def __reduce__(self) -> tuple[Any, ...]:
        return LoadNoting, (), {"a": 1}


def give_noting() -> Noting:
    return Noting()


def raise_noting() -> None:
    raise LoadNoting


def log_something() -> None:
    logging.getLogger("noting").warning("something")


def noting_policy(state: Any) -> float:
    note("retry policy")
    return 0.0


class NotingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note("log handler")


class NotingObserver(Observer):
    def on_task_succeeded(self, event: Any) -> None:
        note("observer")


def work_from_many_threads(manager: Manager) -> None:
    """Make calls of all kinds, in several threads at once."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            handle = manager.run(give_noting)
            handle.add_done_callback(lambda _: note("callback"))
            handle.result(timeout=PATIENCE_S)
            policy = Retry(wait=noting_policy, stop=stop_after_attempt(2))
            assert manager.run_task(Task(raise_noting, retry=policy)).exception(timeout=PATIENCE_S) is not None
            manager.run(log_something).result(timeout=PATIENCE_S)
            list(manager.map(plain.square, range(50)))
            list(manager.map(failing.fail_if_negative, [1, -2, 3], chunksize=3, return_exceptions=True))
            list(manager.stream(Task(plain.square, args=(number,)) for number in range(5)))
            manager.run_task(Task(plain.nothing, type=TaskType.LOOP, interval=0.01)).cancel()
            manager.run(plain.pause, PATIENCE_S).cancel()
            manager.wait(timeout=0)
            manager.stats(), manager.report(), manager.processes(), manager.dump(), repr(manager)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize("with_engine", [False, True])
def test_calls_of_all_threads_reach_the_scheduler_by_the_supervisor(monkeypatch, make_manager, with_engine):
    manager = make_manager(**({"engine": OwnNode()} if with_engine else {}))
    manager.run(pow, 2, 3).result(timeout=PATIENCE_S)
    scheduler = manager._supervisor.loop.scheduler
    for name, method in vars(Scheduler).items():
        if callable(method) and not name.startswith("__"):
            monkeypatch.setattr(Scheduler, name, noting_call(name, method, scheduler))
    supervisor = View(manager).supervisor_thread
    work_from_many_threads(manager)
    assert manager.cancel(timeout=PATIENCE_S)
    assert not manager.close(timeout=PATIENCE_S).left
    of_scheduler = {name.removeprefix("scheduler: "): threads for name, threads in seen.items() if ": " in name}
    assert len(of_scheduler) > 8
    assert {name for name, threads in of_scheduler.items() if threads != {supervisor}} == set()


def noting_call(name: str, method: Callable[..., Any], scheduler: Scheduler) -> Callable[..., Any]:
    def call(self: Scheduler, *args: Any, **kwargs: Any) -> Any:
        if self is scheduler:  # the nodes of an engine in this process have others
            note(f"scheduler: {name}")
        return method(self, *args, **kwargs)

    return call


def test_no_code_of_the_users_runs_in_the_supervisor_thread(make_manager):
    handler = NotingHandler()
    logging.getLogger("noting").addHandler(handler)
    try:
        manager = make_manager(observer=NotingObserver())
        manager.run(pow, 2, 3).result(timeout=PATIENCE_S)
        supervisor = View(manager).supervisor_thread
        work_from_many_threads(manager)
        assert not manager.close(timeout=PATIENCE_S).left
    finally:
        logging.getLogger("noting").removeHandler(handler)
    assert set(seen) == {
        "callback", "log handler", "observer", "retry policy", "unpickling of a value", "unpickling of an error",
    }  # fmt: skip
    assert {what for what, threads in seen.items() if supervisor in threads} == set()
