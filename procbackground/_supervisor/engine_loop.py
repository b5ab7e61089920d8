"""The supervisor of a manager with an engine: decides, judges and settles here; attempts run on the engine's nodes.

The loop is the same as without. In place of processes it has `places`, and in place of pipes the engine's reports.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from procbackground._log import logger
from procbackground._state import commands as c
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.places import PlaceScheduler
from procbackground._supervisor import views, views_of_nodes
from procbackground._supervisor.breakage import Breakage
from procbackground._supervisor.loop import Loop
from procbackground._supervisor.place import Place, PlaceLauncher
from procbackground._supervisor.places import Places
from procbackground._supervisor.process import Launcher
from procbackground._supervisor.relay import parent_levels
from procbackground._supervisor.supervisor import Supervisor
from procbackground._supervisor.workers import Workers
from procbackground._wire import attempts as w
from procbackground._wire.mainmodule import main_by_value
from procbackground._wire.pickling import dumps, text_of
from procbackground.errors import ProcbackgroundError, SerializationError
from procbackground.report import ProcessInfo

if TYPE_CHECKING:
    from procbackground._supervisor.options import Options


CLOSE_S = 2.0  # for the engine to tell the nodes that the manager is gone


class EngineLoop(Loop):
    """The thread of a manager with an engine, and what its engine reports to."""

    make_scheduler = PlaceScheduler
    scheduler: PlaceScheduler
    workers: Places  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, owner: Any, options: Options) -> None:
        assert options.engine is not None
        self.engine = options.engine
        self._settings = settings_of(options)
        # A place is ready at once. Nodes look after the starts, the memory and the lives of their own workers.
        here = options._replace(max_tasks_per_child=None, min_free_bytes=None, initializer=None, slots=None)
        super().__init__(owner, here)
        self.engine_is_over = False

    def _make_ready(self) -> None:
        self.engine.start(self.name, self._settings, self)
        super()._make_ready()

    def _make_workers(self) -> Workers:
        return Places(self)

    def make_launchers(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> tuple[Launcher, Callable[[], Launcher]]:
        launcher = PlaceLauncher(self)
        return launcher, lambda: launcher

    def clocks_of(self, worker: Worker) -> c.Clocks:
        """Nothing is ever late here: nodes look after timeouts and silence."""
        now_s = time.monotonic()
        return c.Clocks(now_s, now_s)

    def _step(self) -> None:
        super()._step()
        self.workers.flush()

    def _carry_out(self, command: c.Command) -> None:
        if not isinstance(command, c.ProcessGone):  # a place is no process
            super()._carry_out(command)

    def close_engine(self) -> None:
        """All attempts have ended."""
        self.engine_is_over = True
        if not self.engine.close(CLOSE_S):
            logger.warning("the engine has not closed within %s s", CLOSE_S)

    # -- what the engine reports, from any thread ----------------------------------------------------------

    def reports_came(self, reports: Sequence[w.Report]) -> None:
        self.inbox.put(lambda: self.workers.take(reports))

    def node_lost(self, number: int, reason: str) -> None:
        from procbackground.errors import NodeLostError

        self.inbox.put(lambda: self.workers.fail(number, NodeLostError(reason), is_poison=True))

    def not_run(self, number: int, reason: str) -> None:
        from procbackground.errors import WorkerStartError

        self.inbox.put(lambda: self.workers.fail(number, WorkerStartError(reason)))

    def engine_lost(self, reason: str) -> None:
        self.inbox.put(lambda: self._take_loss(reason))

    def _take_loss(self, reason: str) -> None:
        if self.engine_is_over or self.acceptance.breakage is not None:
            return
        from procbackground.errors import EngineLostError

        self.break_manager(_LostEngine(reason, False))
        self.workers.fail_all(lambda: EngineLostError(reason))

    def break_manager(self, breakage: Breakage) -> None:
        """Fail what waits, and refuse what comes."""
        if self.acceptance.breakage is None:
            self.acceptance.breakage = breakage
            self.acceptance.has_full_story = True
            self.scheduler.engine_failed(breakage.error(), time.monotonic())


class _LostEngine(Breakage):
    """Why nothing can be run any more."""

    def error(self, job: Job | None = None) -> ProcbackgroundError:
        from procbackground.errors import EngineLostError

        facts: dict[str, Any] = {} if job is None else {"task": job.handle.task, "attempt": job.attempt}
        return EngineLostError(self.message, **facts)


class EngineSupervisor(Supervisor):
    """What `Manager` calls where it has an engine."""

    make_loop = EngineLoop
    _loop: EngineLoop

    def is_running(self, job: Job) -> bool:
        """Whether an attempt of the job runs on a node, for all that is known here."""
        worker = job.worker
        place: Place | None = None if worker is None else worker.process
        return super().is_running(job) and place is not None and place.has_begun

    def processes(self) -> list[ProcessInfo]:
        """Return a snapshot of the processes of all nodes that answer within `ASK_S`."""
        self._acceptance.check_fork()
        return [] if self._is_quiet else self.run_aside(lambda: views_of_nodes.take_processes(self._loop))

    def stacks(self, job: Job | None = None) -> list[views.Running]:
        """Return the attempts that run now, or only that of `job`, each with its stacks if its node answers."""
        self._acceptance.check_fork()
        return [] if self._is_quiet else self.run_aside(lambda: views_of_nodes.take_stacks(self._loop, job))

    @property
    def _is_quiet(self) -> bool:
        """Whether no node has anything of this manager."""
        return not self._loop.is_ready or self._loop.engine_is_over or self._loop.acceptance.breakage is not None


def settings_of(options: Options) -> w.NodeSettings:
    """Return what nodes run attempts with. Raises: `SerializationError` for an initializer that cannot cross."""
    initializer = None
    if options.initializer is not None:
        try:
            with main_by_value():
                initializer = dumps(options.initializer)
        except Exception as error:
            raise SerializationError(f"the initializer or its arguments cannot be pickled: {text_of(error)}") from error
    of_nodes = ("max_tasks_per_child", "grace_s", "start_timeout_s", "min_free_bytes", "preload", "slots")
    facts = {name: getattr(options, name) for name in of_nodes}
    facts["context"] = options.context.get_start_method()
    return w.NodeSettings(w.own_version(), initializer, facts, options.setup, parent_levels())
