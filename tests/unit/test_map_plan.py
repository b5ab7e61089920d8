"""What follows from the answer of a chunk, and how large the next one is: decided without a process."""

from __future__ import annotations

import pickle

import pytest

from procbackground._submit.map.chunk import (
    FailedRow,
    Lost,
    UndoneRows,
    UntriedRow,
    Values,
    load_answers,
    plan,
)
from procbackground._submit.map.sizing import CHUNK_S, GROWTH, MAX_ROWS, Sizing
from procbackground.errors import (
    InitializerError,
    MemoryLimitError,
    SerializationError,
    TaskTimeoutError,
    WorkerDiedError,
)

NO_ROW = 2**32 - 1
DIED = WorkerDiedError("died")
LATE = TaskTimeoutError("late")


def test_rows_that_all_came_to_a_value_need_nothing():
    assert plan(3, [([1, 2, 3], {}, 0.1)], None, 0) == [Values([1, 2, 3])]


def test_a_row_that_raised_goes_on_alone_between_its_neighbours():
    steps = plan(4, [([1, None, 3, None], {3: b"last", 1: b"second"}, 0.1)], None, 0)
    assert steps == [Values([1]), FailedRow(1, b"second"), Values([3]), FailedRow(3, b"last"), Values([])]


def test_rows_are_numbered_across_the_answers_of_a_chunk():
    steps = plan(4, [([1, 2], {}, 0.1), ([3, None], {1: b"fourth"}, 0.1)], None, 0)
    assert steps == [Values([1, 2]), Values([3]), FailedRow(3, b"fourth"), Values([])]


def test_rows_that_the_worker_left_go_into_new_chunks():
    assert plan(5, [([1, 2], {}, 0.1)], None, 0) == [Values([1, 2]), UndoneRows(2, 5)]


@pytest.mark.parametrize("error", [DIED, LATE, MemoryLimitError("large"), MemoryError()])
def test_an_error_of_one_row_is_of_that_row_only(error: BaseException):
    assert plan(6, [([1, 2], {}, 0.1)], error, 4) == [
        Values([1, 2]),
        UndoneRows(2, 4),  # done, but their answer was lost
        FailedRow(4, error),
        UndoneRows(5, 6),
    ]


def test_an_error_at_the_first_and_only_row_leaves_nothing_else_to_do():
    assert plan(1, [], DIED, 0) == [FailedRow(0, DIED)]


def test_an_answer_counts_though_the_worker_was_at_an_earlier_row_by_its_page():
    assert plan(3, [([1, 2], {}, 0.1)], DIED, 0) == [Values([1, 2]), FailedRow(2, DIED)]


def test_a_death_at_no_row_has_each_row_find_out_for_itself():
    assert plan(3, [([1], {}, 0.1)], DIED, NO_ROW) == [Values([1]), UntriedRow(1), UntriedRow(2)]


def test_rows_whose_arguments_cannot_be_loaded_find_out_for_themselves():
    assert plan(2, [], SerializationError("no"), 0) == [UntriedRow(0), UntriedRow(1)]


def test_a_broken_manager_ends_all_rows():
    assert plan(2, [], InitializerError("no licence"), 0) == [Lost(2)]


def test_answers_are_loaded_up_to_the_one_that_cannot_be():
    good, bad = pickle.dumps(([1], {}, 0.1)), b"no pickle"
    answers, error = load_answers([good, bad, good], ([2], {}, 0.1), None)
    assert answers == [([1], {}, 0.1)]
    assert isinstance(error, SerializationError)
    assert load_answers([good, bad], None, DIED) == ([([1], {}, 0.1)], DIED)
    assert load_answers([good], ([2], {}, 0.1), None) == ([([1], {}, 0.1), ([2], {}, 0.1)], None)


def test_a_chunk_grows_by_a_factor_at_the_most():
    sizing = Sizing(0)
    assert sizing.rows == 1
    assert sizing.learn(1, 1, 1e-9)
    assert sizing.rows == GROWTH
    for _ in range(10):
        sizing.learn(sizing.rows, sizing.rows, 1e-9)
    assert sizing.rows == MAX_ROWS


def test_a_chunk_takes_as_many_rows_as_fill_its_time():
    sizing = Sizing(100)
    assert sizing.learn(100, 100, CHUNK_S * 2)
    assert sizing.rows == 50


def test_a_slow_row_makes_chunks_of_one():
    sizing = Sizing(100)
    assert sizing.learn(100, 2, 1.0)
    assert sizing.rows == 1


def test_a_chunk_that_was_small_on_purpose_says_nothing():
    sizing = Sizing(100)
    assert not sizing.learn(10, 10, 1.0)
    assert sizing.rows == 100


def test_last_rows_are_shared_between_the_workers():
    sizing = Sizing(100)
    assert sizing.next_rows(1000, workers=2) == 100
    assert sizing.next_rows(8, workers=2) == 2  # an earlier map's size is not trusted
    sizing.learn(100, 100, CHUNK_S)
    assert sizing.next_rows(8, workers=2) == 100 // 3
