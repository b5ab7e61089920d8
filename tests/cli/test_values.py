"""Types of option values, and when a batch halts: decided without a process."""

from __future__ import annotations

import os
import re
from types import SimpleNamespace

import click
import pytest

from procbackground._cli.inputs import product_of, typed_value
from procbackground._cli.map_command import split_lists
from procbackground._cli.values import Duration, HaltType, Jobs, Load, Size, Slots


def convert(kind, text):
    return kind.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("0.5", 0.5), (".5", 0.5), ("500ms", 0.5), ("5m", 300), ("1h30m", 5400), ("1 H", 3600), ("1d", 86400)],
)  # fmt: skip
def test_durations(text, seconds):
    assert convert(Duration(), text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1x", "m", "1h30", "30 5", "nan", "inf", "1e3"])
def test_what_is_no_duration(text):
    with pytest.raises(click.BadParameter):
        convert(Duration(), text)


def test_jobs_are_numbers_or_shares_of_the_cpus(monkeypatch):
    monkeypatch.setattr("procbackground._supervisor.machine.usable_cpus", lambda: 8)
    for text, jobs in (("3", 3), ("50%", 4), ("-1", 7), ("-20", 1), ("+2", 10), ("200%", 16), ("1%", 1), (4, 4)):
        assert convert(Jobs(), text) == jobs
    for text in ("0", "x", "-50%", "1.5", ""):
        with pytest.raises(click.BadParameter):
            convert(Jobs(), text)
    assert [convert(Load(), text) for text in ("4", "1.5", "50%")] == [4, 1.5, 4]


def test_sizes():
    assert [convert(Size(), text) for text in ("2GiB", "512M", "1000", 1000)] == [2 << 30, 512 << 20, 1000, 1000]
    with pytest.raises(click.BadParameter, match="not a size"):
        convert(Size(), "much")


@pytest.mark.parametrize(
    ("text", "failed", "succeeded", "total", "is_due"),
    [
        ("now,fail=1", 0, 9, 10, False),
        ("now,fail=1", 1, 0, 10, True),
        ("soon,fail=10%", 1, 0, 20, False),
        ("soon,fail=10%", 2, 0, 20, True),
        ("soon,fail=50%", 2, 0, None, False),  # of two, nothing can be said
        ("soon,fail=50%", 3, 3, None, True),
        ("soon,fail=50%", 3, 4, None, False),
        ("now,success=2", 5, 1, 10, False),
        ("now,success=2", 5, 2, 10, True),
        ("now,done=50%", 2, 3, 10, True),
        ("1", 1, 0, 10, True),
    ],
)
def test_halts(text, failed, succeeded, total, is_due):
    assert convert(HaltType(), text).is_due(failed, succeeded, total) is is_due


def test_slots():
    assert convert(Slots(), "gpu=4") == {"gpu": 4}
    assert convert(Slots(), " gpu=4, licence = 2") == {"gpu": 4, "licence": 2}
    for text in ("gpu", "gpu=0", "gpu=-1", "=4", "gpu=4,", "gpu=4,gpu=2", "gpu=many", "4"):
        with pytest.raises(click.BadParameter, match="such as gpu=4"):
            convert(Slots(), text)


def test_what_says_not_when_to_halt():
    assert convert(HaltType(), "never") is None
    for text in ("fail=1", "now", "now,fail", "now,fail=0", "now,fail=-1", "now,lost=1", "now,fail=1,2"):
        with pytest.raises(click.BadParameter):
            convert(HaltType(), text)


def test_lists_behind_colons():
    assert split_lists(["a", "-j", "2"]) == (["a", "-j", "2"], [])
    before, lists = split_lists(["f", ":::", "1", "2", ":::+", "x", "y", ":::", "-a"])
    assert before == ["f"]
    assert product_of(lists) == [("1", "x", "-a"), ("2", "y", "-a")]
    assert product_of(split_lists([":::", "a", ":::"])[1]) == []


@pytest.mark.parametrize("text", ["007", "1_000", "nan", "inf", "0x1", " 1", "1 ", "", "+1", "1.", ".5", "1\u0661"])
def test_text_that_only_looks_like_a_number_stays_text(text):
    assert typed_value(text) == text


def test_numbers_are_numbers():
    values = [typed_value(text) for text in ("0", "-12", "2.50", "1e3", "true", "False")]
    assert values == [0, -12, 2.5, 1000.0, True, False]
    assert [type(value) for value in values] == [int, int, float, float, bool, bool]


def test_the_delay_between_attempts_doubles_and_varies():
    from procbackground._cli.work import retry_of

    assert retry_of(0, 2.0) is None
    policy = retry_of(4, 2.0)
    for attempt, least_s in ((1, 2.0), (2, 4.0), (3, 8.0), (12, 600.0)):
        waits = {policy.wait(SimpleNamespace(attempt_number=attempt)) for _ in range(50)}
        assert min(waits) >= least_s
        assert max(waits) <= least_s + 1.0
        assert len(waits) > 1
    assert [policy.stop(SimpleNamespace(attempt_number=number)) for number in (4, 5)] == [False, True]


def test_the_summary_counts_and_shows_the_first_messages():
    from procbackground._cli.inputs import Call
    from procbackground._cli.records import Ended, Failure
    from procbackground._cli.summary import Summary

    call, summary = Call(0, (), {}), Summary()
    summary.add(Ended(call, "succeeded", attempts=3, busy_s=40.0, cpu_s=30.0, peak_bytes=5 << 20))
    summary.add(Ended(call, "succeeded", is_stored=True))
    for number in (1, 2, 2, 3, 4, 5):
        summary.add(Ended(call, "failed", failure=Failure("ValueError", f"number\n {number}", None), attempts=1))
    summary.add(Ended(call, "timed out", failure=Failure("TaskTimeoutError", "late", None), attempts=1))
    summary.add(Ended(call, "cancelled", attempts=1))
    summary.add(Ended(call, "cancelled"))  # it never began
    *lines, costs = summary.lines()
    assert lines == [
        "2 succeeded (1 of them before), 7 failed (6 failed, 1 timed out), 1 cancelled, 2 further attempts",
        "  failed: ValueError: number 1",
        "  failed: ValueError: number 2 (2 times)",
        "  failed: ValueError: number 3",
        "  failed: 2 with other messages",
        "  timed out: TaskTimeoutError: late",
    ]
    assert re.fullmatch(r"\S+ s wall, 30.0 s CPU, speed-up [\d.]+, peak memory 5 MiB", costs)


def test_the_command_has_no_option_twice():
    from procbackground._cli.app import COMMANDS, app

    context = click.Context(app)
    for name in COMMANDS:
        found = app.get_command(context, name)
        names = [option for each in found.params for option in (*each.opts, *each.secondary_opts)]
        assert len(names) == len(set(names)), name
        variables = [each.envvar for each in found.params if getattr(each, "envvar", None)]
        assert len(variables) == len(set(variables))
        assert not {"PROCBACKGROUND_PLATFORM", "PROCBACKGROUND_CHECK"} & set(variables)
        assert os.environ.keys().isdisjoint(variables)


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path, monkeypatch):
    from procbackground._cli.results import LineFile

    file = LineFile(str(tmp_path / "out"))
    file.write("first\n")
    write, left = os.write, 3

    def write_three(fd, data):
        nonlocal left
        if not left:
            raise OSError(28, "No space left on device")
        size, left = left, 0
        return write(fd, data[:size])

    monkeypatch.setattr(os, "write", write_three)
    with pytest.raises(OSError, match="No space"):
        file.write("second\n")
    monkeypatch.undo()
    assert (tmp_path / "out").read_text() == "first\n"
    file.close()
