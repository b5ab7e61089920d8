"""Retries: tenacity's own strategies, asked in the parent; each retry in a freshly started process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping

import pytest
import tenacity
from tenacity import (
    retry_if_exception_type,
    retry_if_not_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    stop_never,
    wait_combine,
    wait_fixed,
    wait_incrementing,
    wait_none,
    wait_random,
    wait_random_exponential,
)

from procbackground import (
    MemoryLimitError,
    Outcome,
    Retry,
    SerializationError,
    Task,
    TaskTimeoutError,
    WorkerDiedError,
)
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import failing, plain
from tests.support.tasks.failing import Flaky


def failing_until(last_attempt, how="raises", **options):
    """Return a task that has a mishap in each attempt before `last_attempt`."""
    return Task(failing.mishap_before, args=(last_attempt, how), **options)


def test_no_policy_means_one_attempt(manager):
    handle = manager.run(failing.fail)
    with pytest.raises(Flaky):
        handle.result(timeout=PATIENCE_S)
    assert [attempt.number for attempt in handle.attempts] == [1]


def test_a_task_is_tried_again_until_it_succeeds(manager):
    handle = manager.run_task(failing_until(3, retry=Retry(stop=stop_after_attempt(5))))
    assert handle.result(timeout=PATIENCE_S)[0] == 3
    outcomes = [attempt.outcome for attempt in handle.attempts]
    assert outcomes == [Outcome.RAISED, Outcome.RAISED, Outcome.SUCCEEDED]


def test_the_last_error_is_the_callers_when_attempts_run_out(manager):
    handle = manager.run_task(Task(failing.fail, args=("each time",), retry=Retry(stop=stop_after_attempt(3))))
    with pytest.raises(Flaky, match="each time"):
        handle.result(timeout=PATIENCE_S)
    assert [attempt.number for attempt in handle.attempts] == [1, 2, 3]


def test_an_int_is_that_many_attempts(manager):
    handle = manager.run_task(Task(failing.fail, retry=2))
    assert isinstance(handle.exception(timeout=PATIENCE_S), Flaky)
    assert len(handle.attempts) == 2


def test_the_managers_policy_holds_for_run(make_manager):
    manager = make_manager(retry=Retry(stop=stop_after_attempt(2)))
    handle = manager.run(failing.fail)
    assert isinstance(handle.exception(timeout=PATIENCE_S), Flaky)
    assert len(handle.attempts) == 2


def test_the_managers_policy_may_be_an_int(make_manager):
    handle = make_manager(retry=2).run(failing.fail)
    assert isinstance(handle.exception(timeout=PATIENCE_S), Flaky)
    assert len(handle.attempts) == 2


def test_the_tasks_policy_beats_the_managers(make_manager):
    manager = make_manager(retry=3)
    handle = manager.run_task(Task(failing.fail, retry=1))
    assert isinstance(handle.exception(timeout=PATIENCE_S), Flaky)
    assert len(handle.attempts) == 1


@pytest.mark.parametrize("attempts", [0, -1])
def test_fewer_than_one_attempt_is_refused(attempts):
    with pytest.raises(ValueError, match="attempt"):
        Task(pow, retry=attempts)


def test_each_retry_runs_in_a_freshly_started_process(make_manager):
    manager = make_manager(max_workers=2)
    warm = {handle.result(timeout=PATIENCE_S) for handle in [manager.run(os.getpid) for _ in range(20)]}
    handle = manager.run_task(failing_until(4, retry=4))
    assert handle.result(timeout=PATIENCE_S) == (4, handle.attempts[-1].pid)
    pids = [attempt.pid for attempt in handle.attempts]
    assert len(set(pids)) == 4
    assert not set(pids[1:]) & warm


@pytest.mark.usefixtures("memory_to_itself")  # one of them takes a GiB
@pytest.mark.parametrize(
    ("how", "error_type", "outcome"),
    [
        ("raises", Flaky, Outcome.RAISED),
        ("exits", WorkerDiedError, Outcome.DIED),
        ("is killed", WorkerDiedError, Outcome.DIED),
        ("crashes", WorkerDiedError, Outcome.DIED),
        ("hangs", TaskTimeoutError, Outcome.TIMED_OUT),
        ("hoards", MemoryLimitError, Outcome.OVER_MEMORY),
        ("returns a lock", SerializationError, Outcome.NOT_SERIALIZED),
    ],
)
def test_every_kind_of_failure_goes_through_the_same_policy(make_manager, recorder, how, error_type, outcome):
    manager = make_manager(max_workers=1, observer=recorder, grace=1.0)
    limits = {"hangs": {"timeout": 0.5}, "hoards": {"memory_limit": "200MiB"}}.get(how, {})
    handle = manager.run_task(failing_until(2, how, retry=3, **limits))
    assert handle.result(timeout=PATIENCE_S)[0] == 2
    (event,) = recorder.wait_for("task_retrying")
    assert isinstance(event.error, error_type)
    first, last = handle.attempts
    assert (first.outcome, last.outcome) == (outcome, Outcome.SUCCEEDED)
    assert isinstance(first.error, error_type)
    assert last.error is None
    assert first.pid != last.pid


def test_an_attempt_tells_by_which_signal_it_ended(manager):
    handle = manager.run_task(failing_until(2, "is killed", retry=2))
    handle.result(timeout=PATIENCE_S)
    first, last = handle.attempts
    assert (first.exit_code, first.signal) == (-signal.SIGKILL, "SIGKILL")
    assert last.signal is None


@pytest.mark.parametrize(("how", "timeout"), [("is killed", None), ("exits", None), ("hangs", 0.5)])
def test_an_end_without_an_answer_takes_no_other_thread_where_the_policy_only_counts(make_manager, how, timeout):
    others = set(threading.enumerate())
    manager = make_manager(max_workers=1, grace=1.0)
    handle = manager.run_task(failing_until(2, how, retry=2, timeout=timeout))
    assert handle.result(timeout=PATIENCE_S)[0] == 2
    assert not [thread for thread in set(threading.enumerate()) - others if thread.name.endswith("-user-code")]


class Asked(Retry):
    """A policy with a method of its own, which notes where it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_in: list[str] = []

    def next_delay_s(self, *args, **kwargs):
        self.asked_in.append(threading.current_thread().name)
        return super().next_delay_s(*args, **kwargs)


class Arguments(Mapping):
    """No keyword arguments: notes where they are looked at."""

    def __init__(self, asked_in) -> None:
        self.asked_in = asked_in

    def __getitem__(self, key):
        raise KeyError(key)

    def __iter__(self):
        self.asked_in.append(threading.current_thread().name)
        return iter(())

    def __len__(self) -> int:
        return 0

    def __reduce__(self):
        return dict, ()


def test_a_policy_of_ones_own_is_asked_where_it_may_block(manager):
    policy = Asked()
    manager.run_task(failing_until(2, "is killed", retry=policy)).result(timeout=PATIENCE_S)
    assert len(policy.asked_in) == 1
    assert policy.asked_in[0].endswith("-user-code")


def test_a_policy_that_only_counts_looks_at_no_arguments(manager, gate):
    asked_in: list[str] = []
    handle = manager.run_task(Task(stop_at_gate, args=(gate.address,), kwargs=Arguments(asked_in), retry=2))
    pid = gate.wait_for_arrival()
    asked_in.clear()
    os.kill(pid, signal.SIGKILL)
    gate.wait_for_arrival()
    gate.open()
    handle.result(timeout=PATIENCE_S)
    assert asked_in == []


def test_an_attempt_tells_its_exit_code(manager):
    handle = manager.run_task(failing_until(2, "exits", retry=2))
    handle.result(timeout=PATIENCE_S)
    assert (handle.attempts[0].exit_code, handle.attempts[0].signal) == (3, None)


def test_retrying_tells_error_attempt_and_delay(make_manager, recorder):
    manager = make_manager(observer=recorder, retry=Retry(stop=stop_after_attempt(3), wait=wait_fixed(0.01)))
    handle = manager.run(failing.fail)
    handle.exception(timeout=PATIENCE_S)
    manager.close()
    events = recorder.events("task_retrying")
    assert [(event.attempt, event.delay) for event in events] == [(1, 0.01), (2, 0.01)]
    assert all(isinstance(event.error, Flaky) and event.handle is handle for event in events)
    assert recorder.kinds(handle)[-1] == "task_failed"
    assert recorder.events("task_failed")[0].attempt == 3


def test_stats_count_retries(make_manager):
    manager = make_manager(retry=3)
    manager.run(failing.fail).exception(timeout=PATIENCE_S)
    assert manager.stats().retried == 2


# -- tenacity's strategies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        wait_none(),
        wait_fixed(0.01),
        wait_random(0, 0.01),
        wait_random_exponential(multiplier=0.001, max=0.01),
        wait_incrementing(start=0, increment=0.005),
        wait_combine(wait_fixed(0.005), wait_random(0, 0.005)),
        wait_fixed(0.005) + wait_random(0, 0.005),
        lambda state: 0.001 * state.attempt_number,
    ],
    ids=["none", "fixed", "random", "random exponential", "incrementing", "combine", "sum", "own"],
)
def test_tenacitys_waits_work(make_manager, recorder, wait):
    manager = make_manager(observer=recorder, retry=Retry(stop=stop_after_attempt(3), wait=wait))
    assert manager.run_task(failing_until(3)).result(timeout=PATIENCE_S)[0] == 3
    assert all(0 <= event.delay <= 0.02 for event in recorder.wait_for("task_retrying", 2))


def test_waits_grow_with_the_attempts(make_manager, recorder):
    policy = Retry(stop=stop_after_attempt(4), wait=wait_incrementing(start=0.01, increment=0.01))
    make_manager(observer=recorder, retry=policy).run(failing.fail)
    delays = [event.delay for event in recorder.wait_for("task_retrying", 3)]
    assert delays == pytest.approx([0.01, 0.02, 0.03])


@pytest.mark.parametrize(
    ("stop", "attempts"),
    [
        (stop_after_attempt(2) | stop_after_delay(3600), 2),
        (stop_after_attempt(3) & stop_after_delay(0.000001), 3),
        (stop_never | stop_after_attempt(2), 2),
        (lambda state: state.attempt_number >= 2, 2),
    ],
    ids=["or", "and", "never or", "own"],
)
def test_tenacitys_stops_work(manager, stop, attempts):
    handle = manager.run_task(Task(failing.fail, retry=Retry(stop=stop)))
    assert isinstance(handle.exception(timeout=PATIENCE_S), Flaky)
    assert len(handle.attempts) == attempts


def test_stop_after_delay_ends_the_attempts_by_time(manager):
    policy = Retry(stop=stop_after_delay(0.3), wait=wait_fixed(0.05))
    handle = manager.run_task(Task(failing.fail, retry=policy))
    assert isinstance(handle.exception(timeout=PATIENCE_S), Flaky)
    assert handle.attempts[-1].ended - handle.attempts[0].started >= 0.2


def test_only_the_named_exceptions_are_retried(manager):
    policy = Retry(stop=stop_after_attempt(3), retry=retry_if_exception_type(OSError))
    other = manager.run_task(Task(failing.fail, retry=policy))
    named = manager.run_task(Task(failing.raise_this, args=(OSError("disk"),), retry=policy))
    assert isinstance(other.exception(timeout=PATIENCE_S), Flaky)
    assert isinstance(named.exception(timeout=PATIENCE_S), OSError)
    assert (len(other.attempts), len(named.attempts)) == (1, 3)


def test_a_death_can_be_told_from_an_exception(manager):
    policy = Retry(stop=stop_after_attempt(2), retry=retry_if_exception_type(WorkerDiedError))
    dying = manager.run_task(Task(failing.exit_hard, args=(1,), retry=policy))
    raising = manager.run_task(Task(failing.fail, retry=policy))
    dying.exception(timeout=PATIENCE_S)
    raising.exception(timeout=PATIENCE_S)
    assert (len(dying.attempts), len(raising.attempts)) == (2, 1)


def test_retry_strategies_combine(manager):
    either = retry_if_exception_type(OSError) | retry_if_result(lambda value: value is None)
    handle = manager.run_task(Task(plain.nothing, retry=Retry(stop=stop_after_attempt(2), retry=either)))
    both = retry_if_exception_type(Exception) & retry_if_not_exception_type(Flaky)
    spared = manager.run_task(Task(failing.fail, retry=Retry(stop=stop_after_attempt(2), retry=both)))
    spared.exception(timeout=PATIENCE_S)
    wait_until(handle.done, "the first is done")
    assert (len(handle.attempts), len(spared.attempts)) == (2, 1)


def test_a_result_can_be_asked_for_again(make_manager, recorder):
    manager = make_manager(observer=recorder)
    policy = Retry(stop=stop_after_attempt(5), retry=retry_if_result(lambda value: value[0] < 3))
    handle = manager.run_task(Task(plain.attempt_and_pid, retry=policy))
    assert handle.result(timeout=PATIENCE_S)[0] == 3
    assert [event.error for event in recorder.wait_for("task_retrying", 2)] == [None, None]
    assert len({attempt.pid for attempt in handle.attempts}) == 3


def test_the_policy_is_asked_in_the_parent_with_tenacitys_own_state(manager):
    seen = []
    lock = threading.Lock()  # a policy that holds one could not be sent to a child

    def stop(state):
        with lock:
            seen.append((os.getpid(), state))
        return state.attempt_number >= 2

    task = Task(plain.add, args=(1,), kwargs={"b": None}, retry=Retry(stop=stop))
    handle = manager.run_task(task)
    assert isinstance(handle.exception(timeout=PATIENCE_S), TypeError)
    assert [pid for pid, _ in seen] == [os.getpid()] * 2
    for number, (_, state) in enumerate(seen, 1):
        assert isinstance(state, tenacity.RetryCallState)
        assert state.attempt_number == number
        assert (state.fn, state.args, dict(state.kwargs)) == (plain.add, (1,), {"b": None})
        assert isinstance(state.outcome.exception(), TypeError)
        assert state.seconds_since_start >= 0


def test_idle_time_is_told_to_the_policy(manager):
    idle = []

    def stop(state):
        idle.append(state.idle_for)
        return state.attempt_number >= 3

    handle = manager.run_task(Task(failing.fail, retry=Retry(stop=stop, wait=wait_fixed(0.02))))
    assert isinstance(handle.exception(timeout=PATIENCE_S), Flaky)
    assert idle == pytest.approx([0, 0.02, 0.04])


@pytest.mark.parametrize("part", ["stop", "wait", "retry"])
def test_a_policy_that_raises_fails_its_task_alone(manager, part):
    def broken(state):
        raise RuntimeError("no policy today")

    handle = manager.run_task(Task(failing.fail, retry=Retry(**{"stop": stop_after_attempt(2), part: broken})))
    assert handle.exception(timeout=PATIENCE_S) is not None
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4


def test_what_is_no_strategy_is_refused():
    with pytest.raises(TypeError, match="stop"):
        Retry(stop=3)


# -- waits hold nothing ---------------------------------------------------------------------------------


def waiting_handle(manager, recorder, **options):
    """Return a handle whose task waits an hour for its second attempt."""
    policy = Retry(stop=stop_after_attempt(5), wait=wait_fixed(3600))
    handle = manager.run_task(Task(failing.fail, retry=policy, **options))
    recorder.wait_for("task_retrying")
    return handle


def test_a_wait_holds_no_process(make_manager, recorder):
    manager = make_manager(max_workers=1, observer=recorder, grace=1.0)
    handle = waiting_handle(manager, recorder)
    assert [manager.run(plain.square, n).result(timeout=PATIENCE_S) for n in range(5)] == [0, 1, 4, 9, 16]
    assert manager.stats().running == 0
    assert not handle.done()
    assert not handle.running()
    manager.close(timeout=0)


def test_waits_hold_no_thread(make_manager, recorder):
    manager = make_manager(max_workers=1, observer=recorder, grace=1.0)
    waiting_handle(manager, recorder)
    threads = threading.active_count()
    policy = Retry(stop=stop_after_attempt(5), wait=wait_fixed(3600))
    for _ in range(20):
        manager.run_task(Task(failing.fail, retry=policy))
    recorder.wait_for("task_retrying", 21)
    assert threading.active_count() == threads
    manager.close(timeout=0)


def test_wait_counts_tasks_that_wait_for_their_retry(make_manager, recorder):
    manager = make_manager(observer=recorder, grace=1.0)
    handle = waiting_handle(manager, recorder)
    assert manager.wait(timeout=0.01) is False
    handle.cancel()
    assert manager.wait(timeout=PATIENCE_S) is True


def test_cancelling_a_waiting_task_ends_it_at_once(make_manager, recorder):
    manager = make_manager(observer=recorder)
    handle = waiting_handle(manager, recorder)
    assert handle.cancel() is True
    assert handle.cancelled()
    assert manager.wait(timeout=PATIENCE_S)
    manager.close()
    assert recorder.kinds(handle) == ["task_added", "task_started", "task_retrying", "task_cancelled"]


def test_closing_in_time_cancels_a_waiting_task(make_manager, recorder):
    manager = make_manager(observer=recorder, grace=1.0)
    handle = waiting_handle(manager, recorder)
    report = manager.close(timeout=0)
    assert handle.cancelled()
    assert (report.cancelled, report.stopped, report.killed) == (1, 0, 0)


# -- what never reaches the policy ----------------------------------------------------------------------


def spying_policy(asked):
    def stop(state):
        asked.append(state)
        return False

    return Retry(stop=stop, retry=lambda state: asked.append(state) or True)


def test_a_cancelled_task_is_not_retried(make_manager, gate):
    manager = make_manager(grace=1.0)
    asked = []
    handle = manager.run_task(Task(stop_at_gate, args=(gate.address,), retry=spying_policy(asked)))
    gate.wait_for_arrival()
    handle.cancel()
    assert manager.wait(timeout=PATIENCE_S)
    manager.close(timeout=PATIENCE_S)
    assert asked == []
    assert not gate.has_arrivals()


def test_a_close_is_not_retried(make_manager, gate):
    manager = make_manager(grace=1.0)
    asked = []
    handle = manager.run_task(Task(stop_at_gate, args=(gate.address,), retry=spying_policy(asked)))
    gate.wait_for_arrival()
    manager.close(timeout=0)
    assert handle.cancelled()
    assert asked == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=["interrupt", "exit"])
def test_interrupts_and_exits_are_not_retried(manager, error):
    asked = []
    handle = manager.run_task(Task(failing.raise_this, args=(error,), retry=spying_policy(asked)))
    assert isinstance(handle.exception(timeout=PATIENCE_S), type(error))
    assert asked == []
    assert manager.run(pow, 2, 2).result(timeout=PATIENCE_S) == 4


def test_a_retry_is_not_starved_by_a_long_queue(make_manager):
    manager = make_manager(max_workers=2)
    handle = manager.run_task(failing_until(3, retry=3))
    others = [manager.run(plain.square, number) for number in range(300)]
    assert handle.result(timeout=PATIENCE_S)[0] == 3
    assert [other.result(timeout=PATIENCE_S) for other in others] == [number**2 for number in range(300)]
