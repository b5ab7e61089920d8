"""When to try again: tenacity's strategies, asked in the parent and never slept on.

A pure decision: attempts and the time go in, a delay or None comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache
from operator import is_
from typing import TYPE_CHECKING, Any, TypeAlias

from procbackground._load import load

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.retry import retry_base
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

    StopStrategy: TypeAlias = stop_base | Callable[[RetryCallState], bool]
    WaitStrategy: TypeAlias = wait_base | Callable[[RetryCallState], float]
    RetryStrategy: TypeAlias = retry_base | Callable[[RetryCallState], bool]


__all__ = ["Retry"]


class Retry:
    """When to try again, in tenacity's own strategies under tenacity's own names and defaults.

    `stop` says when to give up (default: never; `stop_after_attempt(3)` allows three attempts in total), `wait` how
    many seconds to pause before the next attempt (default: none), `retry` which outcomes to try again after (default:
    any `Exception`). Everything in `tenacity.stop`, `tenacity.wait` and `tenacity.retry` works, combinations and users'
    own callables too. They are called in the parent, with a real `tenacity.RetryCallState`; the pause holds neither
    thread nor process. A task that raises `tenacity.TryAgain` is tried again whatever `retry` says, until `stop` says
    no.

    `max_attempts` is the number in `stop_after_attempt`, or None if `stop` is something else. `judges_results` is
    whether `retry` may ask for another attempt after a value: only then is it called for tasks that return.

    Two policies are equal if their strategies are: the same objects, or strategies of tenacity of the same type and
    with the same numbers and exception types.
    """

    __slots__ = ("_key", "judges_results", "max_attempts", "retry", "stop", "wait")

    def __init__(
        self,
        stop: StopStrategy | None = None,
        wait: WaitStrategy | None = None,
        retry: RetryStrategy | None = None,
    ) -> None:
        load("tenacity")  # on first use in the parent: the child imports this module too
        import tenacity

        for name, strategy in (("stop", stop), ("wait", wait), ("retry", retry)):
            # A class can be called, too, and whatever it makes counts as true: a retry for ever, or no retry at all.
            if strategy is not None and (not callable(strategy) or isinstance(strategy, type)):
                example = "stop_after_attempt(3)" if name == "stop" else "wait_fixed(1)"
                if name == "retry":
                    example = "retry_if_exception_type(ConnectionError)"
                raise TypeError(f"{name} takes a tenacity strategy or a callable, such as {example}, not {strategy!r}")
        self.stop: Callable[[Any], Any] = tenacity.stop_never if stop is None else stop
        self.wait: Callable[[Any], Any] = tenacity.wait_none() if wait is None else wait
        self.retry: Callable[[Any], Any] = tenacity.retry_if_exception_type() if retry is None else retry
        # A value needs the policy's opinion only if the policy can ask for results at all. tenacity's exception
        # strategies cannot, and knowing that keeps tenacity off the path of a task that simply succeeds.
        asks_exceptions_only = tenacity.retry_if_exception.__call__
        self.judges_results: bool = getattr(type(self.retry), "__call__", None) is not asks_exceptions_only  # noqa: B004
        self.max_attempts: int | None = (
            stop.max_attempt_number if isinstance(stop, tenacity.stop_after_attempt) else None
        )

    @classmethod
    def of_attempts(cls, attempts: int) -> Retry:
        """Return the policy that an int stands for: that many attempts in total, without a pause.

        It is one object for each int, so do not change it.
        """
        if isinstance(attempts, bool) or attempts < 1:
            raise ValueError(
                f"retry is the number of attempts in total, the first included: 1 or more, not {attempts!r}"
            )
        if cls is Retry:
            return _policy_of_attempts(attempts)
        load("tenacity")
        import tenacity

        return cls(stop=tenacity.stop_after_attempt(attempts))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Make the strategies of a policy that an int stands for, when somebody looks at one."""
            if name not in ("stop", "wait", "retry") or not hasattr(self, "_key"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            load("tenacity")
            import tenacity

            attempts = self.max_attempts
            Retry.__init__(self, stop=tenacity.stop_after_attempt(attempts))
            self._key = (self.stop, self.wait, self.retry), attempts
            return getattr(self, name)

    @property
    def _is_int(self) -> bool:
        """Whether an int stands for it, and nobody has looked at its strategies."""
        return bool(getattr(self, "_key", ((),))[0] is None)

    @property
    def can_retry(self) -> bool:
        """Whether a second attempt is possible at all."""
        return self.max_attempts != 1

    # Tasks of one function with equal policies share one recipe. Without that, each `Task(retry=3)` would pickle its
    # function anew, which costs four fifths of the throughput of tiny tasks.

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not Retry or type(other) is not Retry:
            return NotImplemented  # a subclass may decide by more than the three strategies
        return bool(self._equality_key() == other._equality_key())

    def __hash__(self) -> int:
        return hash(self._equality_key()) if type(self) is Retry else object.__hash__(self)

    def _equality_key(self) -> Any:
        try:
            made_of, key = self._key
            if made_of is None or all(map(is_, made_of, (self.stop, self.wait, self.retry))):
                return key
        except AttributeError:
            pass
        strategies = (self.stop, self.wait, self.retry)
        key = tuple(map(_key_of_strategy, strategies))
        if counts_only(self):
            # As that of the int, whose strategies need not be made for it.
            key = getattr(self.stop, "max_attempt_number", key)
        self._key: tuple[tuple[Any, ...] | None, Any] = strategies, key  # it takes 2 µs to make
        return key

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        # Without the key: it may contain ids, which mean nothing in another process.
        return None, {name: getattr(self, name) for name in self.__slots__ if name != "_key"}

    def __repr__(self) -> str:
        return f"Retry(stop={self.stop!r}, wait={self.wait!r}, retry={self.retry!r})"

    def next_delay_s(
        self,
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
        attempt_number: int,
        outcome: tuple[bool, Any],
        first_started_s: float,
        idle_for_s: float,
        now_s: float,
    ) -> float | None:
        """Return the seconds to wait before the next attempt, or None if there is none.

        `outcome` is (failed, exception or value). The order of the questions is tenacity's: `retry`, then `wait`,
        then `stop`, which therefore sees the upcoming pause.
        """
        import tenacity

        failed, value = outcome
        # Interrupts, exits and cancellations are decisions to end, not faults to retry.
        if failed and not isinstance(value, Exception):
            return None
        retrying = tenacity.Retrying(stop=self.stop, wait=self.wait, retry=self.retry)
        state = tenacity.RetryCallState(retrying, *call)
        state.attempt_number = attempt_number
        state.start_time = first_started_s
        state.idle_for = idle_for_s
        state.outcome = tenacity.Future(attempt_number)
        if failed:
            state.outcome.set_exception(value)
        else:
            state.outcome.set_result(value)
        state.outcome_timestamp = now_s
        # As in tenacity, a task asks for another attempt by raising `TryAgain`, whatever the predicate says.
        if not (failed and isinstance(value, tenacity.TryAgain)) and not self.retry(state):
            return None
        pause = self.wait(state)
        try:
            delay_s = max(0.0, float(pause))
        except OverflowError:
            delay_s = math.inf  # an int that no float can hold
        state.upcoming_sleep = delay_s
        return None if self.stop(state) else delay_s


def as_retry(retry: Any) -> Retry | None:
    """Return the policy that a `retry=` stands for. Raises: `TypeError`, `ValueError`."""
    if retry is None or isinstance(retry, Retry):
        return retry
    if isinstance(retry, int):
        return Retry.of_attempts(retry)
    raise TypeError(
        "retry takes a Retry, or an int: the number of attempts in total (retry=3 tries again twice); "
        f"not {type(retry).__name__}"
    )


@lru_cache(maxsize=64)
def _policy_of_attempts(attempts: int) -> Retry:
    """Return a policy without its strategies, as few programs look at them: tenacity, which loads `asyncio`, would be
    a third of a first result's imports, and 6 MiB."""
    policy = object.__new__(Retry)
    policy.max_attempts = attempts
    policy.judges_results = False
    policy._key = None, attempts
    return policy


@cache
def _parameters_by_strategy() -> dict[type, tuple[str, ...]]:
    """Return tenacity's strategies that are wholly described by a few attributes, and the names of these."""
    import tenacity

    exponential = ("multiplier", "min", "max", "exp_base")
    return {
        type(tenacity.stop_never): (),
        tenacity.stop_after_attempt: ("max_attempt_number",),
        tenacity.stop_after_delay: ("max_delay",),
        tenacity.wait_none: (),
        tenacity.wait_fixed: ("wait_fixed",),
        tenacity.wait_random: ("wait_random_min", "wait_random_max"),
        tenacity.wait_incrementing: ("start", "increment", "max"),
        tenacity.wait_exponential: exponential,
        tenacity.wait_random_exponential: exponential,
        tenacity.retry_if_exception_type: ("exception_types",),
    }


def _key_of_strategy(strategy: Any) -> tuple[Any, ...]:
    """Return what equal strategies have in common; the id of one that only equals itself."""
    names = _parameters_by_strategy().get(type(strategy))
    try:
        if names is not None:
            key = (type(strategy), *(getattr(strategy, name) for name in names))
            hash(key)
            return key
    except (AttributeError, TypeError):
        pass  # another release of tenacity, or a list where a tuple is usual
    return (id(strategy),)  # the policy that has the key keeps the strategy alive, so the id stays its own


def counts_only(retry: Retry) -> bool:
    """Whether all that a policy looks at is how many attempts there were, and that the last one failed.

    Then `delay_by_count_s` is its answer.
    """
    if retry._is_int:
        return True
    import tenacity

    return (
        type(retry) is Retry
        and (retry.stop is tenacity.stop_never or type(retry.stop) is tenacity.stop_after_attempt)
        and type(retry.wait) is tenacity.wait_none
        and type(retry.retry) is tenacity.retry_if_exception_type
        and getattr(retry.retry, "exception_types", None) is Exception
    )


def delay_by_count_s(retry: Retry, attempt_number: int, error: BaseException | None) -> float | None:
    """Answer as `retry.next_delay_s` does, where `counts_only`. This calls nothing of the user's, and takes no state of
    tenacity's, which costs 0.1 ms to make for the first time in a while."""
    if not isinstance(error, Exception):
        return None
    most = retry.max_attempts if retry._is_int else getattr(retry.stop, "max_attempt_number", None)
    return 0.0 if most is None or attempt_number < most else None
