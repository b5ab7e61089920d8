"""The requests on their way to one worker: which of them a recall brings back, and which stay with the worker."""

from __future__ import annotations

from procbackground._state.job import Job, Recipe
from procbackground._state.pipeline import Pipeline

RECIPE = Recipe("task", b"")


def send(pipeline: Pipeline, count: int) -> list[Job]:
    jobs = []
    for _ in range(count):
        job = Job(None, RECIPE, b"")  # type: ignore[arg-type]
        pipeline.sent += 1
        job.sequence = pipeline.sent
        pipeline.jobs.append(job)
        jobs.append(job)
    return jobs


def filled(count: int) -> tuple[Pipeline, list[Job]]:
    pipeline = Pipeline(0.0)
    return pipeline, send(pipeline, count)


def test_a_recall_concerns_all_that_was_sent():
    pipeline, _ = filled(3)
    assert pipeline.recall() == 3 == pipeline.recalled_up_to


def test_what_was_recalled_comes_back_last_first_while_the_first_request_still_runs():
    pipeline, (first, second, third) = filled(3)
    up_to = pipeline.recall()
    assert pipeline.may_take_back(1, up_to)
    assert pipeline.take_back(up_to) == [third, second]
    assert list(pipeline.jobs) == [first]


def test_nothing_comes_back_once_the_mark_has_moved():
    pipeline, _ = filled(3)
    assert not pipeline.may_take_back(2, pipeline.recall())


def test_nothing_comes_back_before_the_first_request_has_begun():
    """The mark is that of the request before: the worker may be about to read the recall, or not to."""
    pipeline, _ = filled(3)
    assert not pipeline.may_take_back(0, pipeline.recall())


def test_nothing_comes_back_from_an_empty_pipeline():
    pipeline, _ = filled(1)
    up_to = pipeline.recall()
    pipeline.jobs.clear()
    assert not pipeline.may_take_back(1, up_to)


def test_a_later_recall_has_a_look_of_its_own():
    pipeline, _ = filled(2)
    early = pipeline.recall()
    send(pipeline, 1)
    late = pipeline.recall()
    assert not pipeline.may_take_back(1, early)
    assert pipeline.may_take_back(1, late)


def test_what_was_sent_after_the_recall_stays_with_the_worker():
    pipeline, (first, second) = filled(2)
    up_to = pipeline.recall()
    (late,) = send(pipeline, 1)
    assert pipeline.take_back(up_to) == [second]
    assert list(pipeline.jobs) == [first, late]


def test_requests_that_could_not_be_written_come_back_and_their_numbers_are_free():
    pipeline, (first, second, third) = filled(3)
    assert pipeline.take_back_unsent(second) == [third, second]
    assert list(pipeline.jobs) == [first]
    (again,) = send(pipeline, 1)
    assert again.sequence == 2


def test_all_requests_can_be_unsent():
    pipeline, (first, second) = filled(2)
    assert pipeline.take_back_unsent(first) == [second, first]
    assert (pipeline.sent, list(pipeline.jobs)) == (0, [])


def test_a_skip_answers_the_first_request_and_the_next_one_begins_then():
    pipeline, (first, second) = filled(2)
    assert pipeline.skipped(1, 5.0) is first
    assert (pipeline.head_since_s, list(pipeline.jobs)) == (5.0, [second])


def test_a_skip_of_what_was_taken_back_before_is_no_answer():
    pipeline, (first, _) = filled(2)
    pipeline.take_back(pipeline.recall())
    assert pipeline.skipped(2, 5.0) is None
    assert (pipeline.head_since_s, list(pipeline.jobs)) == (0.0, [first])


def test_the_end_of_the_worker_empties_it():
    pipeline, jobs = filled(2)
    assert list(pipeline.empty()) == jobs
    assert not pipeline.jobs
    assert pipeline.skipped(1, 5.0) is None
