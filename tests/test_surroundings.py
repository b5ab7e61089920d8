"""Workers have the environment, umask, directory, `sys.path` and limits of the parent when the manager is made."""

from __future__ import annotations

import multiprocessing
import os
import resource
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from procbackground import InitializerError, Manager, Task, current
from tests.support.gate import PATIENCE_S
from tests.support.tasks import plain

METHODS = ["forkserver", pytest.param("spawn", marks=pytest.mark.slow), "fork"]
LIMIT = resource.RLIMIT_CORE  # which nothing here needs


def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def whole_environment() -> dict[str, str]:
    return dict(os.environ)


def present_umask(folder: str) -> int:
    """Return the bits that a new file does not get."""
    path = os.path.join(folder, f"file{os.getpid()}")
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o777))
    return 0o777 & ~stat.S_IMODE(os.stat(path).st_mode)


def path_and_directory() -> tuple[list[str], str]:
    return sys.path, os.getcwd()


def limits(number: int) -> tuple[int, int]:
    return resource.getrlimit(number)


def hour_of_noon() -> int:
    """Return the hour that the clock shows at noon UTC."""
    return time.localtime(12 * 3600).tm_hour


def variables_of_second_attempt(name: str) -> str | None:
    if current().attempt == 1:
        os._exit(3)
    return os.environ.get(name)


def colours_of_nested(method: str) -> list[str | None]:
    os.environ["COLOUR"] = "inner"
    with Manager(max_workers=1, mp_context=multiprocessing.get_context(method)) as manager:
        os.environ["COLOUR"] = "later"
        return manager.run(variables, "COLOUR", "SHAPE").result(timeout=PATIENCE_S)


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> Any:
    return multiprocessing.get_context(request.param)


def ask(manager: Manager, fn: Any, *args: Any) -> Any:
    return manager.run(fn, *args).result(timeout=PATIENCE_S)


def test_variables_are_those_of_when_the_manager_is_made(make_manager, context, monkeypatch):
    monkeypatch.setenv("COLOUR", "blue")
    monkeypatch.setenv("SHAPE", "round")
    assert ask(make_manager(mp_context=context), variables, "COLOUR", "SHAPE") == ["blue", "round"]
    monkeypatch.setenv("COLOUR", "red")
    monkeypatch.delenv("SHAPE")
    manager = make_manager(mp_context=context, retry=2)
    monkeypatch.setenv("COLOUR", "green")
    monkeypatch.setenv("SHAPE", "square")
    assert ask(manager, variables, "COLOUR", "SHAPE") == ["red", None]
    assert ask(manager, variables_of_second_attempt, "COLOUR") == "red"
    assert manager.run_task(Task(variables, args=("COLOUR",), isolate=True)).result(PATIENCE_S) == ["red"]


def test_the_whole_environment_is_the_parent_s(make_manager, context, monkeypatch):
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("ODD", os.fsdecode(b"\xff\xfe"))
    expected = dict(os.environ)
    assert ask(make_manager(mp_context=context), whole_environment) == expected


def test_env_goes_before_the_parent_s(make_manager, context, monkeypatch):
    monkeypatch.setenv("COLOUR", "blue")
    monkeypatch.setenv("SHAPE", "round")
    manager = make_manager(mp_context=context, env={"COLOUR": "red", "SHAPE": None})
    assert ask(manager, variables, "COLOUR", "SHAPE") == ["red", None]


def test_a_nested_manager_has_those_of_the_worker(make_manager, context, monkeypatch):
    monkeypatch.setenv("SHAPE", "round")
    manager = make_manager(mp_context=context)
    assert ask(manager, colours_of_nested, context.get_start_method()) == ["inner", "round"]


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="no time zones by variable")
def test_the_time_zone_takes_effect(make_manager, context, monkeypatch):
    monkeypatch.setenv("TZ", "XYZ-5")
    assert ask(make_manager(mp_context=context), hour_of_noon) == 17


def test_the_umask_is_the_parent_s(make_manager, context, tmp_path):
    before = os.umask(0o027)
    try:
        manager = make_manager(mp_context=context)
        os.umask(0o022)
        assert ask(manager, present_umask, str(tmp_path)) == 0o027
    finally:
        os.umask(before)


def test_path_and_directory_are_those_of_when_the_manager_is_made(make_manager, context, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend("relative")
    expected = list(sys.path), str(tmp_path / "here")
    manager = make_manager(mp_context=context)
    monkeypatch.undo()
    assert ask(manager, path_and_directory) == expected


def test_modules_of_a_path_that_was_added_later_are_found(make_manager, context, tmp_path, monkeypatch):
    (tmp_path / "added_later.py").write_text("def answer(): return 42\n")
    manager = make_manager(mp_context=context)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "added_later", raising=False)
    import added_later  # type: ignore[import-not-found]

    assert ask(manager, added_later.answer) == 42


@pytest.mark.parametrize("change", ["lower", "raise"])
def test_limits_are_the_parent_s(make_manager, context, change):
    soft, hard = before = resource.getrlimit(LIMIT)
    most = 1 << 30 if hard == resource.RLIM_INFINITY else hard
    if most < 4096:
        pytest.skip("there is nothing to lower")
    resource.setrlimit(LIMIT, (2048, hard))
    try:
        if change == "raise":
            # The fork server, should it be new, has the lower one.
            assert ask(make_manager(mp_context=context), limits, LIMIT)[0] == 2048
            resource.setrlimit(LIMIT, (most, hard))
        expected = resource.getrlimit(LIMIT)
        manager = make_manager(mp_context=context)
        resource.setrlimit(LIMIT, before)
        assert ask(manager, limits, LIMIT) == expected
    finally:
        resource.setrlimit(LIMIT, (soft, hard))


def test_a_directory_that_is_gone_is_an_error(make_manager, context, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    manager = make_manager(mp_context=context)
    monkeypatch.chdir("/")
    home.rmdir()
    error = manager.run(plain.square, 3).exception(timeout=PATIENCE_S)
    assert isinstance(error, InitializerError)
    assert f"a worker could not enter its cwd {str(home)!r}: " in str(error)


def test_the_parent_s_own_are_left_alone(make_manager, context):
    before = dict(os.environ), os.getcwd(), list(sys.path), resource.getrlimit(LIMIT)
    ask(make_manager(mp_context=context, env={"COLOUR": "blue"}, cwd=Path("/")), plain.own_pid)
    assert before == (dict(os.environ), os.getcwd(), list(sys.path), resource.getrlimit(LIMIT))
