"""Signals: handlers that call the manager or log, beside those of event loops, in the parent and in tasks."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import pytest

import procbackground
from procbackground import Manager, ManagerClosedError, Task, WorkerDiedError
from tests.support.facts import wait_until, wait_until_closing
from tests.support.gate import PATIENCE_S
from tests.support.scripts import run
from tests.support.tasks import gated, plain

# -- closing_on beside event loops ----------------------------------------------------------------------------


def shoot(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("is_first", [True, False], ids=["loop first", "closing_on first"])
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2], ids=["same signal", "another signal"])
def test_closing_on_and_an_event_loop_both_hear_signals(make_manager, is_first, number):
    manager = make_manager(max_workers=1)

    async def main() -> None:
        heard = asyncio.Event()
        loop = asyncio.get_running_loop()
        if is_first:
            loop.add_signal_handler(number, heard.set)
        with manager.closing_on(signal.SIGUSR1, timeout=PATIENCE_S):
            if not is_first:
                loop.add_signal_handler(number, heard.set)
            shoot(number)
            await asyncio.wait_for(heard.wait(), PATIENCE_S)
            if number != signal.SIGUSR1:
                assert manager.run(pow, 2, 3).result(timeout=PATIENCE_S) == 8
                shoot(signal.SIGUSR1)
            await asyncio.to_thread(wait_until_closing, manager)
        heard.clear()
        loop.add_signal_handler(signal.SIGUSR2, heard.set)
        shoot(signal.SIGUSR2)
        await asyncio.wait_for(heard.wait(), PATIENCE_S)

    asyncio.run(main())
    assert signal.set_wakeup_fd(-1) == -1


def test_two_managers_and_a_descriptor_of_the_programs_hear_signals(make_manager):
    first, second = make_manager(max_workers=1), make_manager(max_workers=1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        ours.settimeout(PATIENCE_S)
        before = signal.set_wakeup_fd(theirs.fileno())
        try:
            with first.closing_on(signal.SIGUSR1), second.closing_on(signal.SIGUSR2):
                shoot(signal.SIGUSR1)
                wait_until_closing(first)
                assert second.run(pow, 2, 3).result(timeout=PATIENCE_S) == 8
                shoot(signal.SIGUSR2)
                wait_until_closing(second)
                heard = b""
                while len(heard) < 2:
                    heard += ours.recv(64)
                assert set(heard) == {signal.SIGUSR1, signal.SIGUSR2}
            assert signal.set_wakeup_fd(theirs.fileno()) == theirs.fileno()
        finally:
            signal.set_wakeup_fd(before)


def test_closing_on_calls_the_handler_that_was_there(make_manager):
    manager = make_manager(max_workers=1)
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with manager.closing_on(signal.SIGUSR1):
            shoot(signal.SIGUSR1)
            wait_until_closing(manager)
            wait_until(lambda: heard == [signal.SIGUSR1], "the handler was called")
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_closing_on_leaves_what_others_have_set_within_it(make_manager):
    manager = make_manager(max_workers=1)
    before = signal.getsignal(signal.SIGUSR1)

    def own(number: int, frame: Any) -> None: ...

    try:
        with manager.closing_on(signal.SIGUSR1):
            signal.signal(signal.SIGUSR1, own)
        assert signal.getsignal(signal.SIGUSR1) is own
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_signal_to_a_fork_does_not_close_the_parents_manager(make_manager):
    manager = make_manager(max_workers=1)
    context = multiprocessing.get_context("fork")
    with manager.closing_on(signal.SIGTERM):
        child = context.Process(target=time.sleep, args=(3600,))
        child.start()
        child.terminate()
        child.join(PATIENCE_S)
        assert child.exitcode == -signal.SIGTERM
        assert manager.run(pow, 2, 3).result(timeout=PATIENCE_S) == 8


# -- handlers of the parent that call the manager -------------------------------------------------------------


@contextmanager
def handler(act: Callable[[], object]) -> Iterator[list[object]]:
    """Have SIGUSR1 call `act`; yield the list of what it returned."""
    returned: list[object] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: returned.append(act()))
    try:
        yield returned
    finally:
        signal.signal(signal.SIGUSR1, before)


def shoot_when_waiting() -> threading.Thread:
    """Start a thread that sends SIGUSR1 once the main thread waits within a call of ours."""
    main = threading.main_thread().ident
    seen: list[tuple[Any, int]] = []

    def is_waiting() -> bool:
        # Python 3.11 holds a lock of its own in `_current_frames`, which a collection of garbage may want: a deadlock.
        gc.disable()
        try:
            frame = innermost = sys._current_frames().get(main or 0)
            while frame is not None and "procbackground/" not in frame.f_code.co_filename:
                frame = frame.f_back
        finally:
            gc.enable()
        if frame is None or innermost is None:
            return False
        seen.append((innermost, innermost.f_lasti))
        return len(seen) > 2 and seen[-1] == seen[-2] == seen[-3]

    def watch() -> None:
        wait_until(is_waiting, "the main thread waits")
        seen.clear()
        shoot(signal.SIGUSR1)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


CALLS: dict[str, Callable[[Manager, Any], object]] = {
    "result": lambda manager, handle: handle.result(timeout=PATIENCE_S),
    "exception": lambda manager, handle: handle.exception(timeout=PATIENCE_S),
    "wait": lambda manager, handle: manager.wait(PATIENCE_S),
    "close": lambda manager, handle: manager.close(PATIENCE_S),
    "map": lambda manager, handle: list(manager.map(plain.square, range(3))),
    "run": lambda manager, handle: [manager.run(plain.square, number) for number in range(3)],
    "stream": lambda manager, handle: list(manager.stream(Task(plain.square, args=(number,)) for number in range(3))),
}
ACTS: dict[str, Callable[[Manager, Any], object]] = {
    "close": lambda manager, handle: manager.close(0),
    "shutdown": lambda manager, handle: manager.shutdown(wait=True, cancel_futures=True) if handle.cancel() else None,
    "cancel": lambda manager, handle: handle.cancel(),
    "end loops": lambda manager, handle: (manager.cancel(PATIENCE_S), handle.cancel()),
    "ask": lambda manager, handle: (manager.stats(), manager.processes(), manager.count_of("loop"), handle.cancel()),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_signal_handler_may_call_the_manager_whatever_it_interrupts(make_manager, gate, call, act):
    manager = make_manager(max_workers=1, max_pending=1, grace=0.1)
    handle = manager.run(gated.stop_then_do, gate.address)
    gate.wait_for_arrival()
    with handler(lambda: act(manager, handle)) as returned:
        shooter = shoot_when_waiting()
        try:
            call(manager, handle)
        except (ManagerClosedError, CancelledError):
            pass  # as the handler wanted it
        shooter.join(PATIENCE_S)
        wait_until(lambda: bool(returned), "the handler has returned")
    assert handle.done()


# -- handlers of tasks ----------------------------------------------------------------------------------------


def interrupt_while(act: Callable[[int], object], in_handler: Callable[[int], object], count: int) -> int:
    """Call `act` many times while a handler calls `in_handler` again and again; return how often that was.

    On a quick machine many calls may be over before the first alarm, so they go on until it has come.
    """
    fired: list[int] = []

    def on_alarm(number: int, frame: Any) -> None:
        fired.append(1)
        in_handler(len(fired))
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        number, until_s = 0, time.monotonic() + PATIENCE_S / 2
        while number < count or (not fired and time.monotonic() < until_s):
            act(number)
            number += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return len(fired)


def log(number: int) -> None:
    logging.getLogger("handlers").warning("record %s", number)


def progress(number: int) -> None:
    procbackground.current().progress(number)


def log_from_threads(number: int) -> None:
    if number % 200 == 0:
        threads = [threading.Thread(target=log, args=(each,)) for each in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    log(number)


@pytest.mark.parametrize(("act", "in_handler"), [(log, log), (progress, log), (log_from_threads, progress)])
def test_a_handler_of_a_task_may_report_whatever_it_interrupts(manager, act, in_handler, caplog):
    with caplog.at_level(logging.ERROR):
        assert manager.run(interrupt_while, act, in_handler, 2000).result(timeout=PATIENCE_S) > 0


def log_until_stopped(address: Any) -> None:
    try:
        gated.tell_gate(address, "logging")
        while True:
            log(0)
    finally:
        for number in range(100):
            log(number)
        gated.tell_gate(address, "cleaned up")


def test_a_stop_in_the_middle_of_a_record_lets_the_task_clean_up(make_manager, gate, caplog):
    manager = make_manager(max_workers=1, grace=PATIENCE_S)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            handle = manager.run(log_until_stopped, gate.address)
            assert gate.wait_for_label() == "logging"
            handle.cancel()
            assert gate.wait_for_label() == "cleaned up"


def interrupt_program() -> int:
    with subprocess.Popen([sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        return process.wait(PATIENCE_S)


def sleep_after_interrupt() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return "went on"


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_programs_that_a_task_starts_can_be_interrupted_and_the_task_not(method):
    with Manager(1, multiprocessing.get_context(method)) as manager:
        assert manager.run(interrupt_program).result(timeout=PATIENCE_S) == -signal.SIGINT
        assert manager.run(sleep_after_interrupt).result(timeout=PATIENCE_S) == "went on"


# -- what workers inherit -------------------------------------------------------------------------------------


def signal_state() -> tuple[int, list[str], list[int]]:
    """Return the wake-up descriptor, the handlers written in Python, and the blocked signals."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    names = [f"{int(number)} {each.__qualname__}" for number, each in handlers.items() if callable(each)]
    return signal.set_wakeup_fd(-1), sorted(names), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_a_fork_of_the_parent_has_none_of_its_handlers_and_wakes_no_loop_of_it():
    async def main() -> tuple[int, list[str], list[int]]:
        heard: list[int] = []
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
            loop.add_signal_handler(number, heard.append, number)
        with Manager(1, multiprocessing.get_context("fork"), grace=PATIENCE_S) as manager:
            state = await manager.run(signal_state)
            handle = manager.run_task(Task(time.sleep, args=(3600,), timeout=0.1))
            error = await asyncio.to_thread(handle.exception, PATIENCE_S)
            assert isinstance(error, TimeoutError)
        await asyncio.sleep(0)
        assert signal.SIGTERM not in heard
        return state

    wakeup_fd, handlers, _ = asyncio.run(main())
    assert wakeup_fd == -1
    assert sorted(handlers) == ["15 Worker._on_sigterm", "2 do_nothing"]


SIGWAIT = """
    import multiprocessing, os, signal, sys, threading
    from procbackground import Manager, Task, TaskTimeoutError
    from tests.test_signals import signal_state
    from tests.support.tasks import plain
    import time

    if __name__ == "__main__":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        manager = Manager(1, {method!r} and multiprocessing.get_context({method!r}), grace=60)
        blocked = manager.run(signal_state).result(timeout=20)[2]
        print([number for number in (signal.SIGINT, signal.SIGTERM) if number in blocked])
        try:
            manager.run_task(Task(time.sleep, args=(3600,), timeout=0.2)).result(timeout=20)
        except TaskTimeoutError as error:
            print(error.stack is not None)
        os.kill(os.getpid(), signal.SIGTERM)
        print(signal.sigwait([signal.SIGTERM]) == signal.SIGTERM)
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_a_program_that_takes_its_signals_by_sigwait_works_and_ends(method, tmp_path):
    ended = run(SIGWAIT.format(method=method), folder=tmp_path)
    assert ended.stdout.splitlines() == ["[]", "True", "True"], ended.stderr
    assert ended.returncode == 0


class Late(Exception):
    pass


def raise_late(number: int, frame: Any) -> None:
    raise Late


def leave_alarm(after_s: float) -> bytes:
    """End about when the alarm goes off, so that it hits the answer, or what comes after it."""
    try:
        signal.signal(signal.SIGALRM, raise_late)
        signal.setitimer(signal.ITIMER_REAL, after_s)
    except Late:
        pass
    return bytes(50_000)


def test_an_alarm_that_a_task_leaves_costs_no_worker_and_no_other_task_its_answer(manager):
    errors = []
    for step in range(200):
        leaving = manager.run(leave_alarm, 1e-6 * (step + 1))
        errors += [leaving.exception(timeout=PATIENCE_S), manager.run(plain.square, 3).exception(timeout=PATIENCE_S)]
    dead = [error for error in errors if isinstance(error, WorkerDiedError)]
    assert len(dead) <= 2  # in the few instructions that lead out of a call
    assert len([error for error in errors if error is None]) > 200


def handlers_of_a_task() -> tuple[bool, ...]:
    before = signal.signal(signal.SIGUSR1, raise_late)
    own = signal.getsignal(signal.SIGUSR1)
    returned = signal.signal(signal.SIGUSR1, before)
    return own is raise_late, returned is raise_late, signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_task_sees_the_handlers_that_it_has_set(manager):
    assert manager.run(handlers_of_a_task).result(timeout=PATIENCE_S) == (True, True, True)


def raise_while_saving() -> int:
    """Save states while alarms go off; return how often one interrupted."""
    interrupted = 0
    signal.signal(signal.SIGALRM, raise_late)
    for _ in range(30):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
            for number in range(300):
                procbackground.current().save(bytes(number * 10))
        except (Late, procbackground.SerializationError):  # amid a write, or while the state was pickled
            interrupted += 1
    return interrupted


def test_a_handler_that_raises_amid_a_message_to_the_parent_interrupts_the_task_after_it(manager):
    assert manager.run(raise_while_saving).result(timeout=PATIENCE_S) > 3
