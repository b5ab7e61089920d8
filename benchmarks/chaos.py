"""Soak: short tasks by the ten thousand while workers, spares and the zygote are shot at, a shot each 50 ms.

    python -m benchmarks.chaos --seconds 60

One manager lives through all of it. Rounds with a retry, in which every result must be right, take turns with rounds
without, in which exactly the tasks of the shot workers may fail. Each task counts its beginnings and ends in a ledger
in shared memory, so that a task that is lost, doubled, or failed though nobody shot at it is found. In the end there
must be no zombie, descriptor or thread more than before, and the parent's memory must have stayed flat. Exits with 1
and says what was violated, if anything was.
"""

from __future__ import annotations

import argparse
import gc
import mmap
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from typing import Any, NamedTuple

import psutil
from tenacity import stop_after_attempt

from benchmarks import tasks
from procbackground import Manager, Retry, TaskHandle, TaskTimeoutError, WorkerDiedError

SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)
BETWEEN_SHOTS_S = 0.05
TASK_S = (0.0004, 0.0014)  # about 1 ms with the dispatch: some are sent ahead of their turn, and some are not
TIMEOUT_S = 0.5  # frees the place of a worker that was stopped; 500 times what a task takes
GRACE_S = 0.2
ATTEMPTS = 1000  # more than anybody could shoot down
ROUND_S = 180.0  # a round takes about 15; past this its tasks count as lost
SETTLE_S = 5.0  # for the last processes to be collected
GROWTH_LIMIT = 8 << 20  # bytes of the parent between the end of the second pair of rounds and the last


class Shot(NamedTuple):
    """A signal that was sent: when (monotonic), to whom, and what that process was."""

    at_s: float
    pid: int
    signal_number: int
    role: str


class Shooter(threading.Thread):
    """Sends a random signal to a random process of the manager every now and then."""

    def __init__(self, manager: Manager, workers: int, chance: random.Random, shots: list[Shot]) -> None:
        super().__init__(name="shooter", daemon=True)
        self.shots = shots  # of earlier rounds, too: a worker that was stopped while idle takes a task of the next one
        self._manager = manager
        self._workers = workers
        self._chance = chance
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(BETWEEN_SHOTS_S):
            targets = [
                (process.pid, "idle" if process.task is None else "busy") for process in self._manager.processes()
            ]
            # The zygote's share is what it is with all workers there: with none there it would get every shot, and
            # die each time before it is ready.
            if self._chance.randrange(self._workers + 1) == 0:
                targets = [(pid, "zygote") for pid in zygotes()]
            if targets:
                pid, role = self._chance.choice(targets)
                self._shoot(pid, self._chance.choice(SIGNALS), role)

    def _shoot(self, pid: int, signal_number: int, role: str) -> None:
        # Noted first: what the shot does may be seen at once.
        self.shots.append(Shot(time.monotonic(), pid, signal_number, role))
        try:
            os.kill(pid, signal_number)
        except ProcessLookupError:
            self.shots.pop()

    def stop(self) -> None:
        self._is_over.set()
        self.join()


class Ledger:
    """A file in memory where each task counts how often it began and ended; wraps at 256, which no task reaches."""

    def __init__(self, count: int) -> None:
        fd, self.path = tempfile.mkstemp(prefix="procbackground-chaos-", dir=_memory_folder())
        os.truncate(fd, 2 * count)
        self._counts = mmap.mmap(fd, 2 * count)
        os.close(fd)

    def begun(self, index: int) -> int:
        return self._counts[2 * index]

    def ended(self, index: int) -> int:
        return self._counts[2 * index + 1]

    def close(self) -> None:
        self._counts.close()
        os.unlink(self.path)


class Round(NamedTuple):
    """How a round went."""

    seconds: float
    succeeded: int
    failed: int
    attempts: int
    violations: list[str]


def run_round(manager: Manager, shooter: Shooter, count: int, *, retries: bool) -> Round:
    """Run `count` tasks and hold what became of each against the ledger and the shots."""
    ledger = Ledger(count)
    chance = random.Random(count)
    door = manager if retries else manager.options(retry=1)
    began_s = time.monotonic()
    handles: list[TaskHandle[int]] = [
        door.run(tasks.square_and_note, ledger.path, index, chance.uniform(*TASK_S)) for index in range(count)
    ]
    until_s = began_s + ROUND_S
    violations: list[str] = []
    unresolved = 0
    for handle in handles:
        try:
            handle.exception(timeout=max(0.0, until_s - time.monotonic()))
        except TimeoutError:
            unresolved += 1
    seconds = time.monotonic() - began_s
    if unresolved:
        violations.append(f"{unresolved} tasks never resolved; {manager.stats()}; {manager.processes()}")
    else:
        victims = {shot.pid: shot.signal_number for shot in shooter.shots if shot.role != "zygote"}
        frozen = {shot.pid for shot in shooter.shots if shot.signal_number == signal.SIGSTOP}
        check = _violations_with_retry if retries else _violations_without_retry
        violations += check(handles, ledger, victims, frozen)
    done = [handle for handle in handles if handle.done()]
    failed = sum(handle.exception() is not None for handle in done)
    attempts = sum(len(handle.attempts) for handle in done)
    ledger.close()
    return Round(seconds, len(done) - failed, failed, attempts, violations)


def _violations_with_retry(
    handles: Sequence[TaskHandle[int]], ledger: Ledger, victims: dict[int, int], frozen: set[int]
) -> list[str]:
    found = []
    charged: Counter[int | None] = Counter()
    for index, handle in enumerate(handles):
        error = handle.exception()
        if error is not None:
            found.append(f"task {index} failed in spite of its retries: {error!r}")
            continue
        if handle.result() != index * index:
            found.append(f"task {index} returned {handle.result()}")
        attempts = handle.attempts
        if not 1 <= ledger.begun(index) <= len(attempts):
            found.append(f"task {index} began {ledger.begun(index)} times in {len(attempts)} attempts")
        if not ledger.ended(index):
            found.append(f"task {index} succeeded and never ended")
        for attempt in attempts[:-1]:
            charged[attempt.pid] += 1
            found += _undeserved(index, attempt.error, attempt.pid, victims, frozen)
    return found + _doubly_charged(charged)


def _violations_without_retry(
    handles: Sequence[TaskHandle[int]], ledger: Ledger, victims: dict[int, int], frozen: set[int]
) -> list[str]:
    found = []
    charged: Counter[int | None] = Counter()
    for index, handle in enumerate(handles):
        begun, ended = ledger.begun(index), ledger.ended(index)
        error = handle.exception()
        if begun > 1:
            found.append(f"task {index} ran {begun} times without a retry")
        if error is None:
            if handle.result() != index * index or (begun, ended) != (1, 1):
                found.append(f"task {index} returned {handle.result()}, begun {begun} and ended {ended} times")
            continue
        pid = getattr(error, "pid", None)
        charged[pid] += 1
        found += _undeserved(index, error, pid, victims, frozen)
    return found + _doubly_charged(charged)


def _undeserved(
    index: int, error: BaseException | None, pid: int | None, victims: dict[int, int], frozen: set[int]
) -> list[str]:
    """Return what is wrong with an attempt's failure: it must be that of the worker that was shot."""
    if pid not in victims:
        return [f"task {index} failed in process {pid}, at which nobody shot: {error!r}"]
    if isinstance(error, TaskTimeoutError):
        return [] if pid in frozen else [f"task {index} timed out in process {pid}, which nobody stopped: {error}"]
    if not isinstance(error, WorkerDiedError):
        return [f"task {index} failed in a way of its own: {error!r}"]
    # None: the zygote was shot before it could tell.
    if error.exit_code not in (None, -signal.SIGKILL, -signal.SIGTERM):
        return [f"task {index}: its worker ended with exit code {error.exit_code}"]
    return []


def _doubly_charged(charged: Counter[int | None]) -> list[str]:
    return [f"the death of process {pid} cost {count} tasks" for pid, count in charged.items() if count > 1]


def soak(seconds: float, count: int, workers: int, seed: int) -> list[str]:
    """Run rounds of `count` tasks for about `seconds`, at least one of each kind; print and return the violations."""
    _warm_helpers()
    before = _alive()
    chance = random.Random(seed)
    violations: list[str] = []
    sizes: list[int] = []
    shots: list[Shot] = []
    began_s = time.monotonic()
    manager = Manager(
        max_workers=workers, retry=Retry(stop=stop_after_attempt(ATTEMPTS)), timeout=TIMEOUT_S, grace=GRACE_S
    )
    # A manager whose first zygotes all die gives up after eight. On a slow machine the shots alone would do that.
    manager.run(pow, 2, 10).result(timeout=ROUND_S)
    number = 0
    print(f"{count} tasks a round, {workers} workers, a shot each {BETWEEN_SHOTS_S * 1000:.0f} ms, seed {seed}")
    while number < 2 or (time.monotonic() - began_s < seconds and not violations):
        retries = number % 2 == 0
        number += 1
        shooter = Shooter(manager, workers, chance, shots)
        shots_before = len(shots)
        shooter.start()
        outcome = run_round(manager, shooter, count, retries=retries)
        shooter.stop()
        violations += [f"round {number}: {text}" for text in outcome.violations]
        if not retries:
            gc.collect()
            sizes.append(psutil.Process().memory_info().rss)
        print(
            f"round {number:3} {'with' if retries else 'without':7} retry: {outcome.succeeded} right, "
            f"{outcome.failed} failed, {outcome.attempts - count} attempts more, {len(shots) - shots_before} shots, "
            f"{outcome.seconds:.1f} s, {psutil.Process().memory_info().rss / 2**20:.1f} MiB, "
            f"{len(outcome.violations)} violations",
            flush=True,
        )
    stats = manager.stats()
    close_began_s = time.monotonic()
    report = manager.close(timeout=10.0)
    close_s = time.monotonic() - close_began_s
    if report.leftovers:
        violations.append(f"processes left by close: {report.leftovers}")
    del manager
    violations += _left_over(before)
    if len(sizes) >= 3 and sizes[-1] - sizes[1] > GROWTH_LIMIT:
        violations.append(f"the parent grew: {[f'{size / 2**20:.1f} MiB' for size in sizes]}")
    roles = Counter((shot.role, shot.signal_number) for shot in shots)
    _print_summary(roles, sizes, stats, close_s, time.monotonic() - began_s)
    return violations


def _print_summary(
    roles: Counter[tuple[str, int]], sizes: Sequence[int], stats: Any, close_s: float, seconds: float
) -> None:
    print(f"{seconds:.0f} s, {stats.added} tasks: {stats.succeeded} right, {stats.failed} failed without a retry")
    print(f"{stats.retried} retries, {stats.respawned} workers replaced")
    for role in ("busy", "idle", "zygote"):
        shots = ", ".join(f"{signal.Signals(each).name} {roles[role, each]}" for each in SIGNALS)
        print(f"shots at {role + ' workers' if role != 'zygote' else 'the zygote'}: {shots}")
    print(f"parent's memory after each pair of rounds, MiB: {', '.join(f'{size / 2**20:.1f}' for size in sizes)}")
    print(f"closed in {close_s:.2f} s")


# -- what is alive ----------------------------------------------------------------------------------------------


def zygotes() -> list[int]:
    """Return the pids of the zygotes of this process: those that the fork server has started, and one that had a head
    start."""
    pids: list[int | None] = []
    for each in multiprocessing.active_children():
        with suppress(ValueError):  # it was closed meanwhile
            if each.name == "procbackground-zygote":
                pids.append(each.pid)
    server = getattr(forkserver._forkserver, "_forkserver_pid", None)  # type: ignore[attr-defined]
    if server is not None:
        try:  # earlier than `multiprocessing` knows of them
            with open(f"/proc/{server}/task/{server}/children", encoding="ascii") as file:
                pids += map(int, file.read().split())
        except OSError:
            pass
    return list({pid for pid in pids if pid is not None})


def _warm_helpers() -> None:
    """Start `multiprocessing`'s own helpers, which stay as long as the interpreter."""
    with Manager(max_workers=1) as manager:
        manager.run(pow, 2, 10).result(timeout=60)
    forkserver.ensure_running()  # the first manager of a program may have done without


class _Alive(NamedTuple):
    threads: int
    descriptors: int
    processes: int


def _alive() -> _Alive:
    helpers = {
        getattr(forkserver._forkserver, "_forkserver_pid", None),  # type: ignore[attr-defined]
        getattr(resource_tracker._resource_tracker, "_pid", None),  # type: ignore[attr-defined]
    }
    children = [child for child in psutil.Process().children(recursive=True) if child.pid not in helpers]
    return _Alive(threading.active_count(), len(os.listdir("/proc/self/fd")), len(children))


def _left_over(before: _Alive) -> list[str]:
    """Return what is more than `before`, zombies included, once the last processes had time to be collected."""
    until_s = time.monotonic() + SETTLE_S
    while True:
        gc.collect()
        now = _alive()
        left = [
            f"{name} before {then}, after {after}"
            for name, then, after in zip(_Alive._fields, before, now, strict=True)
            if after > then
        ]
        if not left or time.monotonic() > until_s:
            print(f"left over: {', '.join(left) if left else 'no process, zombie, thread or descriptor'}")
            return left
        time.sleep(0.02)


def _memory_folder() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long rounds are begun; default 60")
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks of a round; default 20,000")
    parser.add_argument("--workers", type=int, default=8, help="default 8: most are frozen at any time")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the shots; default: the time")
    options = parser.parse_args()
    violations = soak(options.seconds, options.tasks, options.workers, options.seed)
    for text in violations[:40]:
        print(f"VIOLATION: {text}")
    if violations:
        print(f"{len(violations)} violations")
        return 1
    print("every task accounted for")
    return 0


if __name__ == "__main__":
    sys.exit(main())
