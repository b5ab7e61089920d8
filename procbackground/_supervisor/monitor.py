"""Memory and CPU of each worker's process tree: enforces `memory_limit`, takes samples, and reads the free memory.

The monitor's thread sleeps while no running task has a limit, no observer wants samples and no task
waits for free memory. Otherwise it measures the more often the nearer a tree is to its limit. It uses less than one
hundredth of a core: the pause after a measurement is in proportion to the measurement's cost.

The sum of the RSS of a tree's processes is cheap, and counts pages that they share (after a fork) once for each, and
pages of the files that they map. While it is below the limit, so is the tree. Above it, and now and then for the peak,
what the tree really holds is measured: see `without_files` and `held_bytes` of the platform.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from procbackground import _platform
from procbackground._log import logger
from procbackground._named import NamedTuple
from procbackground._platform.trees import Figures
from procbackground._state import fleet
from procbackground._state.fleet import Worker
from procbackground.task import NO_LIMIT

if _platform.IS_LINUX:
    from procbackground._platform import trees_linux as trees
else:
    from procbackground._platform import trees_portable as trees  # type: ignore[no-redef]


MIN_PAUSE_S = 0.01  # a task that allocates 1 GB/s is noticed 10 MB over its limit
MAX_PAUSE_S = 0.05  # the longest delay until a task that has started meanwhile is measured
FAST_BYTES_S = 4 << 30  # assumed rate of allocation: no measurement before a tree could reach its limit
SAMPLE_S = 0.25  # between two samples for observers
FREE_MEMORY_S = 0.05  # between two readings of the free memory
COST_SHARE = 250  # the pause is at least this many times the CPU time of a measurement
# The same for what a tree really holds, while the sum is over the limit: a twentieth of a core. A process that writes
# to shared pages makes the tree grow, and the sum does not show it.
CLOSE_SHARE = 20
HASTY_SHARE = 2  # and while the growth of the sum may have brought the tree over its limit


class Watched(NamedTuple):
    """A worker whose running task has a memory limit; `sequence` is the number of its request."""

    worker: Worker
    sequence: int
    limit_bytes: int


class _Record:
    """Measurements of a worker during one request."""

    __slots__ = (
        "cpu_before_s", "cpu_s", "held_bytes", "held_cost_s", "held_seen_s", "peak_bytes", "rss_bytes", "sequence",
    )  # fmt: skip

    def __init__(self, sequence: int, cpu_before_s: float) -> None:
        self.sequence = sequence
        self.cpu_before_s = cpu_before_s
        self.cpu_s = cpu_before_s
        self.peak_bytes = 0
        # What the tree really held when that was last measured, the sum of RSS then, when, and the CPU time it took.
        self.held_bytes = self.rss_bytes = 0
        self.held_seen_s = -NO_LIMIT
        self.held_cost_s = 0.0

    def measure(self, seen: Figures, limit_bytes: int) -> tuple[int, float]:
        """Return what a tree holds, and the CPU time that it took to find out which pages are shared.

        Shared pages count once, as it was when the costs last allowed to measure it. Pages of files do not count, but
        may be in a result that is not over the limit.
        """
        if seen.rss_bytes > limit_bytes:
            seen = trees.without_files(seen)
        if len(seen.members) == 1:
            return seen.rss_bytes, 0.0
        share, cost_s = COST_SHARE, 0.0
        if seen.rss_bytes > limit_bytes:
            has_grown_over = self.held_bytes + seen.rss_bytes - self.rss_bytes > limit_bytes
            share = HASTY_SHARE if has_grown_over else CLOSE_SHARE
        if time.monotonic() >= self.held_seen_s + share * self.held_cost_s:
            began_s = time.thread_time()
            without = trees.without_files(seen)  # here in any case: growth is the difference of two of the same kind
            self.held_bytes, self.rss_bytes = trees.held_bytes(without), without.rss_bytes
            self.held_cost_s = cost_s = time.thread_time() - began_s
            self.held_seen_s = time.monotonic()
        return max(self.held_bytes, *seen.members.values()), cost_s


class Monitor:
    """The monitor's thread, and the latest measurements of each worker."""

    def __init__(
        self,
        name: str,
        limited: Callable[[], list[Watched]],
        over_limit: Callable[[Watched, int], None],
        take_samples: Callable[[], bool] | None,
        see_free_memory: Callable[[], bool],
    ) -> None:
        self._name = name
        self._limited = limited
        self._over_limit = over_limit  # called with a worker and the size of its tree in bytes
        # These return whether to call them again. None: no observer wants samples.
        self._take_samples = take_samples
        self._see_free_memory = see_free_memory
        self._records: dict[Worker, _Record] = {}
        self._changed = threading.Condition()
        self._is_wanted = False
        self._is_parked = False
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._next_sample_s = 0.0
        self._next_look_at_memory_s = 0.0

    def request_watch(self) -> bool:
        """Measure from now on: a task is about to run or waits for memory. Return False if no thread can be started."""
        if self._is_wanted:
            return True
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=f"{self._name}-monitor", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    logger.warning("memory cannot be watched now: %s", error)
                    return False
                self._thread = thread
            self._is_wanted = True
            if self._is_parked:
                self._changed.notify()
        return True

    def stop(self, timeout_s: float) -> bool:
        """End the thread; return False where it is still at work after `timeout_s`."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- measurements --------------------------------------------------------------------------------------

    def note(self, worker: Worker, sequence: int, figures: Figures) -> None:
        """Record a sample of the worker's tree during its request number `sequence`."""
        record = self._record_of(worker, sequence, figures)
        record.peak_bytes = max(record.peak_bytes, figures.rss_bytes)

    def _record_of(self, worker: Worker, sequence: int, figures: Figures) -> _Record:
        record = self._records.get(worker)
        if record is None or record.sequence != sequence:
            # A process used nothing before its first request; before a later one, the last measurement is close enough.
            before_s = 0.0 if sequence == 1 else figures.cpu_s if record is None else record.cpu_s
            record = self._records[worker] = _Record(sequence, before_s)
        record.cpu_s = max(record.cpu_s, figures.cpu_s)
        return record

    def cost_of_the_dead(
        self, worker: Worker, sequence: int, used_s: float | None, peak_bytes: int
    ) -> tuple[float | None, int | None]:
        """Return CPU seconds and peak bytes of the request during which the worker died, None for unknown ones.

        `used_s` are the worker's `cpu_seconds`; `peak_bytes` is the peak from another source, 0 for unknown.
        """
        record = self._records.pop(worker, None)
        cpu_s = None
        if record is not None and record.sequence == sequence:
            cpu_s = max(record.cpu_s, used_s or 0.0) - record.cpu_before_s
            peak_bytes = max(peak_bytes, record.peak_bytes)
        elif sequence == 1:
            cpu_s = used_s
        return cpu_s, peak_bytes or None

    # -- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        followed = trees.Trees()
        due_s = NO_LIMIT
        while self._wait_until(due_s):
            try:
                due_s = min(self._watch(followed), self._sample(), self._look_at_free_memory())
            except OSError:
                due_s = time.monotonic() + MAX_PAUSE_S  # no descriptor is left to read /proc with
            except Exception:
                logger.exception("measuring the workers' memory failed; it will be tried again")
                due_s = time.monotonic() + MAX_PAUSE_S
            if due_s == NO_LIMIT:
                followed.close()
        followed.close()

    def _wait_until(self, due_s: float) -> bool:
        """Wait until `due_s`, or without a due time until `request_watch` is called; return False when stopping."""
        with self._changed:
            if due_s == NO_LIMIT:
                self._is_parked = True
                self._changed.wait_for(lambda: self._is_stopping or self._is_wanted)
                self._is_parked = False
            else:
                self._changed.wait_for(lambda: self._is_stopping, max(0.0, due_s - time.monotonic()))
            # Requests from here on are served in the next pass: this pass may not see the tasks that they are for.
            self._is_wanted = False
            return not self._is_stopping

    def _watch(self, followed: trees.Trees) -> float:
        """Measure the workers with a limit; return when to measure again."""
        began_s = time.thread_time()
        watched = self._limited()
        if not watched:
            return NO_LIMIT
        figures = followed.look([each.worker.pid for each in watched])
        pause_s = MAX_PAUSE_S
        paced_s = followed.survey_cost_s  # CPU time that has pauses of its own
        near_s = 0.0  # that it took to look closer at trees whose sum is over their limit
        for each in watched:
            seen = figures.get(each.worker.pid)
            if seen is None:
                continue
            asked_s = time.thread_time()
            record = self._record_of(each.worker, each.sequence, seen)
            held_bytes, measured_s = record.measure(seen, each.limit_bytes)
            record.peak_bytes = max(record.peak_bytes, held_bytes)
            paced_s += measured_s
            if seen.rss_bytes > each.limit_bytes:
                near_s += time.thread_time() - asked_s - measured_s
            if held_bytes > each.limit_bytes:
                self._over_limit(each, held_bytes)
            else:
                pause_s = min(pause_s, (each.limit_bytes - held_bytes) / FAST_BYTES_S)
        for worker in [worker for worker in list(self._records) if worker.state == fleet.GONE]:
            self._records.pop(worker, None)
        cost_s = time.thread_time() - began_s - paced_s - near_s
        return time.monotonic() + max(MIN_PAUSE_S, pause_s, COST_SHARE * cost_s, CLOSE_SHARE * near_s)

    def _sample(self) -> float:
        if self._take_samples is None:
            return NO_LIMIT
        now_s = time.monotonic()
        if now_s >= self._next_sample_s:
            began_s = time.thread_time()
            if not self._take_samples():
                return NO_LIMIT
            cost_s = time.thread_time() - began_s
            self._next_sample_s = time.monotonic() + max(SAMPLE_S, COST_SHARE * cost_s)
        return min(self._next_sample_s, now_s + MAX_PAUSE_S)

    def _look_at_free_memory(self) -> float:
        now_s = time.monotonic()
        if now_s >= self._next_look_at_memory_s:
            if not self._see_free_memory():
                self._next_look_at_memory_s = 0.0
                return NO_LIMIT
            self._next_look_at_memory_s = now_s + FREE_MEMORY_S
        return min(self._next_look_at_memory_s, now_s + MAX_PAUSE_S)


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds of a process over its life, also of a zombie that has not been reaped."""
    return trees.cpu_seconds(pid)


def sample(pids: Collection[int]) -> dict[int, Figures]:
    """Return the figures of each pid's tree, by one pass over the process table. Ended processes are left out.

    Pages that the processes of a tree share count once.
    """
    return {pid: seen._replace(rss_bytes=trees.resident_bytes(seen)) for pid, seen in trees.survey(pids).items()}


def held(pids: Collection[int]) -> dict[int, int]:
    """Return what each pid's tree holds, without the pages of files, by one pass over the process table."""
    return {pid: trees.held_bytes(seen) for pid, seen in trees.survey(pids).items()}
