"""Tasks that write to standard output and standard error: from Python, from C, and from processes that they start."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from procbackground import current
from tests.support.gate import Address, stop_at_gate, tell_gate


def say(text: str) -> str:
    print(text)
    return text


def say_and_fail(text: str) -> None:
    print(text, f"attempt {current().attempt}")
    raise ValueError(text)


def say_and_die(text: str) -> None:
    print(text)
    print(text, "on stderr", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGKILL)


def end_as(how: str) -> None:
    """End the process without a word to Python."""
    if how == "exit":
        os._exit(3)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "segfault":
        ctypes.string_at(0)
    else:
        os.abort()


def tell_stderr_and_end(how: str) -> None:
    """Write many lines, a progress bar with colours, and half a line to `sys.stderr`; then end."""
    for number in range(50):
        print("step", number, file=sys.stderr)
    for percent in (10, 20, 30):
        print(f"\r\x1b[31m{percent}%\x1b[0m", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    sys.stderr.write("half a \N{SNOWMAN}")
    end_as(how)


def tell_stderr_and_end_at(row: int, last: int) -> int:
    print("row", row, file=sys.stderr)
    if row == last:
        os._exit(1)
    return row


def tell_stderr(text: str) -> tuple[int, bool, str]:
    """Write to `sys.stderr`, and return which descriptor it is, whether a terminal, and where that leads."""
    print(text, file=sys.stderr)
    return sys.stderr.fileno(), sys.stderr.isatty(), os.readlink("/proc/self/fd/2")


def tell_stderr_and_hang(text: str) -> None:
    print(text, file=sys.stderr)
    time.sleep(60)


def fork_and_tell_stderr() -> None:
    """Write from a fork that outlives what this process writes, and end."""
    print("mine", file=sys.stderr)
    pid = os.fork()
    if not pid:
        print("of the fork", file=sys.stderr)
        os._exit(0)
    os.waitpid(pid, 0)
    os._exit(1)


def say_and_hang(text: str) -> None:
    print(text)
    time.sleep(60)


def say_everywhere() -> None:
    """Write in every way, one after the other."""
    print("python")
    print("python stderr", file=sys.stderr)
    os.write(1, b"descriptor\n")
    ctypes.CDLL(None).puts(b"C")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["sh", "-c", "echo process; echo process stderr >&2"], check=True)


def puts(text: str) -> None:
    """Write by C code, which holds it in its own buffer."""
    ctypes.CDLL(None).puts(text.encode())


def say_much(lines: int) -> None:
    for number in range(lines):
        print(f"line {number}")


def say_and_leave_a_process(address: Address) -> None:
    """Start a process that writes on and on, in a session of its own, and return while it does."""
    subprocess.Popen(["sh", "-c", "while echo stray; do :; done"], start_new_session=True)
    print("mine")
    tell_gate(address, None)


def close_stdout() -> None:
    print("before")
    sys.stdout.flush()
    os.close(1)
    os.close(2)


def replace_stdout(path: str) -> None:
    """Let descriptor 1 lead elsewhere, and leave it so."""
    print("before", flush=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(fd, 1)
    os.close(fd)
    print("elsewhere", flush=True)


def say_and_stop(address: Address, text: str) -> None:
    print(text)
    stop_at_gate(address)


def say_halves(text: str) -> None:
    """Write one line in two parts."""
    os.write(1, text[:4].encode())
    os.write(1, text[4:].encode() + b"\n")


def say_without_end(text: str) -> None:
    sys.stdout.write(text)


def fork_and_say() -> None:
    pid = os.fork()
    if not pid:
        os.write(1, b"child\n")
        os._exit(0)
    os.waitpid(pid, 0)


def read(path: Path) -> str:
    return path.read_text()
