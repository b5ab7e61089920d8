"""The supervisor's inbox: no request is lost, whichever thread puts it, at the end and at an exception, too."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from procbackground import _platform
from procbackground._state.job import Job, Recipe
from procbackground._supervisor.inbox import Inbox
from procbackground.task import NO_LIMIT
from tests.support.gate import PATIENCE_S

PUTS, ASKS, THREADS = 500, 50, 8


class Supervisor:
    """A thread that sleeps in the inbox and does what it is asked for."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.wakeup = _platform.Wakeup()
        self.done: list[Any] = []
        self.late: list[Job] = []
        self.has_ended = threading.Event()
        self.is_asked_to_end = False
        inbox.open(self.wakeup)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _poll(self, seconds: float | None) -> list[tuple[int, int]]:
        limit_s = PATIENCE_S if seconds is None else seconds
        readable, _, _ = select.select([self.wakeup.fileno()], [], [], limit_s)
        if readable:
            self.wakeup.drain()
        return [(fd, 1) for fd in readable]

    def _run(self) -> None:
        while not self.is_asked_to_end:
            self.inbox.sleep(self._poll, NO_LIMIT)
            while self.inbox.requests:
                request = self.inbox.requests.popleft()
                self.done.append(request) if isinstance(request, Job) else request()
        self.inbox.end(self.late.append)
        self.has_ended.set()

    def end(self) -> None:
        """Have the thread end; what it has not read by then its callers answer themselves."""

        def ask_to_end() -> None:
            self.is_asked_to_end = True

        if not self.is_asked_to_end:
            self.inbox.put(ask_to_end)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor(Inbox())
    yield supervisor
    supervisor.end()
    supervisor.wakeup.close()


def in_threads(act: Callable[[int], None]) -> None:
    """Have `act` called in threads at once, and wait for them."""
    barrier = threading.Barrier(THREADS)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait(PATIENCE_S)
        try:
            act(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "a caller waits for ever"
    assert not errors


def test_requests_of_many_threads_are_done_each_once_and_in_order(supervisor):
    done: list[tuple[int, int]] = []

    def call(thread: int) -> None:
        for number in range(PUTS):
            supervisor.inbox.put(lambda number=number: done.append((thread, number)))
            if number % (PUTS // ASKS) == 0:
                # What was put before is done before.
                count = supervisor.inbox.ask(lambda: sum(by == thread for by, _ in done))
                assert count == number + 1

    in_threads(call)
    supervisor.end()
    for thread in range(THREADS):
        assert [number for by, number in done if by == thread] == list(range(PUTS))


def test_what_the_answer_raises_is_raised_for_who_asked(supervisor):
    def fail() -> None:
        raise LookupError("not there")

    with pytest.raises(LookupError, match="not there"):
        supervisor.inbox.ask(fail)
    assert supervisor.inbox.ask(lambda: threading.current_thread()) is supervisor.thread


def test_questions_amid_the_end_are_all_answered(supervisor):
    answered = []

    def call(thread: int) -> None:
        for number in range(PUTS):
            assert supervisor.inbox.ask(lambda number=number: number) == number
            answered.append(number)
            if (thread, number) == (0, 20):
                supervisor.inbox.put(lambda: setattr(supervisor, "is_asked_to_end", True))

    in_threads(call)
    assert supervisor.has_ended.wait(PATIENCE_S)
    assert len(answered) == THREADS * PUTS


def test_jobs_amid_the_end_are_taken_or_refused_each_once(supervisor):
    recipe = Recipe("task", b"")
    given = [[Job(None, recipe, b"") for _ in range(PUTS)] for _ in range(THREADS)]  # type: ignore[arg-type]

    def call(thread: int) -> None:
        for number, job in enumerate(given[thread]):
            supervisor.inbox.put(job)
            if (thread, number) == (0, 20):
                supervisor.inbox.put(lambda: setattr(supervisor, "is_asked_to_end", True))

    in_threads(call)
    assert supervisor.has_ended.wait(PATIENCE_S)
    fates = sorted(map(id, supervisor.done + supervisor.late))
    assert fates == sorted(id(job) for jobs in given for job in jobs)


def test_late_requests_are_answered_by_their_caller(supervisor):
    supervisor.end()
    supervisor.wakeup.close()  # nobody notifies through it any more
    assert supervisor.inbox.ask(threading.current_thread) is threading.current_thread()
    job = Job(None, Recipe("task", b""), b"")  # type: ignore[arg-type]
    supervisor.inbox.put(job)
    assert supervisor.late == [job]
    supervisor.wakeup = _platform.Wakeup()


class InterruptedInbox(Inbox):
    """Raises in callers' threads between appending a request and looking whether to notify."""

    interrupts = False

    @property
    def _sleep(self) -> float:  # type: ignore[override]
        if self.interrupts and threading.current_thread() is threading.main_thread():
            self.interrupts = False
            raise KeyboardInterrupt
        return self.__dict__.get("number", 0)  # type: ignore[no-any-return]

    @_sleep.setter
    def _sleep(self, number: float) -> None:
        self.__dict__["number"] = number


def test_a_request_whose_caller_is_interrupted_before_it_notifies_is_done_all_the_same():
    inbox = InterruptedInbox()
    supervisor = Supervisor(inbox)
    try:
        was_done = threading.Event()
        inbox.interrupts = True
        with pytest.raises(KeyboardInterrupt):
            inbox.put(was_done.set)
        assert was_done.wait(PATIENCE_S / 2)  # less than the supervisor sleeps by itself
    finally:
        supervisor.end()
        supervisor.wakeup.close()


def test_a_notification_too_many_is_no_error():
    inbox = Inbox()
    wakeup = _platform.Wakeup()

    def refuse() -> None:
        raise BlockingIOError

    inbox.open(wakeup)
    inbox._notify = refuse
    inbox._sleep += 1
    inbox.put(refuse)
    assert list(inbox.requests) == [refuse]
    wakeup.close()


class LateInbox(Inbox):
    """A caller's note of the sleep that it ended comes only after the supervisor has gone to sleep again."""

    is_late = False

    def wake(self) -> None:
        super().wake()
        if self.is_late:
            self.is_late = False
            self.requests.clear()  # as the supervisor would, once it was notified
            self.sleep(lambda seconds: [], NO_LIMIT)
            self._sleep += 1  # announced, and not ended


def test_each_sleep_is_ended_by_one_notification_also_after_a_late_note():
    inbox = LateInbox()
    notified: list[float] = []
    inbox._notify = lambda: notified.append(inbox._sleep)
    inbox.put(print)
    assert not notified  # the supervisor is at work, and looks at the inbox before it sleeps
    inbox._sleep += 1
    for _ in range(3):
        inbox.put(print)
    assert notified == [1]
    inbox._woken, inbox.is_late = 0, True
    inbox.put(print)
    inbox.put(print)
    assert notified == [1, 1, 3]
