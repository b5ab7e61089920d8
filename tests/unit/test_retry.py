"""What a retry policy decides from outcome, times and number of attempts, without waiting."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from procbackground.retry import Retry, counts_only, delay_by_count_s

CALL: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] = (divmod, (7, 2), {})


def delay_s(
    policy: Retry,
    attempt: int = 1,
    error: BaseException | None = None,
    value: object = None,
    first_started_s: float = 100.0,
    idle_for_s: float = 0.0,
    now_s: float = 101.0,
) -> float | None:
    outcome = (True, error) if error is not None else (False, value)
    return policy.next_delay_s(CALL, attempt, outcome, first_started_s, idle_for_s, now_s)


def test_policy_without_arguments_tries_again_for_ever_at_once_after_any_exception():
    policy = Retry()
    assert delay_s(policy, 1_000_000, ValueError()) == 0
    assert delay_s(policy, value=None) is None
    assert policy.can_retry
    assert policy.max_attempts is None


@pytest.mark.parametrize(
    "stop", [None, tenacity.stop_never, tenacity.stop_after_attempt(1), tenacity.stop_after_attempt(3)]
)
@pytest.mark.parametrize("wait", [None, tenacity.wait_none()])
def test_a_policy_that_only_counts_answers_as_tenacity_does(stop: Any, wait: Any):
    policy = Retry(stop, wait)
    assert counts_only(policy)
    for attempt in range(1, 6):
        for error in (ValueError(), KeyboardInterrupt(), None):
            assert delay_by_count_s(policy, attempt, error) == delay_s(policy, attempt, error)


def test_a_policy_is_looked_at_when_it_is_asked():
    policy = Retry()
    policy.stop = tenacity.stop_after_attempt(2)
    assert counts_only(policy)
    assert delay_by_count_s(policy, 2, ValueError()) is None
    policy.wait = tenacity.wait_fixed(1)
    assert not counts_only(policy)


class _OwnRetry(Retry):
    """What a subclass does is its own."""


class _StopEarly(tenacity.stop_after_attempt):
    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return True


@pytest.mark.parametrize(
    "policy",
    [
        Retry(stop=tenacity.stop_after_delay(1)),
        Retry(stop=tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(1)),
        Retry(stop=_StopEarly(3)),
        _OwnRetry(),
        Retry(stop=lambda state: False),
        Retry(wait=tenacity.wait_fixed(1)),
        Retry(wait=lambda state: 0),
        Retry(retry=tenacity.retry_if_exception_type(OSError)),
    ],
)
def test_a_policy_that_asks_for_more_than_attempts_is_asked(policy: Retry):
    assert not counts_only(policy)


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), BaseException()])
def test_interrupts_and_exits_never_reach_the_policy(ending: BaseException):
    def asked(state: tenacity.RetryCallState) -> bool:
        raise AssertionError("the policy was asked")

    assert delay_s(Retry(stop=asked, wait=asked, retry=asked), error=ending) is None


def test_order_of_the_questions_is_retry_wait_stop():
    asked: list[str] = []

    def answer(question: str, reply: Any) -> Callable[[tenacity.RetryCallState], Any]:
        def ask(state: tenacity.RetryCallState) -> Any:
            asked.append(question)
            return reply

        return ask

    policy = Retry(retry=answer("retry", True), wait=answer("wait", 2.0), stop=answer("stop", False))
    assert delay_s(policy, error=ValueError()) == 2.0
    assert asked == ["retry", "wait", "stop"]
    asked.clear()
    policy = Retry(retry=answer("retry", False), wait=answer("wait", 2.0), stop=answer("stop", False))
    assert delay_s(policy, error=ValueError()) is None
    assert asked == ["retry"]


def test_stop_sees_the_upcoming_pause():
    seen: list[float] = []

    def stop(state: tenacity.RetryCallState) -> bool:
        seen.append(state.upcoming_sleep)
        return False

    delay_s(Retry(stop=stop, wait=tenacity.wait_fixed(7)), error=ValueError())
    assert seen == [7]


def test_stop_before_delay_gives_up_when_the_pause_would_go_past_it():
    policy = Retry(stop=tenacity.stop_before_delay(10), wait=tenacity.wait_fixed(4))
    assert delay_s(policy, error=ValueError(), first_started_s=0, now_s=5.9) == 4
    assert delay_s(policy, error=ValueError(), first_started_s=0, now_s=6.1) is None


def test_strategies_see_a_call_state_with_everything_in_it():
    seen: list[tenacity.RetryCallState] = []
    error = ValueError("x")

    def retry(state: tenacity.RetryCallState) -> bool:
        seen.append(state)
        return True

    delay_s(Retry(retry=retry), attempt=3, error=error, first_started_s=10, idle_for_s=2, now_s=15)
    (state,) = seen
    assert isinstance(state, tenacity.RetryCallState)
    assert (state.fn, state.args, state.kwargs) == CALL
    assert state.attempt_number == 3
    assert state.idle_for == 2
    assert state.seconds_since_start == 5
    assert state.outcome is not None
    assert state.outcome.failed
    assert state.outcome.exception() is error
    assert state.outcome.attempt_number == 3


def test_value_reaches_a_strategy_that_asks_for_results():
    policy = Retry(retry=tenacity.retry_if_result(lambda value: value is None))
    assert delay_s(policy, value=None) == 0
    assert delay_s(policy, value=3) is None
    assert delay_s(policy, error=ValueError()) is None


@pytest.mark.parametrize(
    ("retry", "again_after", "over_after"),
    [
        (tenacity.retry_if_exception_type(OSError), ConnectionError(), ValueError()),
        (tenacity.retry_if_not_exception_type(OSError), ValueError(), ConnectionError()),
        (tenacity.retry_if_exception_message(match="try"), ValueError("try again"), ValueError("no")),
        (tenacity.retry_if_exception(lambda error: len(error.args) == 1), ValueError(1), ValueError()),
        (
            tenacity.retry_any(tenacity.retry_if_exception_type(OSError), tenacity.retry_if_exception_type(KeyError)),
            KeyError(),
            ValueError(),
        ),
        (
            tenacity.retry_if_exception_type(OSError) & tenacity.retry_if_not_exception_type(ConnectionError),
            OSError(),
            ConnectionError(),
        ),
        (
            tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_exception_type(KeyError),
            OSError(),
            TypeError(),
        ),
        (lambda state: isinstance(state.outcome.exception(), KeyError), KeyError(), OSError()),
    ],
)
def test_retry_strategy_decides_after_which_errors(
    retry: Callable[[Any], bool], again_after: Exception, over_after: Exception
):
    assert delay_s(Retry(retry=retry), error=again_after) == 0
    assert delay_s(Retry(retry=retry), error=over_after) is None


def test_stop_strategies_combine():
    either = Retry(stop=tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(10))
    assert delay_s(either, 2, ValueError(), first_started_s=0, now_s=9) == 0
    assert delay_s(either, 3, ValueError(), first_started_s=0, now_s=9) is None
    assert delay_s(either, 2, ValueError(), first_started_s=0, now_s=11) is None
    both = Retry(stop=tenacity.stop_after_attempt(3) & tenacity.stop_after_delay(10))
    assert delay_s(both, 3, ValueError(), first_started_s=0, now_s=9) == 0
    assert delay_s(both, 3, ValueError(), first_started_s=0, now_s=11) is None


@pytest.mark.parametrize(
    ("wait", "delays_s"),
    [
        (tenacity.wait_none(), [0, 0, 0, 0]),
        (tenacity.wait_fixed(3), [3, 3, 3, 3]),
        (tenacity.wait_incrementing(start=1, increment=2), [1, 3, 5, 7]),
        (tenacity.wait_exponential(multiplier=1, max=5), [1, 2, 4, 5]),
        (tenacity.wait_fixed(3) + tenacity.wait_incrementing(start=1, increment=1), [4, 5, 6, 7]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(9)), [1, 9, 9, 9]),
        (lambda state: 10.0 * state.attempt_number, [10, 20, 30, 40]),
        (lambda state: -1, [0, 0, 0, 0]),
    ],
)
def test_wait_strategy_decides_how_long(wait: Callable[[Any], float], delays_s: list[float]):
    policy = Retry(wait=wait)
    assert [delay_s(policy, attempt, ValueError()) for attempt in (1, 2, 3, 4)] == delays_s


def test_random_wait_stays_within_its_bounds():
    policy = Retry(wait=tenacity.wait_random(1, 2))
    for _ in range(20):
        pause_s = delay_s(policy, error=ValueError())
        assert pause_s is not None
        assert 1 <= pause_s <= 2


def test_int_stands_for_that_many_attempts_in_all():
    policy = Retry.of_attempts(3)
    assert [delay_s(policy, attempt, ValueError()) for attempt in (1, 2, 3)] == [0, 0, None]
    assert policy.max_attempts == 3


def test_one_attempt_means_no_retry():
    assert not Retry.of_attempts(1).can_retry
    assert not Retry(stop=tenacity.stop_after_attempt(1)).can_retry
    assert Retry.of_attempts(2).can_retry


@pytest.mark.parametrize("attempts", [0, -3, True, False])
def test_int_must_allow_an_attempt(attempts: int):
    with pytest.raises(ValueError, match="1 or more"):
        Retry.of_attempts(attempts)


@pytest.mark.parametrize("name", ["stop", "wait", "retry"])
@pytest.mark.parametrize("strategy", [3, 0, "x", 1.5, ()])
def test_strategy_must_be_callable(name: str, strategy: object):
    with pytest.raises(TypeError, match=name):
        Retry(**{name: strategy})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("retry", "judges"),
    [
        (None, False),
        (tenacity.retry_if_exception_type(OSError), False),
        (tenacity.retry_if_exception(bool), False),
        (tenacity.retry_if_not_exception_type(OSError), False),
        (tenacity.retry_if_result(bool), True),
        (tenacity.retry_if_not_result(bool), True),
        (tenacity.retry_any(tenacity.retry_if_exception_type(OSError)), True),
        (tenacity.retry_always, True),
        (tenacity.retry_unless_exception_type(OSError), True),
        (lambda state: False, True),
    ],
)
def test_values_are_judged_only_where_a_strategy_may_ask_for_them(retry: Any, judges: bool):
    assert Retry(retry=retry).judges_results is judges


def test_error_of_a_users_strategy_comes_out_as_it_is():
    def broken(state: tenacity.RetryCallState) -> bool:
        raise ZeroDivisionError

    for name in ("retry", "wait", "stop"):
        with pytest.raises(ZeroDivisionError):
            delay_s(Retry(**{name: broken}), error=ValueError())


def test_policy_shows_what_it_is_made_of():
    assert "stop_after_attempt" in repr(Retry.of_attempts(2))


def twice(make: Callable[[], Retry]) -> tuple[Retry, Retry]:
    return make(), make()


def always(state: Any) -> bool:
    return True


@pytest.mark.parametrize(
    "make",
    [
        Retry,
        lambda: Retry(stop=tenacity.stop_after_attempt(3)),
        lambda: Retry(stop=tenacity.stop_after_delay(3), wait=tenacity.wait_fixed(1)),
        lambda: Retry(wait=tenacity.wait_random(1, 2)),
        lambda: Retry(wait=tenacity.wait_incrementing(1, 2, 3)),
        lambda: Retry(wait=tenacity.wait_exponential(max=10)),
        lambda: Retry(wait=tenacity.wait_random_exponential(max=10), retry=tenacity.retry_if_exception_type(OSError)),
        lambda: Retry(retry=tenacity.retry_if_exception_type((OSError, KeyError))),
        lambda: Retry(stop=always),
    ],
)
def test_policies_of_the_same_strategies_are_equal(make: Callable[[], Retry]):
    first, second = twice(make)
    assert first == second
    assert hash(first) == hash(second)
    assert pickle.loads(pickle.dumps(first)) == first
    assert copy.copy(first) == first


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Retry(), Retry(stop=tenacity.stop_after_attempt(3))),
        (Retry(stop=tenacity.stop_after_attempt(2)), Retry(stop=tenacity.stop_after_attempt(3))),
        (Retry(wait=tenacity.wait_exponential(max=3)), Retry(wait=tenacity.wait_random_exponential(max=3))),
        (Retry(retry=tenacity.retry_if_exception_type(OSError)), Retry()),
        (Retry(stop=lambda state: True), Retry(stop=lambda state: True)),
        # Combinations may contain anything, and so equal only themselves.
        (Retry(stop=tenacity.stop_never | always), Retry(stop=tenacity.stop_never | always)),  # type: ignore[operator]
        (Retry(), _OwnRetry()),
        (_OwnRetry(), _OwnRetry()),
    ],
)
def test_policies_of_other_strategies_differ(first: Retry, second: Retry):
    assert first != second
    assert hash(second) == hash(second)


def test_policies_with_exception_types_in_a_list_can_be_keys():
    first, second = twice(lambda: Retry(retry=tenacity.retry_if_exception_type([OSError])))  # type: ignore[arg-type]
    assert len({first, second}) == 2


def test_policy_that_was_changed_equals_what_it_is_now():
    policy, other = Retry(stop=tenacity.stop_after_attempt(2)), Retry(stop=tenacity.stop_after_attempt(3))
    assert policy != other
    policy.stop = tenacity.stop_after_attempt(3)
    assert policy == other
    assert hash(policy) == hash(other)


def test_a_policy_of_an_int_is_equal_whether_its_strategies_were_made_or_not():
    for is_looked_at in (False, True):
        policy, other = Retry.of_attempts(1234), Retry(stop=tenacity.stop_after_attempt(1234))
        assert policy._is_int is not is_looked_at
        assert (policy, hash(policy)) == (other, hash(other))
        assert counts_only(policy)
        for attempt in (1, 1233, 1234):
            assert delay_by_count_s(policy, attempt, ValueError()) == delay_by_count_s(other, attempt, ValueError())
        assert delay_s(policy, 1234, ValueError()) is None  # which looks at them
    assert repr(policy.stop) != ""
    assert policy.max_attempts == policy.stop.max_attempt_number == 1234  # type: ignore[attr-defined]
    assert not policy.judges_results
    for copied in (copy.copy(policy), pickle.loads(pickle.dumps(Retry.of_attempts(1235)))):
        assert copied == Retry.of_attempts(copied.max_attempts)


def test_an_int_stands_for_one_policy():
    assert Retry.of_attempts(3) is Retry.of_attempts(3)
    assert Retry.of_attempts(3) == Retry(stop=tenacity.stop_after_attempt(3))
