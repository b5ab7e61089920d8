"""Private attributes of `ProcessPoolExecutor` that deployed code uses.

Such code ends hanging workers by `executor._processes`, or reads `executor._broken`. Here these are views, made on each
access from the present state; nothing is kept for them.
"""

from __future__ import annotations

import time

from procbackground._load import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from multiprocessing.context import BaseContext
    from typing import Any

    from procbackground._state.fleet import Worker
    from procbackground._supervisor.supervisor import Supervisor

START_S = 10.0  # for processes that were asked for to have started
LOOK_S = 0.001


class WorkerView:
    """A worker process, with those methods of `multiprocessing.Process` that make sense from outside."""

    def __init__(self, worker: Worker) -> None:
        load("psutil")
        import psutil  # which recognises a pid that is used again

        self._worker = worker
        self.pid = worker.pid
        self.name = f"procbackground-worker-{worker.number}"
        self._process: psutil.Process | None
        try:
            self._process = psutil.Process(worker.pid)
        except psutil.NoSuchProcess:
            self._process = None

    @property
    def exitcode(self) -> int | None:
        """The exit code, once it is known."""
        return self._worker.death.exit_code

    def is_alive(self) -> bool:
        import psutil

        try:
            return self._process is not None and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, `timeout` seconds at the most."""
        import psutil

        if self._process is not None:
            psutil.wait_procs([self._process], timeout)

    def terminate(self) -> None:
        """Send SIGTERM, as another process might: the running task fails with `WorkerDiedError`."""
        self._signal("terminate")

    def kill(self) -> None:
        """Send SIGKILL, likewise."""
        self._signal("kill")

    def _signal(self, how: str) -> None:
        import psutil

        if self.is_alive():
            try:
                getattr(self._process, how)()
            except psutil.NoSuchProcess:
                pass  # it has ended already

    def __repr__(self) -> str:
        return f"<WorkerView {self.name} pid={self.pid}>"


class ExecutorInternals:
    """The attributes themselves; `Manager` has them by inheritance."""

    _supervisor: Supervisor

    @property
    def _processes(self) -> dict[int | None, WorkerView]:
        """The living workers by pid, those included that were asked for: waits until these have started."""
        fleet = load("procbackground._state.fleet")
        until_s = time.monotonic() + START_S
        while True:
            workers = self._supervisor.living_workers()
            if all(worker.state != fleet.STARTING for worker in workers) or time.monotonic() >= until_s:
                return {worker.pid: WorkerView(worker) for worker in workers if worker.pid}
            time.sleep(LOOK_S)

    @property
    def _executor_manager_thread(self) -> threading.Thread | None:
        return self._supervisor.thread

    @property
    def _mp_context(self) -> BaseContext:
        return self._supervisor.context

    @property
    def _broken(self) -> Any:
        """False, or why no worker can be started any more. The death of a worker does not break a manager."""
        return self._supervisor.broken_text or False
