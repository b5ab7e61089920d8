"""`Task`: its fields, the values that it refuses, and its name."""

import dataclasses
import datetime
import functools
import math
import pickle

import pytest

from procbackground.retry import Retry
from procbackground.task import NO_LIMIT, Task, TaskType, check_duration, parse_size, qualified_name


class Callme:
    def __call__(self) -> int:
        return 1

    def bound(self) -> int:
        return 2


def test_task_has_no_limits_of_its_own_unless_given():
    task = Task(len)
    assert task.args == ()
    assert task.kwargs == {}
    assert task.meta == {}
    assert task.type is TaskType.ONE_OFF
    assert task.name == "len"
    assert task.retry is task.timeout is task.deadline is task.stalled_threshold is task.memory_limit is None
    assert task.priority == 0
    assert task.interval == 0
    assert task.isolate is False


def test_defaults_are_not_shared_between_tasks():
    assert Task(len).kwargs is not Task(len).kwargs
    assert Task(len).meta is not Task(len).meta


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Task)])
def test_task_is_frozen(name: str):
    task = Task(len)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(task, name, None)


def test_task_equals_only_itself_and_can_be_a_key():
    task = Task(len, ("a",))
    assert task == task
    assert task != Task(len, ("a",))
    assert {task: 1}[task] == 1


def test_task_can_be_made_anew_with_other_limits():
    task = Task(len, ("abc",), timeout=3, retry=2, memory_limit="1KiB")
    other = dataclasses.replace(task, timeout=5)
    assert (other.fn, other.args, other.timeout, other.memory_limit) == (len, ("abc",), 5, 1024)
    assert other.retry is task.retry


def test_task_survives_pickling():
    task = pickle.loads(pickle.dumps(Task(len, ("abc",), name="count", timeout=3)))
    assert (task.fn, task.args, task.name, task.timeout) == (len, ("abc",), "count", 3)


def test_args_of_any_iterable_become_a_tuple():
    assert Task(max, [1, 2]).args == (1, 2)
    assert Task(max, (n for n in (1, 2))).args == (1, 2)


@pytest.mark.parametrize("args", ["abc", b"abc", 1, None, {"a": 1}, {1, 2}])
def test_a_single_argument_in_the_place_of_all_is_refused_with_what_to_write(args: object):
    with pytest.raises(TypeError, match="args=") as caught:
        Task(len, args)  # type: ignore[arg-type]
    assert f"args=({args!r},)" in str(caught.value)


def test_an_array_in_the_place_of_all_arguments_is_refused():
    numpy = pytest.importorskip("numpy")
    with pytest.raises(TypeError, match="args="):
        Task(len, numpy.zeros(1000))


@pytest.mark.parametrize("kwargs", ["abc", 1, [("a", 1)], None])
def test_kwargs_must_be_a_mapping(kwargs: object):
    with pytest.raises(TypeError, match="kwargs"):
        Task(len, (), kwargs)  # type: ignore[arg-type]


async def count_in_loop() -> int:
    return 1


async def count_up():
    yield 1


class AsyncCallme:
    async def __call__(self) -> int:
        return 1

    async def bound(self) -> int:
        return 2


@pytest.mark.parametrize(
    "fn", [count_in_loop, count_up, AsyncCallme(), AsyncCallme().bound, functools.partial(count_in_loop)]
)
def test_an_async_function_is_refused_with_what_to_do(fn: object):
    with pytest.raises(TypeError, match=r"asyncio\.run"):
        Task(fn)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", ["timeout", "deadline", "stalled_threshold", "interval"])
@pytest.mark.parametrize("seconds", ["30", "30s", datetime.timedelta(seconds=30), [30]])
def test_a_duration_that_is_no_number_is_refused_with_what_to_write(limit: str, seconds: object):
    with pytest.raises(TypeError, match=limit) as caught:
        Task(len, **{limit: seconds})
    assert f"{limit}=30" in str(caught.value)


@pytest.mark.parametrize("retry", ["3", 3.0, [3]])
def test_a_retry_that_is_neither_a_policy_nor_an_int_is_refused(retry: object):
    with pytest.raises(TypeError, match="attempts in total"):
        Task(len, retry=retry)  # type: ignore[arg-type]


def test_a_size_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="512MiB"):
        Task(len, memory_limit=[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("fn", [None, 3, "len", [len]])
def test_fn_must_be_callable(fn: object):
    with pytest.raises(TypeError, match="callable"):
        Task(fn)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", ["timeout", "deadline", "stalled_threshold"])
@pytest.mark.parametrize("seconds", [0, -1, -0.5, math.nan, -math.inf])
def test_duration_must_be_more_than_nothing(limit: str, seconds: float):
    with pytest.raises(ValueError, match=limit):
        Task(len, **{limit: seconds})


@pytest.mark.parametrize("limit", ["timeout", "deadline", "stalled_threshold"])
@pytest.mark.parametrize("seconds", [None, 1, 0.001, math.inf, NO_LIMIT])
def test_duration_may_be_positive_infinite_or_left_to_the_manager(limit: str, seconds: float | None):
    assert getattr(Task(len, **{limit: seconds}), limit) == seconds
    check_duration(limit, seconds)


@pytest.mark.parametrize("interval", [-1, -0.001, math.nan])
def test_interval_must_not_be_negative(interval: float):
    with pytest.raises(ValueError, match="interval"):
        Task(len, type=TaskType.LOOP, interval=interval)


def test_int_for_retry_means_that_many_attempts():
    policy = Task(len, retry=3).retry
    assert isinstance(policy, Retry)
    assert policy.max_attempts == 3


@pytest.mark.parametrize("attempts", [0, -1, True, False])
def test_retry_must_allow_an_attempt(attempts: int):
    with pytest.raises(ValueError, match="retry"):
        Task(len, retry=attempts)


def test_policy_for_retry_is_kept_as_it_is():
    policy = Retry()
    assert Task(len, retry=policy).retry is policy


@pytest.mark.parametrize(
    ("size", "in_bytes"),
    [
        (1, 1),
        (4096, 4096),
        ("4096", 4096),
        ("1B", 1),
        ("2GiB", 2 * 1024**3),
        ("2G", 2 * 1024**3),
        ("2GB", 2 * 1000**3),
        ("512MB", 512 * 1000**2),
        ("512MiB", 512 * 1024**2),
        ("512M", 512 * 1024**2),
        ("512mib", 512 * 1024**2),
        ("512mb", 512 * 1000**2),
        ("1.5G", 3 * 1024**3 // 2),
        ("0.5KiB", 512),
        ("1T", 1024**4),
        ("1TB", 1000**4),
        (" 3 KiB ", 3 * 1024),
        ("3 kB", 3000),
    ],
)
def test_size_is_read_as_gnu_tools_do(size: int | str, in_bytes: int):
    assert parse_size(size) == in_bytes
    assert Task(len, memory_limit=size).memory_limit == in_bytes


@pytest.mark.parametrize("size", ["", "G", "1X", "1.G", ".5G", "-1G", "1GG", "1 G B", "1e3", "one", "1,5G", "0x10"])
def test_bad_size_is_refused_and_shown(size: str):
    with pytest.raises(ValueError, match="not a size") as caught:
        parse_size(size)
    assert repr(size) in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 0.5, "0", "0GiB", "0.1", -0.5])
def test_size_must_be_at_least_a_byte(size: int | str):
    with pytest.raises(ValueError, match="1 byte or more"):
        parse_size(size)
    with pytest.raises(ValueError, match="1 byte or more"):
        Task(len, memory_limit=size)


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (len, "len"),
        (Callme, "Callme"),
        (Callme(), "Callme"),
        (Callme().bound, "Callme.bound"),
        (Callme.bound, "Callme.bound"),
        (functools.partial(len, ()), "len"),
        (functools.partial(functools.partial(Callme().bound)), "Callme.bound"),
        (functools.partial(Callme()), "Callme"),
        (lambda: None, "<lambda>"),
        (" ".join, "str.join"),
    ],
)
def test_task_is_called_after_its_function(fn: object, name: str):
    assert qualified_name(fn) == Task(fn).name == name  # type: ignore[arg-type]


def test_function_in_a_function_is_called_by_its_whole_path():
    def inner() -> None: ...

    assert Task(inner).name.endswith(".<locals>.inner")


def test_given_name_wins():
    assert Task(len, name="count").name == "count"


def test_type_compares_with_plain_strings():
    assert TaskType.LOOP == "loop"
    assert TaskType.ONE_OFF == "one_off"
