"""What the workers run: small functions in a module that imports next to nothing.

Every library's children import this module by name, some of them once per task, so its imports are part of
what a fresh process costs. numpy arrays are only handled through their methods for the same reason.
"""

import mmap
import os
import time
from typing import Any

INT64S_PER_PAGE = 512  # 4 KiB pages; reading one number of each makes the kernel deliver all of them


def nothing() -> None:
    """Do nothing: what is left is the price of the dispatch."""


def echo(value: Any) -> Any:
    """Return the argument, so that the caller can tell a right answer from a wrong one."""
    return value


def add_one(number: int) -> int:
    """Return the next integer: the tiny item of the map measures."""
    return number + 1


def sleep_for(seconds: float) -> float:
    """Occupy a worker without occupying a core."""
    time.sleep(seconds)
    return seconds


def fail() -> None:
    """Raise: every attempt of this task fails."""
    raise ValueError("this task always fails")


def own_pid(_number: int) -> int:
    """Return the pid of the process that runs the task."""
    return os.getpid()


def monotonic_now() -> float:
    """Return `time.monotonic()`, which all processes of one machine share."""
    return time.monotonic()


def burn_cpu(seconds: float) -> float:
    """Compute until this thread has used so many seconds of CPU time; return how many it were."""
    began_s = time.thread_time()
    total = 0
    while (used_s := time.thread_time() - began_s) < seconds:
        for number in range(200):  # some 10 µs, so that looking at the clock is a small part
            total = (total * 31 + number) & 0xFFFF
    return used_s


def keep(value: Any) -> None:
    """Keep a value in this worker, as an initializer does."""
    _kept.append(value)


_kept: list[Any] = []


def read_some(array: Any, number: int) -> int:
    """Return the sum of three items of an array, or of the one that is kept here."""
    array = _kept[-1] if array is None else array
    return int(array[number]) + int(array[array.size // 2]) + int(array[-1])


def read_all(array: Any) -> int:
    """Return the sum of an array, or of the one that is kept here, and stay for a moment: each worker gets one."""
    array = _kept[-1] if array is None else array
    time.sleep(0.1)
    return int(array.sum())


def sum_of_pages(array: Any) -> int:
    """Return the sum of one int64 per memory page, so that every page has really arrived."""
    return int(array[::INT64S_PER_PAGE].sum())


def return_array(array: Any) -> Any:
    """Read every page of the array and send it back."""
    sum_of_pages(array)
    return array


def hold(folder: str, name: str) -> int:
    """Say where this task runs, then occupy its worker until `folder` holds a file called `release`."""
    announce_pid(folder, name)
    while not os.path.exists(os.path.join(folder, "release")):
        time.sleep(0.01)
    return os.getpid()


def hang_in_first_attempt(folder: str, name: str) -> float:
    """First attempt: say where this task runs and wait for death. A retry: return when it began."""
    began_s = time.monotonic()
    if os.path.exists(os.path.join(folder, name)):
        return began_s
    announce_pid(folder, name)
    time.sleep(600)  # longer than any run may take; the measure kills this process
    return began_s


def announce_pid(folder: str, name: str) -> None:
    """Leave a file `name` with this process's pid, complete from the moment it can be seen."""
    unfinished = os.path.join(folder, f".{name}")
    with open(unfinished, "w") as file:
        file.write(str(os.getpid()))
    os.rename(unfinished, os.path.join(folder, name))


_iterations = 0
_started_s = 0.0


def count_iteration(target: int, report_path: str) -> float | None:
    """Count one iteration of a loop; return the seconds since the first one when `target` is reached.

    With a `report_path` the loop being measured is a library's: the same body is then run again under a plain
    `while`, in the same process and a moment later, and both durations are written there, one a line.
    """
    global _iterations, _started_s
    _iterations += 1
    if _iterations == 1:
        _started_s = time.perf_counter()
    elif _iterations == target:
        took_s = time.perf_counter() - _started_s
        if report_path:
            _write_report(report_path, took_s, _seconds_of_bare_loop(target))
        return took_s
    return None


def _seconds_of_bare_loop(target: int) -> float:
    global _iterations
    _iterations = 0
    while (took_s := count_iteration(target, "")) is None:
        pass
    return took_s


def _write_report(path: str, *durations_s: float) -> None:
    with open(path + ".unfinished", "w") as file:
        file.write("\n".join(map(repr, durations_s)))
    os.rename(path + ".unfinished", path)


_ledgers: dict[str, mmap.mmap] = {}


def square_and_note(path: str, index: int, seconds: float) -> int:
    """Return the square of `index` after `seconds`; count the beginning and the end in the ledger at `path`."""
    ledger = _ledgers.get(path)
    if ledger is None:
        with open(path, "r+b") as file:
            ledger = _ledgers[path] = mmap.mmap(file.fileno(), 0)
    ledger[2 * index] += 1
    time.sleep(seconds)
    ledger[2 * index + 1] += 1
    return index * index
