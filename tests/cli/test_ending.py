"""Ctrl-C and other signals: once finishes what runs, twice terminates it, three times kills it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

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


@pytest.mark.parametrize(
    "line", [("map", "tasks:sleeps", "-j", "1", ":::", "a", ":::", "0.5"), ("loop", "tasks:sleeps", "a", "0.5")]
)
def test_a_request_that_is_sent_twice_is_one_request(command, line):
    """`timeout` signals the process and then its group; systemd's SendSIGHUP sends another signal right behind."""
    with command.running(*line) as process:
        assert process.stderr.readline() == "begun\n"
        process.send_signal(signal.SIGSTOP)  # so that both are there when it goes on
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    assert process.returncode in (130, 143)  # which of the two is heard first is not defined
    assert "finishing" in err
    assert "terminating" not in err


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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line_in_every_command(command, unbuffered):
    command("map", "tasks:picky", "-q", "--journal", "j.sqlite", "bad")
    for arguments in (
        ["--help"], ["--version"], ["map", "tasks:double", "a", "--dry-run"], ["journal", "show", "j.sqlite"],
        ["journal", "export", "j.sqlite", "--format", "csv"], ["journal", "report", "j.sqlite"],
        ["journal", "failed", "--json", "j.sqlite"], ["journal", "export", "j.sqlite", "-o", "/dev/full"],
    ):  # fmt: skip
        command.environment["PYTHONUNBUFFERED"] = unbuffered
        with open("/dev/full", "w") as full, command.running(*arguments, stdout=full) as process:
            said = process.communicate(timeout=60)[1]
        assert (said.count("\n"), process.returncode) == (1, 255), said
        assert "the output cannot be written: No space left on device" in said


@pytest.mark.parametrize("what", ["show", "failed", "export", "report"])
def test_journal_commands_do_without_standard_output(command, what):
    command("map", "tasks:double", "-q", "--journal", "j.sqlite", "a")
    line = f"{sys.executable} -m procbackground journal {what} j.sqlite >&-"
    ran = subprocess.run(
        ["sh", "-c", line], cwd=command.folder, env=command.environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
