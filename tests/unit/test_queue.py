"""Jobs that wait go by priority, then in the order in which they were accepted, also those that came back."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from procbackground._state import attempt as a
from procbackground._state.job import SETTLED, Job, Recipe
from procbackground._state.queue import JobQueue

RECIPES = {priority: Recipe("task", b"", priority=priority) for priority in (-1, 0, 1)}


def make_job(number: int, priority: int = 0) -> Job:
    job = Job(None, RECIPES[priority], b"")  # type: ignore[arg-type]
    job.number = number
    return job


def take(queue: JobQueue) -> Job:
    job = queue.peek()
    assert job is not None
    assert queue.pop() is job
    job.state = a.SENT
    return job


def put_back(queue: JobQueue, job: Job) -> None:
    job.state = a.QUEUED
    queue.push_back(job)


def test_a_job_that_came_back_goes_before_those_accepted_after_it():
    queue = JobQueue()
    jobs = [make_job(number) for number in range(4)]
    for job in jobs:
        queue.push(job)
    first, second = take(queue), take(queue)
    put_back(queue, second)
    put_back(queue, first)
    assert [take(queue) for _ in range(4)] == jobs
    assert queue.peek() is None


def test_jobs_that_end_where_they_wait_are_let_go_with_the_last_one():
    queue = JobQueue()
    jobs = [make_job(number) for number in range(3)]
    for job in jobs:
        queue.push(job)
    for job in jobs:
        job.state = SETTLED
        queue.note_ended()
    assert not queue._lines
    assert queue.peek() is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from((-1, 0, 1))),
        st.tuples(st.just("pop"), st.just(0)),
        st.tuples(st.sampled_from(("back", "end")), st.integers(0, 50)),
    ),
    max_size=200,
)


@given(STEPS)
def test_the_queue_does_as_a_sorted_list_does(steps):
    queue, out, waiting = JobQueue(), list[Job](), list[Job]()
    number = 0
    for what, which in steps:
        if what == "push":
            number += 1
            waiting.append(make_job(number, which))
            queue.push(waiting[-1])
        elif what == "pop" and waiting:
            expected = min(waiting)  # a job is "less" than those that go after it
            assert take(queue) is expected
            waiting.remove(expected)
            out.append(expected)
        elif what == "back" and out:
            job = out.pop(which % len(out))
            put_back(queue, job)
            waiting.append(job)
        elif what == "end" and waiting:
            waiting.pop(which % len(waiting)).state = SETTLED
            queue.note_ended()
        assert len(queue) == queue.length == len(waiting)
        assert sorted(queue) == sorted(waiting)
        assert queue.peek() is (min(waiting) if waiting else None)


class Counted(int):
    """A number that counts how often it is compared with another."""

    compared = 0

    def __lt__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) < int(other)


def test_jobs_that_come_back_cost_a_logarithm_each():
    """Of 100,000 that fail and are tried again, here the last one first, which is the worst order.

    To insert each into a sorted list would take billions of steps.
    """
    count = 100_000
    queue, jobs = JobQueue(), [make_job(Counted(number)) for number in range(count)]
    for job in jobs:
        queue.push(job)
    taken = [take(queue) for _ in range(count)]
    Counted.compared = 0
    for job in reversed(taken):
        put_back(queue, job)
    again: list[Any] = [take(queue) for _ in range(count)]
    compared = Counted.compared
    assert again == jobs
    assert count < compared <= 3 * count * math.log2(count)
