"""Memory and CPU of each worker's process tree: the watch over `memory_limit`, and `processes()` on request.

No tick while no running task has a limit and nobody asks for samples. Sampling keeps below one hundredth of a core:
a round that takes long makes the pause before the next one longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from procbackground import _platform
from procbackground._state.fleet import Worker

TICK_S = 0.02  # at 1 GB/s of allocation a task gets 20 MB past its limit before it is seen
SAMPLE_S = 0.25  # between two samples for observers
COST_SHARE = 100  # the pause is at least this many times what a round costs


class Monitor:
    """Watches the trees of workers whose task has a memory limit, and samples all that run for observers."""

    def __init__(
        self,
        name: str,
        limited: Callable[[], list[tuple[Worker, int, int]]],
        over_limit: Callable[[Worker, int, int], None],
        tell_samples: Callable[[], bool] | None,
    ) -> None:
        self._name = name
        self._limited = limited  # the workers to watch, each with the number of its request and its limit
        self._over_limit = over_limit  # told of a worker, that number, and the size of its tree in bytes
        self._tell_samples = tell_samples  # returns whether anything runs; None when nobody listens
        self._changed = threading.Condition()
        self._is_wanted = False
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def want(self) -> None:
        """A task that is to be watched is about to run."""
        if self._is_wanted:
            return
        with self._changed:
            self._is_wanted = True
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"{self._name}-monitor", daemon=True)
                self._thread.start()

    def stop(self, timeout_s: float) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s: float | None = None
        next_sample_s = 0.0
        while True:
            with self._changed:
                if not self._is_stopping and (pause_s is not None or not self._is_wanted):
                    self._changed.wait(pause_s)
                if self._is_stopping:
                    return
                self._is_wanted = True
            began_s = time.monotonic()
            watched = self._limited()
            for worker, sequence, limit in watched:
                rss_bytes = _platform.tree_rss_bytes(worker.pid)
                if rss_bytes > limit:
                    self._over_limit(worker, sequence, rss_bytes)
            is_sampled = False
            if self._tell_samples is not None:
                is_sampled = began_s < next_sample_s or self._tell_samples()
                if began_s >= next_sample_s:
                    next_sample_s = began_s + SAMPLE_S
            pause_s = max(TICK_S if watched else SAMPLE_S, (time.monotonic() - began_s) * COST_SHARE)
            if not watched and not is_sampled:
                with self._changed:
                    self._is_wanted = False
                # A task that was dispatched between the two looks found us wanted already.
                pause_s = TICK_S if self._limited() else None


def sample(pids: Iterable[int]) -> dict[int, tuple[int, float]]:
    """Return (resident bytes, CPU percent since its start; 100 is one core) of each pid's tree, by psutil.

    One pass over the process table, whatever the number of pids. Processes that ended meanwhile are left out.
    """
    import psutil

    wanted = set(pids)
    children: dict[int, list[psutil.Process]] = {}
    roots: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["ppid"]):
        if process.pid in wanted:
            roots[process.pid] = process
        children.setdefault(process.info["ppid"], []).append(process)
    figures = {}
    for pid, root in roots.items():
        rss_bytes, cpu_percent = 0, 0.0
        tree = [root]
        while tree:
            process = tree.pop()
            tree += children.get(process.pid, [])
            try:
                with process.oneshot():
                    rss_bytes += process.memory_info().rss
                    times = process.cpu_times()
                    age_s = max(1e-3, time.time() - process.create_time())
                cpu_percent += 100 * (times.user + times.system) / age_s
            except psutil.Error:
                continue
        if rss_bytes:
            figures[pid] = (rss_bytes, cpu_percent)
    return figures
