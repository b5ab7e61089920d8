"""Ctrl-C and other signals: once finishes what runs, twice terminates it, three times kills it."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.support.scripts import family


def outcomes(text: str) -> list[str]:
    return sorted(json.loads(line)["outcome"] for line in text.splitlines())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_finishes_what_runs(command, number, code):
    seconds = ["1.5", "1.5", *["60"] * 8]
    with command.running("map", "tasks:sleeps", "-j", "2", ":::", *"abcdefghij", ":::+", *seconds) as process:
        assert [process.stderr.readline() for _ in range(2)] == ["begun\n"] * 2
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "finishing 2, 8 not started" in err
    assert outcomes(out) == ["succeeded"] * 2


def test_a_second_signal_terminates_what_runs(command):
    with command.running("map", "tasks:sleeps", "-j", "2", *"abcd") as process:
        assert [process.stderr.readline() for _ in range(2)] == ["begun\n"] * 2
        process.send_signal(signal.SIGINT)
        assert "finishing 2, 2 not started" in process.stderr.readline()
        children = family(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "terminating 2" in err
    assert outcomes(out) == ["cancelled"] * 2
    assert children
    assert not family(process.pid)


def test_a_third_signal_kills_what_will_not_end(command):
    with command.running("map", "tasks:stubborn", "-j", "1", "--grace", "1h", "a") as process:
        assert process.stderr.readline() == "begun\n"
        for word in ("finishing 1", "terminating 1", "killing 1"):
            process.send_signal(signal.SIGINT)
            assert word in process.stderr.readline()
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert outcomes(out) == ["cancelled"]


def test_a_signal_ends_a_run_whose_input_blocks(command):
    with command.running("map", "tasks:double", stdin=subprocess.PIPE) as process:
        process.stdin.write("a\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["value"] == "aa"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "finishing 0, the rest not started" in process.stderr.read()


def test_a_killed_command_leaves_no_process(command):
    with command.running("map", "tasks:sleeps", "-j", "1", "a") as process:
        assert process.stderr.readline() == "begun\n"
        process.kill()
        process.stderr.read()  # ends with the last process that has it
