"""Recipes and jobs: one place makes them, and tasks of equal function and limits share a recipe."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any

import pytest
import tenacity

from procbackground import Retry, SerializationError, Task, TaskType
from procbackground._state.job import Job, Recipe
from procbackground._submit import recipes
from procbackground._submit.carry import make_carrier
from procbackground._submit.defaults import Defaults
from procbackground._submit.recipes import Submitter
from procbackground._wire import frames as wire
from procbackground.errors import UnknownTaskTypeError
from procbackground.handle import TaskHandle

language: ContextVar[str] = ContextVar("language")


class Taken:
    """A supervisor that takes everything and does nothing."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.loops: list[Job] = []
        self.rejected: list[tuple[Job, BaseException]] = []
        self.adopted: list[tuple[Job, Any]] = []
        self.modules: list[str] = []
        self.accept_loop = self.loops.append
        self.preload = self.modules.append
        self.accepting_more = nullcontext

    def accept(self, job: Job, is_patient: bool = False) -> None:
        self.jobs.append(job)

    def is_running(self, job: Job) -> bool:
        return False

    def reject(self, job: Job, error: BaseException) -> None:
        self.rejected.append((job, error))

    def adopt(self, job: Job, failure: Any) -> None:
        self.adopted.append((job, failure))


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def submitter(taken: Taken) -> Submitter:
    return Submitter(taken, Defaults(None, None, None, None, False), {})  # type: ignore[arg-type]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that are made."""
    made: list[Recipe] = []

    def make(*args: Any, **kwargs: Any) -> Recipe:
        made.append(Recipe(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(recipes, "Recipe", make)
    return made


def run_task(submitter: Submitter, task: Task[Any]) -> None:
    submitter.submit_task(TaskHandle(submitter.port, None, task), task)


def module_function(*args: Any, **kwargs: Any) -> None:
    """A function that pickles as a name."""


@pytest.mark.parametrize(
    "limits",
    [
        lambda: {"retry": 3},
        lambda: {"retry": Retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(1))},
        lambda: {"timeout": 5.0, "memory_limit": "1GiB"},
        lambda: {"type": TaskType.LOOP, "interval": 1.0},
    ],
)
def test_tasks_of_equal_limits_share_a_recipe(
    submitter: Submitter, taken: Taken, made: list[Recipe], limits: Callable[[], dict[str, Any]]
):
    for number in range(100):
        run_task(submitter, Task(module_function, args=(number,), **limits()))
    assert len(made) == 1
    assert {job.recipe for job in taken.jobs + taken.loops} == set(made)
    assert len(taken.jobs + taken.loops) == 100


def test_tasks_of_other_limits_have_recipes_of_their_own(submitter: Submitter, made: list[Recipe]):
    for retry in (None, 2, 3, Retry(stop=tenacity.stop_after_attempt(4))):
        run_task(submitter, Task(module_function, retry=retry))
    assert len(made) == 4


def test_calls_and_failed_rows_of_a_function_share_a_recipe(submitter: Submitter, taken: Taken, made: list[Recipe]):
    submitter.submit_call(module_function, (1,), {})
    submitter.submit_call(module_function, (2,), {"key": 3})
    submitter.submit_failed_row(module_function, (4,), b"failure")
    assert len(made) == 1
    assert [job.flags for job in taken.jobs] == [wire.IS_REUSABLE, wire.IS_REUSABLE | wire.HAS_KWARGS]
    assert [failure for _, failure in taken.adopted] == [b"failure"]
    assert taken.modules == [__name__]


def test_a_function_with_a_state_has_a_recipe_for_each_call(submitter: Submitter, taken: Taken, made: list[Recipe]):
    state = [1]
    for _ in range(3):
        submitter.submit_call(lambda: state, (), {})
    assert len(made) == 3
    assert [job.flags for job in taken.jobs] == [0, 0, 0]
    assert taken.modules == []


def test_recipes_that_are_kept_are_bounded(submitter: Submitter, monkeypatch: pytest.MonkeyPatch, made: list[Recipe]):
    monkeypatch.setattr(recipes, "KEPT_RECIPES", 3)
    for number in range(10):
        run_task(submitter, Task(module_function, priority=number))
        assert len(submitter._task_recipes) <= 3


def test_an_unpicklable_argument_is_rejected_with_its_task(submitter: Submitter, taken: Taken):
    for _ in range(2):  # the second call takes the shortcut
        handle = submitter.submit_call(module_function, (threading.Lock(),), {})
        job, error = taken.rejected.pop()
        assert job.handle is handle
        assert isinstance(error, SerializationError)
        assert error.task is handle.task
        submitter.submit_call(module_function, (), {})
    assert len(taken.jobs) == 2


def test_an_unpicklable_function_is_rejected_with_its_name(submitter: Submitter, taken: Taken):
    lock = threading.Lock()
    submitter.submit_call(lambda: lock, (), {})
    ((job, error),) = taken.rejected
    assert isinstance(error, SerializationError)
    assert "<lambda>" in job.recipe.name


def test_an_unpicklable_row_raises(submitter: Submitter, taken: Taken):
    with pytest.raises(SerializationError):
        submitter.submit_failed_row(module_function, (threading.Lock(),), b"failure")
    with pytest.raises(SerializationError):
        submitter.submit_chunk(TaskHandle(submitter.port, None, ()), module_function, ([threading.Lock()],), False)
    assert not taken.jobs + taken.loops + taken.adopted + taken.rejected  # type: ignore[operator]


def test_a_chunk_says_so_in_its_flags_and_is_not_retried_as_a_whole(taken: Taken):
    submitter = Submitter(taken, Defaults(3, None, None, None, False), {})  # type: ignore[arg-type]
    submitter.submit_chunk(TaskHandle(submitter.port, None, ()), module_function, ([1, 2],), True)
    (job,) = taken.jobs
    assert job.flags == wire.IS_REUSABLE | wire.PER_ITEM | wire.MAY_END_EARLY
    assert job.recipe.is_chunk
    assert job.recipe.retry is None


def test_context_variables_travel_by_the_same_way(taken: Taken, made: list[Recipe]):
    carrier = make_carrier([language])
    plain = Submitter(taken, Defaults(None, None, None, None, False), {})  # type: ignore[arg-type]
    carrying = Submitter(taken, Defaults(None, None, None, None, False), {}, carrier)  # type: ignore[arg-type]
    plain.submit_call(module_function, (1,), {})
    for submitter in (carrying, carrying.in_present_context(), carrying.in_present_context()):
        submitter.submit_call(module_function, (1,), {})
    assert len(made) == 2
    assert [job.flags for job in taken.jobs] == [wire.IS_REUSABLE] * 4
    assert not carrying.call_recipes  # where the shortcut of `Manager.run` looks


def test_an_unknown_type_raises_before_anything_is_given(submitter: Submitter, taken: Taken):
    with pytest.raises(UnknownTaskTypeError, match="sometimes"):
        run_task(submitter, Task(module_function, type="sometimes"))  # type: ignore[arg-type]
    assert not taken.jobs + taken.loops


def test_rows_are_remembered_for_functions_that_stay_the_same(submitter: Submitter):
    submitter.remember_rows(module_function, 64)
    submitter.remember_rows(lambda: None, 64)
    assert submitter.recall_rows(module_function) == 64
    assert submitter.with_fields({"priority": 1}).recall_rows(module_function) == 64
    assert len(submitter._chunk_rows) == 1
