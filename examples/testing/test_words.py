"""How to test code that runs in workers: results, errors, logs, and what a test patches.

To run them:

    python -m pytest examples/testing
    python -m pytest -n 2 examples/testing                                              with pytest-xdist
    python -m coverage run --rcfile examples/testing/coveragerc -m pytest examples/testing    lines in workers count
"""

from __future__ import annotations

import os
import signal

import pytest
import words

from procbackground import WorkerDiedError, current


@pytest.fixture
def files(tmp_path):
    (tmp_path / "one.txt").write_text("the cat and the dog")
    (tmp_path / "two.txt").write_text("the end")
    return sorted(tmp_path.iterdir())


def test_words_of_all_files_are_counted(manager, files):
    assert words.count_all(manager, files)["the"] == 3


def test_an_error_is_the_original_one(manager, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        words.count_all(manager, [tmp_path / "missing.txt"])


def test_log_records_of_workers_reach_caplog(manager, tmp_path, caplog):
    (tmp_path / "empty.txt").touch()
    words.count_all(manager, [tmp_path / "empty.txt"])
    [record] = [each for each in caplog.records if each.name == "words"]
    assert record.getMessage() == "empty.txt is empty"
    assert record.task == "count_words"  # such records also have `task_id`, `attempt` and `pid`
    assert record.pid != os.getpid()


def test_what_is_patched_here_is_patched_in_inline_tasks_only(inline_manager, manager, files, monkeypatch):
    monkeypatch.setattr(words, "Counter", lambda text: {"patched": 1})
    assert words.count_words(files[0]) == {"patched": 1}
    assert inline_manager.run(words.count_words, files[0]).result() == {"patched": 1}
    assert manager.run(words.count_words, files[0]).result()["the"] == 2


def die_once(path):
    """Be killed in the first attempt, as when memory runs out."""
    if current().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return words.count_words(path)


def test_a_killed_worker_is_an_error_and_with_a_retry_none(manager, files):
    # In processes of their own: a killed one takes along what coverage has measured in it.
    killing = manager.options(isolate=True)
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        killing.run(die_once, files[0]).result()
    handle = killing.options(retry=2).run(die_once, files[0])
    assert handle.result()["the"] == 2
    assert [attempt.signal for attempt in handle.attempts] == ["SIGKILL", None]
