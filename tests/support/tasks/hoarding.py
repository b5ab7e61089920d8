"""Tasks that take memory, by themselves or in grandchildren, or fill a disk."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
import time

from tests.support.gate import Address, stop_at_gate

MIB = 1 << 20


def hoard(size: int, step: int = 4 * MIB) -> int:
    """Take `size` bytes, a GB a second at most, and hold them for a while, or until stopped."""
    held = []
    for _ in range(size // step):
        held.append(b"\x01" * step)
        time.sleep(0.004)
    time.sleep(30)
    return len(held)


HOG = (
    "import mmap, sys, time\n"
    "size, step = int(sys.argv[1]), 1 << 22\n"
    "memory, ones = mmap.mmap(-1, size), b'1' * step\n"
    "for at in range(0, size, step):\n"
    "    memory[at : at + step] = ones\n"
    "time.sleep(30)\n"
)


def hog(size: int) -> None:
    """Touch `size` bytes as fast as the kernel gives pages, and hold them for a while."""
    memory, step = mmap.mmap(-1, size), 4 * MIB
    ones = b"1" * step
    for at in range(0, size, step):
        memory[at : at + step] = ones
    time.sleep(30)


def hog_in_a_grandchild(size: int, in_a_thread: bool = False) -> None:
    """Have another program do the same, started by the main thread or by another one."""

    def start() -> None:
        subprocess.run([sys.executable, "-S", "-c", HOG, str(size)], check=False)

    if in_a_thread:
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    else:
        start()


def hog_as_an_orphan(size: int, new_session: bool = False) -> None:
    """Have a process do the same whose parent, started by us, ends at once."""
    popen = f"Popen([sys.executable, '-S', '-c', *sys.argv[1:]], start_new_session={new_session})"
    code = f"import subprocess, sys; subprocess.{popen}"
    subprocess.run([sys.executable, "-S", "-c", code, HOG, str(size)], check=True)
    time.sleep(30)


def hold_and_stop_at_gate(address: Address, size: int) -> int:
    held = b"1" * size
    stop_at_gate(address)
    return len(held)


def map_file_and_stop_at_gate(address: Address, path: str, forks: int, writes: bool) -> int:
    """Map a file privately, read all of it or write to it, have so many forks do the same, and stop at the gate."""
    children: list[int] = []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        try:
            for _ in range(forks):
                is_ready, tells = os.pipe()
                pid = os.fork()
                if pid == 0:
                    _touch(view, writes)
                    os.write(tells, b".")
                    time.sleep(60)
                    os._exit(0)
                children.append(pid)
                os.read(is_ready, 1)
                os.close(is_ready)
                os.close(tells)
            touched = _touch(view, writes)
            stop_at_gate(address)
            return touched
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _touch(view: mmap.mmap, writes: bool) -> int:
    for at in range(0, len(view), mmap.PAGESIZE):
        if writes:
            view[at] = 1
        else:
            view[at]
    return len(view)


def hoard_in_a_grandchild(size: int) -> int:
    code = f"import time; held = b'1' * {size}; time.sleep(30)"
    return subprocess.run([sys.executable, "-S", "-c", code], check=False).returncode


def fill_disk(folder: str) -> None:
    """Write to a file in `folder` until its disk is full."""
    path = os.path.join(folder, "full")
    try:
        with open(path, "wb", buffering=0) as file:
            while True:
                file.write(bytes(MIB))
    finally:
        os.unlink(path)


def share_with_forks(address: Address, size: int, forks: int, writes: bool) -> int:
    """Hold `size` bytes, which forks share, or copy because they write to them; stop at the gate meanwhile."""
    held = bytearray(b"\x01") * size
    children = []
    for _ in range(forks):
        pid = os.fork()
        if pid == 0:
            if writes:
                held[::4096] = b"\x02" * len(held[::4096])
            time.sleep(60)
            os._exit(0)
        children.append(pid)
    try:
        stop_at_gate(address)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return len(held)
